"""The state of each cell, replayed from a run's lines, and whether it needs another session."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Literal

import msgspec

from llmbench.predict.oom import Met
from llmbench.results.record import Begin, Record, Status, Stop
from llmbench.stats.sample_size import sessions_for, shared_deviation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmbench.results.record import Line
    from llmbench.spec.sweep import Cell, Protocol

DETERMINED = (Status.UNSUPPORTED, Status.LOAD_FAILED)
"""Statuses that every session of a cell would have; later sessions are skipped with the reason."""

Reason = Literal["planned", "maximum", "budget", "failed"]


class CellSessions(msgspec.Struct):
    """The state of one cell, small enough to keep memory constant in a sweep of any length."""

    done: dict[int, Status] = {}
    medians_s: dict[int, float] = {}
    attempts: dict[int, int] = {}
    stopped_at: int = 0
    met: Met = msgspec.field(default_factory=Met)

    def note(self, record: Record) -> None:
        """Add one record; the first final one of a session counts, but a skipped session may be measured later."""
        if not record.final or self.done.get(record.session, Status.SKIPPED) is not Status.SKIPPED:
            return
        self.done[record.session] = record.status
        self.met.note(record.status, record.session, record.worker)
        times = [
            sample.e2e_ns
            for sample in record.outcome.samples
            if sample.e2e_ns and not sample.discarded
        ]
        if record.status is not Status.OK:
            return
        if times:
            self.medians_s[record.session] = statistics.median(times) / 1e9
        elif given := record.outcome.given.get("served_e2e_s"):
            self.medians_s[record.session] = given.value

    def forget(self) -> None:
        """Forget all sessions, which were measured on another unit; the numbers of attempts go on."""
        self.done, self.medians_s, self.stopped_at, self.met = {}, {}, 0, Met()

    def forget_inferred(self) -> None:
        """Reopen sessions that were skipped by inference."""
        if self.determined() is None:
            self.done = {
                session: status
                for session, status in self.done.items()
                if status is not Status.SKIPPED
            }

    def determined(self) -> Status | None:
        """Return the status that every further session would have, if determined."""
        return next((status for status in self.done.values() if status in DETERMINED), None)


def sessions_by_cell(cells: Iterable[Cell], lines: Iterable[Line]) -> dict[str, CellSessions]:
    """Replay a run's lines into the state of each planned cell."""
    known = {cell.id: CellSessions() for cell in cells}
    for line in lines:
        name = line.id if isinstance(line, Record) else getattr(line, "cell", None)
        standing = known.get(name) if name else None
        if standing is None:
            continue
        if isinstance(line, Record):
            standing.note(line)
        elif isinstance(line, Begin):
            standing.attempts[line.session] = max(
                line.attempt, standing.attempts.get(line.session, 0)
            )
        elif isinstance(line, Stop):
            standing.stopped_at = line.sessions
    return known


def planned_sessions(standings: Iterable[CellSessions], protocol: Protocol) -> int:
    """Return the sessions that each cell gets, from the spread that all cells have in their first ones.

    Later sessions change nothing. Until every cell has its first ones, it is the maximum.
    """
    first = range(1, protocol.sessions + 1)
    known = []
    for standing in standings:
        if any(session not in standing.done for session in first):
            return protocol.max_sessions
        if all(session in standing.medians_s for session in first):
            known.append([standing.medians_s[session] for session in first])
    deviation = shared_deviation(known)
    if deviation is None:
        return protocol.max_sessions
    ends = (protocol.sessions, protocol.max_sessions)
    return sessions_for(deviation, protocol.interval_within, *ends) or protocol.max_sessions


def why_stop(
    standing: CellSessions, protocol: Protocol, planned: int, spent_s: float
) -> Reason | None:
    """Return why a cell needs no further session, or None if it needs one."""
    if not set(range(1, protocol.sessions + 1)) <= set(standing.done):
        return None
    valid = sum(status is Status.OK for status in standing.done.values())
    if valid < min(2, len(standing.done)) or standing.determined():
        return "failed"  # a further session would give no interval
    if len(standing.done) >= protocol.max_sessions:
        return "maximum"
    if valid >= planned:
        return "planned"
    return "budget" if protocol.budget_s is not None and spent_s >= protocol.budget_s else None
