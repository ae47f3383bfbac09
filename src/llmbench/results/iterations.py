"""Every iteration of a run as its own row, to show spread and tails that a session's median hides."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench.results.record import Status
from llmbench.results.sessions import Gatherer, RecordedOutcome, RecordedSession
from llmbench.results.aggregate import measured, understood

if TYPE_CHECKING:
    from llmbench.results.sessions import Sessions
    from llmbench.stats.intervals import Integers
    from llmbench.results.store import Log
    from llmbench.results.aggregate import Tally


class IterationRows(NamedTuple):
    """Columns whose rows are sessions or iterations, and the index of each row's owner."""

    columns: Sessions
    owners: Integers
    groups: int


def iterated(log: Log, tally: Tally) -> IterationRows:
    """Return every iteration of a valid session as a row; its owner is the tally's session."""
    cells = {cell.id: cell for cell in tally.cells}
    gatherer, owners, points = Gatherer(), [], []
    seen: set[tuple[str, int]] = set()
    count = 0
    for record, _ in understood(log, log.records(RecordedSession)):
        session = (record.id, record.session)
        if not measured(record.status) or session in seen:
            continue
        seen.add(session)
        if record.status is not Status.OK:
            continue
        for sample in record.outcome.samples:
            if sample.e2e_ns and not sample.discarded:
                gatherer.take(RecordedOutcome(samples=[sample]))
                owners.append(count)
                points.append(cells[record.id])
        count += 1
    return IterationRows(gatherer.sessions(points), np.array(owners, dtype=np.int64), count)
