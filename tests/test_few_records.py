"""Runs with little, nothing or too much to say: every command has its answer and exit code (FAULTS 34)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmbench.results.record import Finding, Status
from llmbench.spec.sweep import Protocol
from make_records import make_cell, make_plan, make_record, make_samples, write, write_lines
from sweeps import asked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmbench.results.record import Record
    from llmbench.spec.sweep import Cell

CELLS = [make_cell(number) for number in range(3)]
QUIET = (0.999, 1.0, 1.001)


def sessions(cells: Sequence[Cell], times: Sequence[float] = QUIET, **changes: Any) -> list[Record]:
    """Return one record a time and cell."""
    return [
        make_record(cell, number, make_samples([time] * 3, 0.2 * time, cell.output_len), **changes)
        for cell in cells
        for number, time in enumerate(times, 1)
    ]


def run_of(
    folder: Path, records: Sequence[Record], cells: Sequence[Cell] = CELLS, **plan: Any
) -> Path:
    """Write a run with an id of its own."""
    facts = {"run": folder.name, "cells": list(cells), "settings": Protocol(sessions=3), **plan}
    write_lines(folder, [make_plan(**facts), *records])
    return folder


INVALID: dict[str, Any] = {"status": Status.INVALID, "problems": [Finding("clock", "it stands")]}
FAILED: dict[str, Any] = {
    "status": Status.OOM,
    "phase": "load",
    "reason": "tried to allocate 2 GiB",
}
TAKEN_IN_ADVANCE: dict[str, Any] = {"outcome": {"engine": {"preallocates": True}}}
GIVEN = {"given": {"e2e_s": {"value": 1.1, "definition": "latency of a batch", "clock": "there"}}}
OTHERS = [make_cell(number) for number in range(7, 10)]
REAL = [make_cell(number, load_format="safetensors") for number in range(3)]
SHORT = [make_cell(number, output_len=1) for number in range(3)]

RUNS: dict[str, Callable[[Path], object]] = {
    "usual": lambda folder: run_of(folder, sessions(CELLS)),
    "no plan": lambda folder: write_lines(folder, []),
    "no cell": lambda folder: run_of(folder, [], []),
    "no record": lambda folder: run_of(folder, []),
    "all invalid": lambda folder: run_of(folder, sessions(CELLS, **INVALID)),
    "only failures": lambda folder: run_of(folder, sessions(CELLS, **FAILED)),
    "one session": lambda folder: run_of(folder, sessions(CELLS, [1.0])),
    "unequal sessions": lambda folder: run_of(
        folder, [*sessions(CELLS[:1], [1.0, 1.1]), *sessions(CELLS[1:])]
    ),
    "one token": lambda folder: run_of(folder, sessions(SHORT), SHORT),
    "two protocols": lambda folder: run_of(
        folder, [*sessions(CELLS[:1], protocol=2), *sessions(CELLS[1:])]
    ),
    "another protocol": lambda folder: run_of(folder, sessions(CELLS, protocol=2)),
    "other cells": lambda folder: run_of(folder, sessions(OTHERS), OTHERS),
    "real weights": lambda folder: run_of(folder, sessions(REAL), REAL),
    "another tool": lambda folder: run_of(folder, sessions(CELLS, protocol=0, outcome=GIVEN)),
    "memory in advance": lambda folder: run_of(folder, sessions(CELLS, **TAKEN_IN_ADVANCE)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every kind of run in it."""
    folder = tmp_path_factory.mktemp("runs")
    for name, made in RUNS.items():
        made(folder / name)
    return folder


