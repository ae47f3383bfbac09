"""One pass over a run's records: which of them count, what they measured, what failed and why."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmbench.results.record import NOT_FINAL, Status
from llmbench.results.sessions import RecordedSession, Gatherer
from llmbench.spec.sweep import Point

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.results.store import Log

Integers: TypeAlias = NDArray[np.int64]

DISTURBING = {"busy_machine", "cpu_steal", "shared_device"}
"""Warnings that tell of other work on the machine while a number was taken."""

NO_CODES: frozenset[str] = frozenset()

DIGITS = re.compile(r"\d[\d.,]*")


OK, SKIPPED = Status.OK, Status.SKIPPED
NOT_MEASURED = frozenset((*NOT_FINAL, SKIPPED))
"""Names of their own: to look up a member of an enumeration takes as long as to take in a number."""


def measured(status: Status) -> bool:
    """Return whether a session that ended so ran to its end: the first such record of a session counts."""
    return status not in NOT_MEASURED


class Failure(NamedTuple):
    """Sessions that ended alike: how, why (as the first of them said it), and how many of each cell's id."""

    status: Status
    phase: str | None
    reason: str
    cells: Counter[str]

    @property
    def sessions(self) -> int:
        """Return how many sessions ended so."""
        return sum(self.cells.values())


def understood(log: Log) -> Iterator[tuple[RecordedSession, Point]]:
    """Yield a run's records with their cells; one whose cell is not understood is noticed and passed over."""
    cells: dict[str, Point] = {}
    for record in log.records(RecordedSession):
        if record.id not in cells:
            try:
                cell = msgspec.json.decode(record.cell, type=Point)
            except msgspec.DecodeError as error:
                log.pass_over(f"{error}, in the cell of {record.id!r}")
                continue
            if cell.id != record.id:
                log.pass_over(f"the record of {record.id!r} holds another cell, {cell.id!r}")
                continue
            cells[record.id] = cell
        yield record, cells[record.id]


class Tally:
    """What the records of a run add up to, by the ids of the cells.

    Attributes:
        cells: those of the plan in its order, then any others that have records.
        gatherer: the measurements of valid sessions.
        owners: the cell of each valid session, in the gatherer's order.
        rounds: its number among the sessions of its cell, in the same order.
        clocks_mhz: the mean clock of the device in it; NaN where none was read.
        read_bytes_s: the rate at which weights one memory level down were read in it; NaN where none was measured.
        preallocated: whether its engine takes the device's memory in advance.
        disturbed: whether other work on the machine was seen in it.
        protocols: how numbers were measured; more than one is a mixture.
        ended: sessions of each cell that ended for good.
        warnings: reason codes of each cell, and how many of its valid sessions have them.
        details: for each reason code, the figures behind the first warning of that kind.
        failures: the sessions that ended without a number, alike ones together.
        verdicts: sessions that are `valid`, `warned` (valid with warnings), `invalid`, `failed`.
        environments: digests of the environments that valid sessions ran in.

    """

    def __init__(self, log: Log) -> None:
        """Read the records of a run once."""
        self.gatherer = Gatherer()
        self.owners: list[str] = []
        self.rounds: list[int] = []
        self.clocks_mhz: list[float] = []
        self.read_bytes_s: list[float] = []
        self.preallocated: list[bool] = []
        self.disturbed: list[bool] = []
        self.protocols: set[int] = set()
        self.ended: Counter[str] = Counter()
        self.warnings: dict[str, Counter[str]] = {}
        self.details: dict[str, str] = {}
        self.failures: dict[tuple[object, ...], Failure] = {}
        self.verdicts = dict.fromkeys(("valid", "warned", "invalid", "failed"), 0)
        self.environments: set[str] = set()
        self._written: dict[str, Point] = {}
        self._seen: set[tuple[str, int]] = set()
        self._cut_off: set[tuple[str, int]] = set()
        self._skipped: dict[tuple[str, int], RecordedSession] = {}
        for record, cell in understood(log):
            self._written[record.id] = cell
            self._take(record)
        for session, record in self._skipped.items():
            if session not in self._seen:
                self._end(session, record)
        planned: dict[str, Point] = {cell.id: cell for cell in (log.plan.cells if log.plan else ())}
        others = {name: cell for name, cell in self._written.items() if name not in planned}
        self.cells = [*planned.values(), *others.values()]

    @property
    def interrupted(self) -> int:
        """Return the sessions that were cut off and have not been run again."""
        return len(self._cut_off - self._seen)

    def numbers_of_owners(self) -> Integers:
        """Return the number of the cell that each valid session is of."""
        number = {cell.id: number for number, cell in enumerate(self.cells)}
        return np.array([number[name] for name in self.owners], dtype=np.int64)

    def _take(self, record: RecordedSession) -> None:
        """Take in one record; the first final one of a session counts, one that was measured before a skip."""
        session = (record.id, record.session)
        if measured(record.status):
            if session not in self._seen:
                self._end(session, record)
        elif record.status is SKIPPED:
            record.cell = msgspec.Raw()  # it holds the whole line
            self._skipped.setdefault(session, record)
        else:
            self._cut_off.add(session)

    def _end(self, session: tuple[str, int], record: RecordedSession) -> None:
        self._seen.add(session)
        self.ended[record.id] += 1
        if record.status is OK:
            self._take_valid(record)
        else:
            self._take_failed(record)

    def _take_valid(self, record: RecordedSession) -> None:
        self.owners.append(record.id)
        self.rounds.append(record.session)
        self.clocks_mhz.append(record.telemetry.sm_mhz_mean or math.nan)
        self.read_bytes_s.append(record.outcome.engine.offload_read_bytes_s or math.nan)
        self.preallocated.append(record.outcome.engine.preallocates)
        self.protocols.add(record.protocol)
        self.gatherer.take(record.outcome)
        self.environments.add(record.environment)
        self.verdicts["warned" if record.warnings else "valid"] += 1
        codes = {finding.code for finding in record.warnings} if record.warnings else NO_CODES
        self.disturbed.append(not DISTURBING.isdisjoint(codes))
        if codes:
            self.warnings.setdefault(record.id, Counter()).update(codes)
            for finding in record.warnings:
                self.details.setdefault(finding.code, finding.detail)

    def _take_failed(self, record: RecordedSession) -> None:
        self.verdicts["invalid" if record.status is Status.INVALID else "failed"] += 1
        codes = tuple(sorted({problem.code for problem in record.problems}))
        key = (record.status, record.phase, codes or DIGITS.sub("#", record.reason or ""))
        if key not in self.failures:
            reason = record.reason or ", ".join(codes) or "no reason given"
            self.failures[key] = Failure(record.status, record.phase, reason, Counter())
        self.failures[key].cells[record.id] += 1
