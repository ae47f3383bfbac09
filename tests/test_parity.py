"""The rule of parity: near ties are no faults, wrong functions are; and a verdict reaches every reader."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from llmbench.errors import FormatError
from llmbench.parity import distance
from llmbench.results import aggregate, lines, metrics, store, table
from llmbench.results.record import Parity, Record, Status
from make_records import write

NOISE = distance.distance([[-1.0, -2.0]], [[-1.01, -2.01]], [[-1.0, -2.01]])
"""A dtype whose own errors are a hundredth of a nat."""


def found(off: float, margin: float) -> distance.Distance:
    """Return an engine that is off by so much, and whose second token lies so far below the reference's own."""
    own = [-1.0, -2.0]
    return distance.distance([[value + off for value in own]], [own], [[own[0], own[1] + margin]])


def test_what_the_noise_of_the_dtype_explains_is_no_fault() -> None:
    assert distance.faults(found(off=0.025, margin=0.035), NOISE) == []


def test_a_token_beyond_a_near_tie_is_a_fault() -> None:
    assert distance.faults(found(off=0.0, margin=0.05), NOISE) == [
        "1 of 2 tokens differ from the reference by more than a near tie"
    ]


def test_log_probabilities_beyond_the_noise_are_a_fault() -> None:
    (fault,) = distance.faults(found(off=0.04, margin=0.0), NOISE)

    assert fault == "log-probabilities are off by 0.04 nats, more than the 0.03 allowed"


def test_without_noise_what_nobody_can_notice_is_allowed() -> None:
    exact = found(off=0.0, margin=0.0)

    assert distance.faults(found(off=0.0009, margin=0.003), exact) == []
    assert len(distance.faults(found(off=0.0011, margin=0.005), exact)) == 2


def test_no_number_is_a_fault() -> None:
    assert len(distance.faults(found(off=float("nan"), margin=float("nan")), NOISE)) == 2


def test_the_same_tokens_are_those_that_the_reference_prefers() -> None:
    assert found(off=0.0, margin=0.01).same == 1
    assert found(off=0.0, margin=0.0).same == 2


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "run", 40)
    return tmp_path / "run"


def say(run: Path, verdict: str, cells: list[str]) -> None:
    """Write a verdict into a run."""
    facts = {
        "cells": cells, "verdict": verdict, "why": "a matrix is wrong", "model": "m", "backend": "b",
        "options": {}, "device": "cpu", "dtype": "float32",
    }  # fmt: skip
    with store.open_run(run) as opened:
        opened.append(msgspec.convert(facts, Parity))


def statuses(run: Path) -> dict[str, set[Status]]:
    told: dict[str, set[Status]] = {}
    for record in store.read(run).records(Record):
        told.setdefault(record.id, set()).add(record.status)
    return told


def valid_cell(run: Path) -> str:
    return next(name for name, seen in statuses(run).items() if Status.OK in seen)


READERS: dict[str, Callable[[Path, str], bool]] = {
    "records": lambda run, cell: Status.OK not in statuses(run)[cell],
    "lines": lambda run, cell: all(
        line.status is not Status.OK
        for line in store.read(run)
        if isinstance(line, Record) and line.id == cell
    ),
    "tally": lambda run, cell: cell not in aggregate.Tally(store.read(run)).owners,
    "table": lambda run, cell: (
        not any(
            made.cells[row].id == cell
            for made in [table.build(store.read(run), metrics.METRICS)]
            for row in made.rows
        )
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_sees_a_number_of_an_engine_that_failed(reader: str, run: Path) -> None:
    cell = valid_cell(run)
    assert not READERS[reader](run, cell)

    say(run, "failed", [cell])

    assert READERS[reader](run, cell)


def test_a_record_of_an_engine_that_failed_says_why(run: Path) -> None:
    cell = valid_cell(run)
    say(run, "failed", [cell])

    seen = next(r for r in store.read(run).records(Record) if r.id == cell)

    assert seen.reason == "parity: a matrix is wrong"
    assert [problem.code for problem in seen.problems] == ["parity"]
    assert seen.outcome.samples, "the samples stay"


def test_other_cells_keep_their_numbers(run: Path) -> None:
    before = statuses(run)
    cell = valid_cell(run)

    say(run, "failed", [cell])

    after = statuses(run)
    assert {name: seen for name, seen in after.items() if name != cell} == {
        name: seen for name, seen in before.items() if name != cell
    }


def test_the_last_verdict_counts_and_one_that_says_nothing_changes_nothing(run: Path) -> None:
    cell = valid_cell(run)
    before = store.read(run)
    say(run, "failed", [cell])
    say(run, "untested", [cell])
    assert store.read(run).refuted == {cell: "a matrix is wrong"}

    say(run, "passed", [cell])

    assert store.read(run).refuted == {}
    assert before.refuted == {}


def seal(run: Path, line: bytes) -> None:
    with (run / store.RECORDS).open("ab") as stream:
        stream.write(lines.seal(line))


def test_a_verdict_that_is_not_understood_is_passed_over_and_told(run: Path) -> None:
    before = statuses(run)
    seal(run, b'{"kind":"parity","format":1,"cells":3}')

    log = store.read(run)

    assert statuses(run) == before
    list(log)
    assert any("was not understood and was skipped" in notice for notice in log.notices)


def test_a_verdict_of_a_newer_format_is_refused_with_its_file(run: Path) -> None:
    seal(run, b'{"kind":"parity","format":99,"cells":["a"],"verdict":"perhaps"}')

    with pytest.raises(FormatError, match=r"records\.jsonl: is of format 99"):
        statuses(run)
