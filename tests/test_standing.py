"""What is known of a cell, replayed from its lines, and when it needs no further session."""

import pytest

from llmbench.results.record import Line, Record, Status, Stop
from llmbench.run.pending import CellSessions, sessions_by_cell, why_stop
from llmbench.spec.sweep import Protocol
from make_records import make_begin, make_cell, make_record, make_samples

CELL = make_cell()


def ended(session: int, time_s: float = 1.0, status: Status = Status.OK) -> Record:
    samples = make_samples([time_s * 0.5, time_s, time_s * 3], 0.1, 4)
    return make_record(CELL, session, samples, status=status)


def standing_after(*records: Record) -> CellSessions:
    return sessions_by_cell([CELL], records)[CELL.id]


def test_a_run_is_replayed_line_by_line() -> None:
    other = make_cell(1)
    lines: list[Line] = [
        make_begin(CELL, 1),
        ended(1, 2.0),
        make_begin(other, 1),
        make_record(other, 1, status=Status.OOM),
        make_begin(CELL, 2),
        ended(2, 4.0),
        Stop(cell=CELL.id, sessions=2, reason="interval"),
    ]

    known = sessions_by_cell([CELL], lines)

    assert list(known) == [CELL.id]
    standing = known[CELL.id]
    assert standing.done == {1: Status.OK, 2: Status.OK}
    assert standing.medians_s == [2.0, 4.0]
    assert standing.attempts == {1: 1, 2: 1}
    assert standing.stopped_at == 2


@pytest.mark.parametrize("status", [Status.INTERRUPTED, Status.DEVICE_DIRTY])
def test_a_session_that_was_cut_off_is_still_to_be_run(status: Status) -> None:
    standing = standing_after(ended(1, status=status))

    assert standing.done == {}
    assert why_stop(standing, Protocol(sessions=1), 0.0) is None


def test_the_first_final_record_of_a_session_counts() -> None:
    standing = standing_after(ended(1, 2.0), ended(1, 9.0), ended(1, status=Status.CRASH))

    assert standing.done == {1: Status.OK}
    assert standing.medians_s == [2.0]


def test_discarded_samples_and_failed_sessions_have_no_median() -> None:
    assert standing_after(ended(1, status=Status.INVALID)).medians_s == []


@pytest.mark.parametrize(
    ("times_s", "protocol", "spent_s", "reason"),
    [
        ([1.0, 1.0], Protocol(sessions=3), 0.0, None),
        ([1.0, 1.0, 1.0], Protocol(sessions=3), 0.0, "interval"),
        ([1.0, 1.1, 1.2], Protocol(sessions=3), 0.0, None),
        ([1.0, 1.1, 1.2], Protocol(sessions=3, interval_within=0.25), 0.0, None),  # it is 0.254
        ([1.0, 1.1, 1.2], Protocol(sessions=3, interval_within=0.26), 0.0, "interval"),
        ([1.0, 1.1, 1.2], Protocol(sessions=3, max_sessions=3), 0.0, "maximum"),
        ([1.0, 1.1, 1.2], Protocol(sessions=3, budget_s=60.0), 59.0, None),
        ([1.0, 1.1, 1.2], Protocol(sessions=3, budget_s=60.0), 60.0, "budget"),
        ([1.0, 1.1], Protocol(sessions=3, budget_s=60.0), 60.0, None),
        ([1.0], Protocol(sessions=1, max_sessions=2), 0.0, None),
        ([1.0], Protocol(sessions=1, max_sessions=1), 0.0, "maximum"),
    ],
)
def test_a_cell_stops_when_it_has_enough(
    times_s: list[float], protocol: Protocol, spent_s: float, reason: str | None
) -> None:
    records = [ended(session, time_s) for session, time_s in enumerate(times_s, 1)]

    assert why_stop(standing_after(*records), protocol, spent_s) == reason


def test_a_cell_that_failed_once_gets_its_sessions_but_none_beyond() -> None:
    protocol = Protocol(sessions=2, max_sessions=5)

    one = standing_after(ended(1, status=Status.OOM))
    two = standing_after(ended(1, status=Status.OOM), ended(2))

    assert why_stop(one, protocol, 0.0) is None
    assert why_stop(two, protocol, 0.0) == "failed"


def test_what_cannot_load_once_cannot_load_twice() -> None:
    assert standing_after(ended(1, status=Status.LOAD_FAILED)).determined() is Status.LOAD_FAILED
    assert standing_after(ended(1, status=Status.UNSUPPORTED)).determined() is Status.UNSUPPORTED
    assert standing_after(ended(1, status=Status.CRASH)).determined() is None
