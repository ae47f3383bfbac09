"""Times from the nearest measured cell: what is taken from earlier runs, what is not, and when it is used."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmbench.machine.peaks import Probe
from llmbench.models import resolve
from llmbench.predict import estimate, nearest
from llmbench.predict.nearest import PastCell, Times
from llmbench.results import store
from llmbench.results.prediction import Prediction
from llmbench.spec.sweep import Cell, Protocol

RESULTS = Path(__file__).parents[1] / "results"
CPU_SMALL = RESULTS / "2026-11-30-xeon-2cpu-cpu-small"
WITHIN, SHARE = 2.0, 0.75
"""The promise: this share of cells is predicted within this factor, of TTFT and TPOT alike."""
CELL = Cell(
    id="one", model="pythia-160m", model_digest="", backend="transformers", options={}, device="cpu",
    dtype="float32", load_format="dummy", prompts="synthetic", batch_size=2, input_len=100, output_len=9,
)  # fmt: skip
PROBE = Probe(
    device="cpu", name="made up", at="today", torch="none", threads=2,
    copy_bytes_s=1e10, read_bytes_s={"float32": 1e10}, flops_s={"float32": 1e11}, step_s=2e-6,
)  # fmt: skip


def real_machine() -> dict[str, Any]:
    plan = store.read(CPU_SMALL).plan
    assert plan is not None
    return plan.machine


def cell(**changes: Any) -> Cell:
    return msgspec.structs.replace(CELL, **changes)


def past(ttft_s: float, tpot_s: float | None, **changes: Any) -> PastCell:
    return PastCell(cell(**changes), Times(ttft_s, tpot_s, "an earlier run"))


def times(one: Cell, *seen: PastCell) -> Times | None:
    return nearest.times(one, nearest.by_engine(seen))


def predicted(*seen: PastCell, probes: tuple[Probe, ...] = ()) -> Prediction:
    place = estimate.here(real_machine(), probes, seen)
    models = {CELL.model: resolve.resolve(CELL.model)}
    return estimate.predictions([CELL], models, Protocol(), place)["one"]


def test_each_real_cell_is_near_its_nearest_neighbour() -> None:
    measured = nearest.past_cells(RESULTS, real_machine())
    factors = []
    for number, one in enumerate(measured):
        told = times(one.cell, *measured[:number], *measured[number + 1 :])
        if told and told.tpot_s and one.times.tpot_s:
            factors.append((told.ttft_s / one.times.ttft_s, told.tpot_s / one.times.tpot_s))

    near = [pair for pair in factors if all(1 / WITHIN <= factor <= WITHIN for factor in pair)]

    assert len(factors) >= 27
    assert len(near) >= SHARE * len(factors)


def test_the_nearest_sizes_count_and_only_the_prefill_is_scaled() -> None:
    told = times(CELL, past(1.0, 0.1, batch_size=1), past(9.0, 0.9, batch_size=64))

    assert told == Times(2.0, 0.1, "an earlier run")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "pythia-70m"}, {"model_digest": "other"}, {"backend": "vllm"}, {"dtype": "bfloat16"},
        {"device": "cuda"}, {"options": {"cache": "static"}},
    ],
)  # fmt: skip
def test_another_model_or_engine_teaches_nothing(changes: dict[str, Any]) -> None:
    assert times(CELL, past(1.0, 0.1, **changes)) is None


def test_a_cell_of_one_token_says_nothing_of_a_step() -> None:
    assert times(CELL, past(1.0, None, output_len=1)) is None


def test_a_machine_without_a_probe_uses_the_nearest_cell() -> None:
    told = predicted(past(1.0, 0.1))

    assert (told.ttft_s, told.tpot_s, told.basis) == (1.0, 0.1, "an earlier run")
    assert told.session_s
    assert told.session_s > 1.0 + 8 * 0.1


def test_a_probe_is_believed_more_than_the_nearest_cell() -> None:
    told = predicted(past(1.0, 0.1), probes=(PROBE,))

    assert told == predicted(probes=(PROBE,))
    assert told.basis.startswith("probe of today (")


def test_without_both_there_are_no_times() -> None:
    told = predicted()

    assert (told.ttft_s, told.tpot_s, told.session_s) == (None, None, None)
    assert told.basis.startswith("no times, because there is no probe, datasheet or record")


def test_another_machine_teaches_nothing() -> None:
    here = real_machine()

    assert nearest.past_cells(RESULTS, here)
    assert nearest.past_cells(RESULTS, {**here, "cpu_flags": ["avx2"]}) == []
    assert nearest.past_cells(RESULTS, {**here, "gpus": [{"name": "NVIDIA H200"}]}) == []


def test_a_damaged_run_teaches_nothing_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / store.RECORDS).write_text('{"kind":"sweep","format":99,"x":1}\n')
    shutil.copytree(CPU_SMALL, tmp_path / "good")

    assert len(nearest.past_cells(tmp_path, real_machine())) == 27


def test_the_times_are_those_of_the_file() -> None:
    name = "pythia-70m-transformers-bfloat16-b1-i512-o16-138d2a4259"
    lines = [json.loads(line) for line in (CPU_SMALL / store.RECORDS).read_text().splitlines()]
    firsts = [
        [sample["token_ns"][0][0] for sample in line["outcome"]["samples"]]
        for line in lines
        if line["kind"] == "end" and line["id"] == name and line["status"] == "ok"
    ]

    seen = next(one for one in nearest.past_cells(RESULTS, real_machine()) if one.cell.id == name)

    assert min(map(min, firsts)) <= seen.times.ttft_s * 1e9 <= max(map(max, firsts))