READERS = {
    "table": ("table", "RUN"),
    "report": ("report", "RUN", "-o", "PAGE"),
    "cost": ("cost", "RUN", "--usd-per-hour", "1"),
    "claims": ("claims", "RUN"),
    "export": ("export", "RUN"),
    "fit": ("fit", "RUN"),
}
NO_COST = (2, "so nothing has a cost.")
NOTHING = {"cost": NO_COST, "claims": (0, "22 not measured."), "export": (0, "[]")}
ANSWERS: dict[str, dict[str, tuple[int, str]]] = {
    "no plan": {
        **NOTHING,
        "table": (0, "no plan: 0 cells; 0 sessions: none planned"),
        "report": (0, "0 cells of 1 run."),
        "fit": (0, "No cell is planned."),
    },
    "no cell": {
        **NOTHING,
        "table": (0, "0 cells; 0 sessions: none planned"),
        "report": (0, "0 cells of 1 run."),
        "fit": (0, "No cell is planned."),
    },
    "no record": {
        **NOTHING,
        "table": (0, "3 cells; 9 sessions: 9 still to come"),
        "report": (0, "3 cells of 1 run."),
        "fit": (0, "pythia-70m 48 -"),
    },
    "all invalid": {
        **NOTHING,
        "table": (0, "Without a number: 9 sessions"),
        "report": (0, "3 cells of 1 run."),
        "fit": (0, "≥ 4"),
    },
    "only failures": {
        **NOTHING,
        "table": (0, "tried to allocate 2 GiB"),
        "report": (0, "3 cells of 1 run."),
        "fit": (0, "< 4 (oom 3x)"),
    },
    "one session": {
        "table": (0, "(±): half the range within the only session's process; not an interval."),
        "cost": (0, "4.34 (one session)"),
        "export": (0, '"completed": 12'),
    },
    "unequal sessions": {
        "table": (0, "9 sessions: 8 valid, 1 still to come"),
        "cost": (0, "4.340 ±0.011"),
        "export": (0, '"completed": 24'),
    },
    "one token": {
        "table": (0, "out 1 model TTFT output peak RSS ms tok/s MiB"),
        "cost": (0, "69.44 ±0.17"),
        "export": (0, '"total_output_tokens": 36'),
    },
    "two protocols": {
        "table": (0, "by protocols 1 and 2, whose numbers mean different things."),
        "report": (0, "3 cells of 1 run."),
    },
}  # fmt: skip
"""Of each kind of run what every command says, and its exit code; a mistake is one line on stderr."""


CASES = [
    (run, command, *answer)
    for run, answers in ANSWERS.items()
    for command, answer in answers.items()
]


def says(arguments: Sequence[object], code: int, words: str) -> None:
    """Hold a command to its exit code and to some of its words, however they are broken into lines."""
    done = asked(*arguments)

    refused = code in (2, 5)
    assert done.code == code
    assert words in " ".join((done.err if refused else done.out).split())
    assert (done.err.count("\n"), done.out == "") == (int(refused or code == 3), refused)


@pytest.mark.parametrize(("run", "command", "code", "words"), CASES)
def test_every_command_has_an_answer(
    folders: Path, tmp_path: Path, run: str, command: str, code: int, words: str,
) -> None:  # fmt: skip
    paths = {"RUN": folders / run, "PAGE": tmp_path / "page.html"}

    says([paths.get(word, word) for word in READERS[command]], code, words)


RSS = ("--metric", "host_peak_rss_bytes")


@pytest.mark.parametrize(
    ("candidate", "arguments", "code", "words"),
    [
        ("usual", (), 0, "Both sides are the same run; every ratio is 1"),
        ("no plan", (), 5, "one run does not name its machine."),
        ("no cell", (), 3, "3 in the candidate not planned on this side"),
        ("no record", (), 3, "3 in the candidate not measured yet"),
        ("all invalid", (), 3, "3 in the candidate invalid: clock"),
        ("only failures", (), 3, "in the candidate oom in load: tried to allocate 2 GiB"),
        ("one session", (), 3, "unclear (1 session)"),
        ("unequal sessions", (), 0, "3 cells: 2 same, 1 unclear."),
        ("one token", (), 3, "6 cells: 6 missing."),
        ("another protocol", (), 5, "measured with protocols 1 and 2"),
        ("two protocols", (), 5, "measured with protocols 1 and 2"),
        ("other cells", (), 3, "6 cells: 6 missing."),
        ("real weights", (), 5, "cannot compare random with real weights"),
        ("another tool", (), 1, "One side's number comes from a tool that defines it as: latency of a batch."),
        ("memory in advance", (), 0, "3 cells: 3 same."),
        ("memory in advance", RSS, 5, "pre-allocates memory"),
    ],
)  # fmt: skip
def test_two_runs_are_compared_or_refused(
    folders: Path, candidate: str, arguments: tuple[str, ...], code: int, words: str,
) -> None:  # fmt: skip
    says(["compare", folders / "usual", folders / candidate, *arguments], code, words)


def test_ten_thousand_records_are_no_obstacle(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run, 10_000)
    words = {
        ("table", run): "3,334 cells; 10,002 sessions: 10,000 valid",
        ("compare", run, run): "3,334 cells: 3,334 same.",
    }

    for command, told in words.items():
        done = asked(*command)
        assert (done.code, done.err) == (0, ""), command
        assert told in done.out
