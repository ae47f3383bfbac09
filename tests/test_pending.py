"""What is known of a cell, replayed from its lines, and when it needs no further session."""

import math

import pytest

from llmbench.results.record import Line, Record, Status, Stop
from llmbench.run.pending import CellSessions, planned_sessions, sessions_by_cell, why_stop
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
        Stop(cell=CELL.id, sessions=2, reason="planned"),
    ]

    known = sessions_by_cell([CELL], lines)

    assert list(known) == [CELL.id]
    standing = known[CELL.id]
    assert standing.done == {1: Status.OK, 2: Status.OK}
    assert standing.medians_s == {1: 2.0, 2: 4.0}
    assert standing.attempts == {1: 1, 2: 1}
    assert standing.stopped_at == 2


@pytest.mark.parametrize("status", [Status.INTERRUPTED, Status.DEVICE_DIRTY])
def test_a_session_that_was_cut_off_is_still_to_be_run(status: Status) -> None:
    standing = standing_after(ended(1, status=status))

    assert standing.done == {}
    assert why_stop(standing, Protocol(sessions=1), 10, 0.0) is None


def test_the_first_final_record_of_a_session_counts() -> None:
    standing = standing_after(ended(1, 2.0), ended(1, 9.0), ended(1, status=Status.CRASH))

    assert standing.done == {1: Status.OK}
    assert standing.medians_s == {1: 2.0}


def test_discarded_samples_and_failed_sessions_have_no_median() -> None:
    assert standing_after(ended(1, status=Status.INVALID)).medians_s == {}


@pytest.mark.parametrize(
    ("sessions", "protocol", "planned", "spent_s", "reason"),
    [
        (2, Protocol(sessions=3), 3, 0.0, None),
        (3, Protocol(sessions=3), 3, 0.0, "planned"),
        (3, Protocol(sessions=3), 5, 0.0, None),
        (5, Protocol(sessions=3), 5, 0.0, "planned"),
        (3, Protocol(sessions=3, max_sessions=3), 3, 0.0, "maximum"),
        (3, Protocol(sessions=3, budget_s=60.0), 5, 59.0, None),
        (3, Protocol(sessions=3, budget_s=60.0), 5, 60.0, "budget"),
        (2, Protocol(sessions=3, budget_s=60.0), 5, 60.0, None),
        (1, Protocol(sessions=1, max_sessions=2), 2, 0.0, None),
        (1, Protocol(sessions=1, max_sessions=1), 1, 0.0, "maximum"),
    ],
)
def test_a_cell_stops_at_the_planned_number_the_maximum_or_the_budget(
    sessions: int, protocol: Protocol, planned: int, spent_s: float, reason: str | None
) -> None:
    standing = standing_after(*(ended(session) for session in range(1, sessions + 1)))

    assert why_stop(standing, protocol, planned, spent_s) == reason


def cells_with(deviation: float, cells: int, sessions: int = 3) -> list[CellSessions]:
    """Return cells whose first three sessions have exactly this deviation of logarithms; later ones spread wildly."""
    steps = [-deviation, 0.0, deviation, 1.0, -1.0, 2.0][:sessions]
    return [
        CellSessions(
            done=dict.fromkeys(range(1, sessions + 1), Status.OK),
            medians_s={number: (1 + cell) * math.exp(y) for number, y in enumerate(steps, 1)},
        )
        for cell in range(cells)
    ]


@pytest.mark.parametrize(
    ("deviation", "planned"),
    [
        (0.0, 3),
        (
            0.0059,
            3,
        ),  # t(2) = 4.303; 4.303 x 0.0059 / sqrt(3) = 0.01466, and exp of it less 1 is 0.01476
        (0.0061, 4),
        (0.0119, 5),  # t(4) = 2.776; 2.776 x 0.0119 / sqrt(5) = 0.01478
        (0.03, 10),
    ],
)
def test_all_cells_together_decide_how_many_sessions_each_gets(
    deviation: float, planned: int
) -> None:
    assert planned_sessions(cells_with(deviation, 10), Protocol()) == planned


def test_later_sessions_do_not_change_the_plan() -> None:
    assert planned_sessions(cells_with(0.0119, 10, 6), Protocol()) == 5


def test_too_few_cells_get_the_most_sessions_however_equal_they_look() -> None:
    assert planned_sessions(cells_with(0.0, 9), Protocol()) == 10
    assert planned_sessions(cells_with(0.0, 10), Protocol()) == 3


def test_nothing_is_planned_before_every_cell_has_its_first_sessions() -> None:
    cells = cells_with(0.0, 12)
    del cells[3].done[2]

    assert planned_sessions(cells, Protocol()) == 10


def test_a_cell_that_failed_does_not_count() -> None:
    cells = cells_with(0.0, 10)
    cells[0].done[2] = Status.OOM
    del cells[0].medians_s[2]

    assert planned_sessions(cells, Protocol()) == 10
    assert planned_sessions([*cells, *cells_with(0.0, 1)], Protocol()) == 3


def test_a_cell_with_one_valid_session_gets_none_beyond_its_first_ones() -> None:
    protocol = Protocol(sessions=2, max_sessions=5)

    one = standing_after(ended(1, status=Status.OOM))
    two = standing_after(ended(1, status=Status.OOM), ended(2))

    assert why_stop(one, protocol, 2, 0.0) is None
    assert why_stop(two, protocol, 2, 0.0) == "failed"


def test_a_cell_that_failed_once_goes_on_until_the_planned_number_is_valid() -> None:
    protocol = Protocol(sessions=3, max_sessions=6)
    lines = [ended(1), ended(2, status=Status.INVALID), ended(3), ended(4)]

    assert why_stop(standing_after(*lines), protocol, 4, 0.0) is None
    assert why_stop(standing_after(*lines, ended(5)), protocol, 4, 0.0) == "planned"


def test_what_cannot_load_once_cannot_load_twice() -> None:
    assert standing_after(ended(1, status=Status.LOAD_FAILED)).determined() is Status.LOAD_FAILED
    assert standing_after(ended(1, status=Status.UNSUPPORTED)).determined() is Status.UNSUPPORTED
    assert standing_after(ended(1, status=Status.CRASH)).determined() is None
