"""Claims and answers to them: a verdict for each condition, with its figure and its cells."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from llmbench.cost import prices
from llmbench.errors import SpecError
from llmbench.stats.interval import ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llmbench.results.cells import Measured
    from llmbench.stats.interval import Interval

T = TypeVar("T")
FRONTIER_BATCH = 32
"""Below this batch size a series has not reached the frontier: a server's batches are at least as large."""
FRONTIER_GAIN = 0.1
"""At the frontier, a batch at least twice as large brings at most this share more tokens per second."""
BELOW_FRONTIER = (
    "{}: a miss below the frontier of batch sizes decides nothing. Missing: batches up to one of at least "
    f"{FRONTIER_BATCH} that brings at most {FRONTIER_GAIN:.0%} more tokens/s than half of it, or a server at load."
)


class ClaimVerdict(enum.StrEnum):
    """The verdict of the measurements on a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    MIXED = "mixed"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"


class Assumption(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number that a check uses without measuring it, and the reason for its value."""

    value: float
    why: str


class CostPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two dated published costs of training to the same quality, and their sources."""

    what: str
    earlier_year: float
    earlier_usd: float
    later_year: float
    later_usd: float
    source: str


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of configs/claims.

    Attributes:
        report: the short name of the report, and the place in it.
        title: of the report.
        date: of its publication.
        claim: the statement, in our words.
        predicts: the measurement that would follow from it.
        needs: the data that decide it.
        rule: how they decide it, with thresholds.
        tested: the part of the report's sentence that the rule tests.
        thresholds: the numbers of the rule, by name.
        assumptions: the numbers that are not measured, by name.
        pairs: pairs of dated published costs, if the rule compares such.
        sweep: a sweep file that would settle it; None if none can.
        on: a description of the machine that the sweep must run on.

    """

    id: str
    report: str
    title: str
    date: str
    claim: str
    predicts: str
    needs: str
    rule: str
    tested: str
    thresholds: dict[str, float] = {}
    assumptions: dict[str, Assumption] = {}
    pairs: list[CostPair] = []
    sweep: dict[str, Any] | None = None
    on: str

    def threshold(self, name: str) -> float:
        """Return one number of the rule."""
        return self.thresholds[name]

    def assumed(self, name: str) -> float:
        """Return one number that is not measured."""
        return self.assumptions[name].value


class Range(NamedTuple):
    """The range that a claim predicts for a figure; an open end is 0 or infinity."""

    low: float = 0.0
    high: float = math.inf

    def verdict(self, figure: Interval) -> ClaimVerdict:
        """Return supported if the whole interval lies inside, contradicted if it lies outside, else inconclusive."""
        inside = figure.lies_within(*self)
        if inside is None:
            return ClaimVerdict.INCONCLUSIVE
        return ClaimVerdict.SUPPORTED if inside else ClaimVerdict.CONTRADICTED


class Part(NamedTuple):
    """The verdict under one condition.

    Attributes:
        where: the condition, such as `batch 1`; empty if there is only one.
        said: the text before the figure.
        unit: of the figure; a ratio has none.
        rows: the cells used.
        predicted: the range that the claim predicts for the figure; None if it predicts none.
        missing: a sentence about what a verdict lacks, with `{}` for the condition; empty if nothing.

    """

    where: str
    verdict: ClaimVerdict
    said: str
    figure: Interval | None = None
    unit: str = ""
    rows: tuple[Measured, ...] = ()
    predicted: Range | None = None
    missing: str = ""


class Answer(NamedTuple):
    """The parts of an answer, one for each condition measured, and notes for the reader."""

    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> ClaimVerdict:
        """Return the common verdict of all conditions, or that it depends on them."""
        verdicts = {part.verdict for part in self.parts}
        if not verdicts:
            return ClaimVerdict.NOT_MEASURED
        return verdicts.pop() if len(verdicts) == 1 else ClaimVerdict.MIXED


class Evidence(NamedTuple):
    """All measured cells, and the price that the user gave."""

    rows: Sequence[Measured]
    asked: prices.PriceOptions

    @property
    def price(self) -> str:
        """Return the price of an hour and its source; empty without a price."""
        hours = filter(None, map(self.hour, self.rows))
        return "; ".join(dict.fromkeys(hour.said for hour in hours))

    def hour_usd(self, row: Measured) -> float | None:
        """Return the price of an hour of a cell's machine; None if it is unknown."""
        hour = self.hour(row)
        return hour.usd if hour else None

    def hour(self, row: Measured) -> prices.Hour | None:
        """Return the price of an hour of a cell's machine with its source and year; None if it is unknown."""
        try:
            return prices.hour(self.asked, row)
        except SpecError:
            return None


Check: TypeAlias = "Callable[[Claim, Evidence], Answer]"


def held(
    where: str,
    said: str,
    figure: Interval,
    predicted: Range,
    unit: str = "",
    rows: tuple[Measured, ...] = (),
) -> Part:
    """Return the part that compares a figure with the predicted range."""
    return Part(where, predicted.verdict(figure), said, figure, unit, rows, predicted)


def reachable(part: Part, *, reached: bool) -> Part:
    """Return a part of a claim that something can be reached: a miss below the frontier of batch sizes is undecided."""
    if part.verdict is ClaimVerdict.CONTRADICTED and not reached:
        return part._replace(verdict=ClaimVerdict.INCONCLUSIVE, missing=BELOW_FRONTIER)
    return part


def frontiers(rows: Iterable[Measured]) -> dict[tuple[object, ...], Measured]:
    """Return the cell with the largest batch of each series that reaches the frontier, by the series' key."""
    timed = [row for row in rows if row.has("output_tok_s")]
    largest = {key: _frontier(series) for key, series in grouped(timed, but_batch)}
    return {key: row for key, row in largest.items() if row is not None}


def but_batch(row: Measured) -> tuple[object, ...]:
    """Return the key of a cell's series: everything except the batch size."""
    return row.alike, row.cell.model, row.cell.input_len, row.cell.output_len


def _frontier(series: Sequence[Measured]) -> Measured | None:
    """Return the largest batch of a series if it brings hardly more tokens than one half as large, else None."""
    largest = max(series, key=_batch)
    halves = [row for row in series if 2 * _batch(row) <= _batch(largest)]
    if not halves or _batch(largest) < FRONTIER_BATCH:
        return None
    half = max(halves, key=_batch)
    gain = ratio(largest.values["output_tok_s"], half.values["output_tok_s"])
    return largest if gain.high <= 1 + FRONTIER_GAIN else None


def _batch(row: Measured) -> int:
    return row.cell.batch_size


def missing(parts: Iterable[Part]) -> tuple[str, ...]:
    """Return a note on what each part lacks for a verdict, those that lack the same in one."""
    lacking = [part for part in parts if part.missing]
    return tuple(
        words.format(", ".join(part.where for part in same))
        for words, same in grouped(lacking, lambda part: part.missing)
    )


def grouped(rows: Iterable[T], key: Callable[[T], Any]) -> list[tuple[Any, list[T]]]:
    """Return rows by a key, in order of first appearance."""
    groups: dict[Any, list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def at_batch(row: Measured) -> str:
    """Return a row's condition in words."""
    return f"batch {row.cell.batch_size}"
