"""A run with a row a session: how it ended, and what it measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench.results import table, utilization
from llmbench.results.aggregate import Tally, measured, understood
from llmbench.results.sessions import RecordedSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.results.metrics import Metric
    from llmbench.results.record import Status
    from llmbench.results.store import Log
    from llmbench.results.table import Integers, Reals, Table


class SessionEnd(NamedTuple):
    """How a session ended, and the reason codes of its warnings or problems."""

    session: int
    status: Status
    reason: str
    codes: tuple[str, ...]
    place: str


class SessionTable(NamedTuple):
    """The sessions of a run that ended, in the order of its cells. Sequences have one entry a session.

    Attributes:
        whole: the run's table, with a row a cell.
        owners: the number of each session's cell.
        ends: how each ended.
        values: what each measured by the key of its metric, in the unit of the key; NaN where it is absent.

    """

    whole: Table
    owners: Integers
    ends: Sequence[SessionEnd]
    values: Mapping[str, Reals]


def build(log: Log, chosen: Sequence[Metric] | None = None) -> SessionTable:
    """Return the sessions of a run, with the metrics chosen or all that were measured."""
    tally = Tally(log)
    whole = table.tabulate(log, tally, chosen)
    ends: dict[tuple[str, int], SessionEnd] = {}
    for record, _ in understood(log, log.records(RecordedSession)):
        session = (record.id, record.session)
        if session not in ends or measured(record.status) > measured(ends[session].status):
            codes = tuple(finding.code for finding in (*record.problems, *record.warnings))
            ends[session] = SessionEnd(record.session, record.status, record.reason or "", codes, record.worker.place)
    numbers = {cell.id: number for number, cell in enumerate(whole.cells)}
    order = sorted(ends, key=lambda session: (numbers[session[0]], session[1]))
    place = {session: number for number, session in enumerate(order)}
    valid = [place[session] for session in zip(tally.owners, tally.rounds, strict=True)]
    _, columns = utilization.columns(tally, log.plan)
    values = {each.metric.key: np.full(len(order), np.nan) for each in whole.numbers}
    for each in whole.numbers:
        with np.errstate(divide="ignore", invalid="ignore"):  # n = 1 has no gaps: absent over 0
            values[each.metric.key][valid] = each.metric.value(columns)
    owners = np.array([numbers[name] for name, _ in order], dtype=np.int64)
    return SessionTable(whole, owners, [ends[session] for session in order], values)
