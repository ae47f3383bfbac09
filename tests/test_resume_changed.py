"""A run that is continued with another sweep, or on another machine: told, or refused (FAULTS 18)."""

import os
from pathlib import Path
from typing import Any

import pytest

from sweeps import Bench, assert_complete


def wanted(bench: Bench) -> set[tuple[str, int]]:
    """Return the sessions that are planned now."""
    return {(cell.id, session) for cell in bench.plan().cells for session in (1, 2)}


def recorded(bench: Bench) -> list[tuple[str, int]]:
    return [(record.id, record.session) for record in bench.records()]


def test_a_changed_axis_is_told_and_only_what_is_new_is_measured(
    bench: Bench, measured: Path
) -> None:
    bench.copy(measured)
    before = bench.raw()
    earlier = recorded(bench)
    bench.write(axes={"batch_size": [2, 4, 8]})

    done = bench.sweep("--add")

    assert done.code == 0
    assert bench.raw().startswith(before)
    assert wanted(bench) <= set(recorded(bench))
    assert sorted(recorded(bench)[len(earlier) :]) == sorted(wanted(bench) - set(earlier))
    assert (
        "example: the sweep has changed since this run was planned: batch_size +8 -1." in done.out
    )
    assert "New cells: 1. Cells no longer planned: 1; their results are kept." in done.out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"axes": {"batch_size": [2, 4, 8]}}, "(batch_size +8 -1)"),
        ({"protocol": {"iterations": 4}}, "(iterations 3 -> 4)"),
    ],
)
def test_another_grid_is_refused_unless_it_is_added_on_purpose(
    bench: Bench, measured: Path, change: dict[str, Any], told: str
) -> None:
    bench.copy(measured)
    before = bench.raw()
    bench.write(**change)

    done = bench.sweep()

    assert done.code == 2
    assert (
        f"holds other cells of this sweep {told}. Add to it with --add, or use another --output."
        in done.err
    )
    assert bench.raw() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"protocol": {"iterations": 4}}, "iterations 3 -> 4"),
        ({"ttft_ms": 7.0, "axes": {"output_len": 5}}, "output_len +5 -4; ttft_ms +7.0"),
    ],
)
def test_what_changes_a_number_makes_new_cells(
    bench: Bench, measured: Path, change: dict[str, Any], told: str
) -> None:
    bench.copy(measured)
    before, earlier = bench.raw(), recorded(bench)
    bench.write(**change)

    done = bench.sweep("--add")

    assert done.code == 0
    assert told in done.out
    assert "New cells: 3. Cells no longer planned: 3;" in done.out
    assert wanted(bench).isdisjoint(earlier)
    assert bench.raw().startswith(before)
    assert sorted(recorded(bench)) == sorted([*earlier, *wanted(bench)])


def test_what_changes_no_number_measures_nothing_again(bench: Bench, measured: Path) -> None:
    bench.copy(measured)
    bench.write(protocol={"deadlines": {"load_s": 30}})

    done = bench.sweep()

    assert_complete(done)
    assert "load_s 20.0 -> 30.0" in done.out
    assert "New cells" not in done.out
    assert "Nothing left to measure: every planned session has ended." in done.out


OTHER_THREADS = {"OMP_NUM_THREADS": "3"}
OTHER_TORCH = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: "99.0" if name == "torch" else version(name)
"""


def test_another_environment_is_refused_with_the_difference(bench: Bench, measured: Path) -> None:
    bench.copy(measured)
    before = bench.raw()
    bench.write()

    done = bench.sweep(environment={**OTHER_THREADS, **bench.beginning_with(OTHER_TORCH)})

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(
        "llmbench: example: the environment has changed since this run began ("
    )
    assert " -> 99.0" in done.err
    here = os.environ.get("OMP_NUM_THREADS", "none")
    assert f"OMP_NUM_THREADS {here} -> 3" in done.err
    assert done.err.endswith("use another --output, or --new-environment to continue.\n")
    assert done.err.count("\n") == 1
    assert bench.raw() == before


def test_another_environment_goes_on_when_asked_and_the_table_says_so(
    bench: Bench, measured: Path
) -> None:
    bench.copy(measured)
    before = bench.raw()
    bench.write(axes={"batch_size": [1, 2, 4, 8]})

    done = bench.sweep("--new-environment", "--add", environment=OTHER_THREADS)

    assert_complete(done)
    assert done.code == 0
    assert bench.raw().startswith(before)
    assert len({record.environment for record in done.records}) == 2
    assert "The records come from 2 environments; see run.json." in done.out
