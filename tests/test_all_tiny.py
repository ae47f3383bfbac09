"""One sweep runs every model of the catalogue, scaled down, and every number of it is valid."""

import subprocess
import time
from pathlib import Path

import pytest

from llmbench.models import resolve
from llmbench.results import store
from llmbench.results.record import Record, Status
from llmbench.spec import grid, sweep
from llmbench.spec.configs import folder
from sweeps import LLMBENCH, VALID

SWEEP = folder("sweeps") / "all-tiny.yaml"
BUILT = [name for name in resolve.catalogue() if resolve.entry(name).engines.transformers]
"""The models that transformers has a class for."""
AT_MOST_S = 600
"""On two cores; half of it is enough."""


def test_the_sweep_names_every_model_that_transformers_builds_and_nothing_else() -> None:
    named = grid.words(sweep.read_sweep(SWEEP).axes.model)

    assert named == [f"{name}@tiny" for name in BUILT]


@pytest.mark.slow
def test_every_model_of_the_catalogue_is_measured_within_ten_minutes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    began = time.monotonic()

    done = subprocess.run((*LLMBENCH, "sweep", SWEEP, "-o", run), check=False, capture_output=True)

    assert time.monotonic() - began < AT_MOST_S
    assert done.returncode in VALID, done.stdout[-2000:]
    records = [line for line in store.read(run) if isinstance(line, Record)]
    assert {record.status for record in records} == {Status.OK}
    assert {record.cell.model for record in records} == {f"{name}@tiny" for name in BUILT}
    assert len(records) == len(BUILT)
    memories = [record.outcome.memory for record in records]
    assert all(each and each.kv_cache_bytes for each in memories)
    assert {
        each and each.kv_cache_theoretical_bytes == each.kv_cache_bytes for each in memories
    } == {True}
    families = {resolve.resolve(record.cell.model).model_type for record in records}
    assert len(families) >= 30
