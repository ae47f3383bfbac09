"""One pass over a run's records: which of them count, their measurements, the failures and their reasons."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmbench.results.record import NOT_FINAL, Status
from llmbench.results.sessions import Gatherer, RecordedSession
from llmbench.spec.sweep import Point

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llmbench.results.sessions import RecordedFacts
    from llmbench.results.store import Log

Integers: TypeAlias = NDArray[np.int64]

COUNTED = frozenset({"requests_failed", "empty_answers"})
"""Warnings whose number decides what the others are worth: 1 of 500 is no 499 of 500."""
DISTURBING = frozenset({"busy_machine", "cpu_steal", "shared_device"})
"""Warnings that tell of other work on the machine while a number was taken."""
UNSETTLED = frozenset({"warmup_not_converged", "warmup_too_short", "hot", "trend", "two_modes"})
"""Warnings that tell that calls did not all run at one speed, whose median may not be the steady one."""
DISTURBED_SHARE = 0.5
"""If more than this share of a cell's sessions have such a warning, it may explain a difference. Tiny models ran ten
times slower on a crowded machine, with a warning on every session."""

DIGITS = re.compile(r"\d[\d.,]*")


OK, SKIPPED = Status.OK, Status.SKIPPED
NOT_MEASURED = frozenset((*NOT_FINAL, SKIPPED))
"""Names of their own, because looking up a member of an enumeration takes as long as adding a number."""


def measured(status: Status) -> bool:
    """Return whether a session with this status ran to its end; the first such record of a session counts."""
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


def understood(log: Log, records: Iterable[RecordedSession]) -> Iterator[tuple[RecordedSession, Point]]:
    """Yield records with their cells; note and skip one whose cell is not understood."""
    cells: dict[str, Point] = {}
    for record in records:
        name = record.id
        cell = cells.get(name)
        if cell is None:
            try:
                cell = msgspec.json.decode(record.cell, type=Point)
            except msgspec.DecodeError as error:
                log.pass_over(f"{error}, in the cell of {name!r}")
                continue
            if cell.id != name:
                log.pass_over(f"the record of {name!r} holds another cell, {cell.id!r}")
                continue
            cells[name] = cell
        yield record, cell


class Tally:
    """The sums over a run's records, by the ids of the cells.

    Attributes:
        cells: those of the plan in its order, then any others that have records.
        gatherer: the measurements of valid sessions.
        owners: the cell of each valid session, in the gatherer's order.
        rounds: its number among the sessions of its cell, in the same order.
        iterations: how many of its iterations count; 0 where they were not recorded one by one.
        clocks_mhz: the mean clock of the device in it; NaN where none was read.
        engines: the facts of its engine.
        disturbed: whether other work on the machine was seen in it.
        protocols: how numbers were measured; more than one is a mixture.
        ended: sessions of each cell that ended for good.
        warnings: reason codes of each cell, and how many of its valid sessions have them.
        details: for each reason code, the figures behind the first warning of that kind.
        failures: the sessions that ended without a number, alike ones together.
        counted: of each cell, how many requests failed or were empty, in words.
        places: the boxes and the GPUs that measured each cell, in words; only where boxes measured.
        boxes: the box of each valid session, in the gatherer's order; empty where one machine measured.
        verdicts: sessions that are `valid`, `warned` (valid with warnings), `invalid`, `failed`.
        environments: digests of the environments that valid sessions ran in.

    """

    owners: Sequence[str]
    rounds: Sequence[int]
    clocks_mhz: Sequence[float]
    engines: Sequence[RecordedFacts]
    disturbed: Sequence[bool]
    boxes: Sequence[str]

    def __init__(self, log: Log) -> None:
        """Read the records of a run once."""
        self._read(log, log.as_written(RecordedSession))
        if log.refuted or log.moved:  # known only now; hardly any run has such cells
            self._read(log, log.records(RecordedSession))
        self.errors_nats = log.errors_nats
        planned: dict[str, Point] = {cell.id: cell for cell in (log.plan.cells if log.plan else ())}
        others = {name: cell for name, cell in self._written.items() if name not in planned}
        self.cells = [*planned.values(), *others.values()]
        columns: Any = zip(*self._valid, strict=True) if self._valid else ((),) * 7
        self.owners, self.rounds, self.iterations, self.clocks_mhz, *rest = columns
        self.engines, self.disturbed, self.boxes = rest
        self.ended = Counter(name for name, _ in self._seen)
        self.verdicts["valid"] = len(self.owners) - self.verdicts["warned"]

    def _read(self, log: Log, records: Iterable[RecordedSession]) -> None:
        self.gatherer = Gatherer()
        self._valid: list[tuple[str, int, int, float, RecordedFacts, bool, str]] = []
        self.protocols: set[int] = set()
        self.warnings: dict[str, Counter[str]] = {}
        self.counted: dict[str, list[str]] = {}
        self.details: dict[str, str] = {}
        self.failures: dict[tuple[object, ...], Failure] = {}
        self.verdicts = dict.fromkeys(("valid", "warned", "invalid", "failed"), 0)
        self.environments: set[str] = set()
        self.places: dict[str, dict[str, None]] = {}
        self._written: dict[str, Point] = {}
        self._seen: set[tuple[str, int]] = set()
        self._cut_off: set[tuple[str, int]] = set()
        skipped: dict[tuple[str, int], RecordedSession] = {}
        seen = self._seen
        for record, cell in understood(log, records):
            session = (record.id, record.session)
            if record.status is OK or measured(record.status):
                if session not in seen:
                    self._end(session, record, cell)
            elif record.status is SKIPPED:
                self._written[record.id] = cell
                record.cell = msgspec.Raw()  # it holds the whole line
                skipped.setdefault(session, record)
            else:
                self._written[record.id] = cell
                self._cut_off.add(session)
        for session, record in skipped.items():
            if session not in seen:
                self._end(session, record, self._written[record.id])

    @property
    def interrupted(self) -> int:
        """Return the sessions that were cut off and have not been run again."""
        return len(self._cut_off - self._seen)

    def numbers_of_owners(self) -> Integers:
        """Return the number of the cell that each valid session is of."""
        number = {cell.id: number for number, cell in enumerate(self.cells)}
        return np.array([number[name] for name in self.owners], dtype=np.int64)

    def _end(self, session: tuple[str, int], record: RecordedSession, cell: Point) -> None:
        """Count a session that ended; the first record that was measured counts, before any skip."""
        self._seen.add(session)
        self._written[session[0]] = cell
        if place := record.worker.place:
            self.places.setdefault(session[0], {})[place] = None
        if record.status is not OK:
            self._take_failed(record)
            return
        outcome, clock_mhz = record.outcome, record.telemetry.sm_mhz_mean or math.nan
        disturbed = bool(record.warnings) and self._take_warnings(record)
        iterations = sum(one.discarded is None for one in outcome.samples)
        box = record.worker.box
        self._valid.append((*session, iterations, clock_mhz, outcome.engine, disturbed, box))
        self.protocols.add(record.protocol)
        self.environments.add(record.environment)
        self.gatherer.take(outcome)

    def _take_warnings(self, record: RecordedSession) -> bool:
        """Count the warnings of a valid session; return whether one tells of other work on the machine."""
        codes = list(dict.fromkeys(finding.code for finding in record.warnings))
        self.verdicts["warned"] += 1
        self.warnings.setdefault(record.id, Counter()).update(codes)
        for finding in record.warnings:
            self.details.setdefault(finding.code, finding.detail)
            if finding.code in COUNTED:
                self.counted.setdefault(record.id, []).append(finding.detail)
        return not DISTURBING.isdisjoint(codes)

    def _take_failed(self, record: RecordedSession) -> None:
        self.verdicts["invalid" if record.status is Status.INVALID else "failed"] += 1
        codes = tuple(sorted({problem.code for problem in record.problems}))
        key = (record.status, record.phase, codes or DIGITS.sub("#", record.reason or ""))
        if key not in self.failures:
            reason = record.reason or ", ".join(codes) or "no reason given"
            self.failures[key] = Failure(record.status, record.phase, reason, Counter())
        self.failures[key].cells[record.id] += 1
