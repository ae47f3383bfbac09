"""The closing verdict on a run: trust, with care, or measure again, with its reasons, and the sweep's exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from llmbench.results.record import Finding, Status
from llmbench.results.trust import WIDER_THAN_VALUE
from llmbench.spec.sweep import Protocol
from make_records import make_cell, make_plan, make_record, make_samples, write_lines
from sweeps import asked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmbench.results.record import Record
    from sweeps import Bench

CELLS = [make_cell(number) for number in range(4)]
QUIET = (0.999, 1.0, 1.001)
FEW, MANY = (0.95, 1.0, 1.05), (0.1, 1.0, 10.0)
"""Times whose intervals are above ±10 %, and wider than the value."""
BUSY = Finding("busy_machine", "others used 40 %")
COOLING = Finding("trend", "the last iterations took -10% of the first")


def sessions(number: int, times: Sequence[float] = QUIET, **changes: Any) -> list[Record]:
    cell = CELLS[number]
    return [
        make_record(cell, session, make_samples([time] * 3, 0.2 * time, 16), **changes)
        for session, time in enumerate(times, 1)
    ]


FAILED: dict[str, Any] = {"status": Status.OOM, "phase": "load", "reason": "too much"}
INVALID: dict[str, Any] = {"status": Status.INVALID, "problems": [Finding("clock", "stands")]}

CASES: dict[str, tuple[list[list[Record]], str, list[str]]] = {
    "quiet": (
        [sessions(0), sessions(1)],
        "trust",
        ["the 95 % intervals of end-to-end times are within ±0.2%"],
    ),
    "wide": (
        [sessions(0), sessions(1, FEW)],
        "with care",
        ["1 of 2 end-to-end intervals above ±10%"],
    ),
    "all wide": (
        [sessions(0, FEW), sessions(1, FEW)],
        "with care",
        ["2 of 2 end-to-end intervals above ±10%"],
    ),
    "one wider than the value": (
        [sessions(0), sessions(1, MANY)],
        "with care",
        ["1 of 2 end-to-end intervals above ±10%"],
    ),
    "all wider than the value": (
        [sessions(0, MANY), sessions(1, MANY)],
        "measure again",
        ["every interval is wider than its value"],
    ),
    "single": (
        [sessions(0), sessions(1, [1.0])],
        "with care",
        ["1 of 2 cells without an interval, which takes two sessions", "2 sessions still to come"],
    ),
    "disturbed": (
        [sessions(0), sessions(1, warnings=[BUSY])],
        "with care",
        ["1 of 2 cells disturbed by other work (busy_machine 3)"],
    ),
    "hardly disturbed": (
        [sessions(0), [*sessions(1)[:2], *sessions(1, warnings=[BUSY])[2:]]],
        "trust",
        ["the 95 % intervals of end-to-end times are within ±0.2%"],
    ),
    "all disturbed": (
        [sessions(0, warnings=[BUSY]), sessions(1, warnings=[BUSY])],
        "measure again",
        ["other work on the machine disturbed every cell (busy_machine 6)"],
    ),
    "no steady speed": (
        [sessions(0), sessions(1, warnings=[COOLING])],
        "with care",
        ["1 of 2 cells without a steady speed (trend 3)"],
    ),
    "failed": (
        [sessions(0), sessions(1, **FAILED), sessions(2, **INVALID)],
        "with care",
        ["3 sessions failed", "3 sessions invalid", "2 of 3 cells without a number"],
    ),
    "all failed": (
        [sessions(0, **FAILED)],
        "measure again",
        ["no cell has a number", "3 sessions failed"],
    ),
}


def run_of(folder: Path, records: Sequence[Sequence[Record]]) -> Path:
    cells = [of_cell[0].cell for of_cell in records]
    plan = make_plan(cells, settings=Protocol(sessions=3))
    write_lines(folder, [plan, *(record for of_cell in records for record in of_cell)])
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_run_has_its_verdict_and_the_reasons(tmp_path: Path, case: str) -> None:
    records, verdict, reasons = CASES[case]
    run = run_of(tmp_path / "run", records)

    trust = json.loads(asked("table", run, "--format", "json").out)["trust"]
    last = asked("table", run).out.splitlines()[-1]

    only = {"only_disturbed": case == "all disturbed"}
    assert trust == {"verdict": verdict, "reasons": reasons, **only}
    words = {"trust": "Trust these numbers", "with care": "Take these numbers with care"}
    assert last == f"{words.get(verdict, 'Measure again')}: {'; '.join(reasons)}."


def test_rounds_that_differ_are_a_reason(tmp_path: Path) -> None:
    drifting = [sessions(number, (1.0, 1.02 + 0.001 * number, 1.04)) for number in range(4)]

    table = json.loads(asked("table", run_of(tmp_path, drifting), "--format", "json").out)

    assert "rounds differ more than chance allows" in table["trust"]["reasons"]


def test_nothing_is_said_of_a_run_that_has_not_begun(tmp_path: Path) -> None:
    write_lines(tmp_path, [make_plan(CELLS)])

    assert json.loads(asked("table", tmp_path, "--format", "json").out)["trust"] is None


def test_the_share_from_which_an_interval_is_wider_than_its_value() -> None:
    assert pytest.approx(1.0) == (1 + WIDER_THAN_VALUE) - 1 / (1 + WIDER_THAN_VALUE)


@pytest.mark.parametrize(
    ("drift", "code", "words"),
    [(0.0, 0, "Trust these numbers"), (1.0, 1, "Measure again: every interval is wider")],
)
def test_a_sweep_that_says_nothing_ends_with_a_code_of_its_own(
    bench: Bench, drift: float, code: int, words: str
) -> None:
    bench.write(drift=drift)

    done = bench.sweep()

    assert (done.code, words in done.out) == (code, True)


def test_sessions_that_failed_are_told_from_numbers_that_say_nothing(bench: Bench) -> None:
    bench.write(fault="oom", when="batch_size=4")

    done = bench.sweep()

    assert done.code == 3
    assert (
        "Take these numbers with care: 2 sessions failed; 1 of 3 cells without a number."
        in done.out
    )
