"""Claims and answers to them: a verdict for each condition, with its figure and its cells."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from llmbench.cost import prices
from llmbench.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llmbench.results.cells import Measured
    from llmbench.stats.interval import Interval

T = TypeVar("T")


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
        thresholds: the numbers of the rule, by name.
        assumptions: the numbers that are not measured, by name.
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
    thresholds: dict[str, float] = {}
    assumptions: dict[str, Assumption] = {}
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

    """

    where: str
    verdict: ClaimVerdict
    said: str
    figure: Interval | None = None
    unit: str = ""
    rows: tuple[Measured, ...] = ()
    predicted: Range | None = None


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
        hours = filter(None, map(self._hour, self.rows))
        return "; ".join(dict.fromkeys(hour.said for hour in hours))

    def hour_usd(self, row: Measured) -> float | None:
        """Return the price of an hour of a cell's machine; None if it is unknown."""
        hour = self._hour(row)
        return hour.usd if hour else None

    def _hour(self, row: Measured) -> prices.Hour | None:
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


def grouped(rows: Iterable[T], key: Callable[[T], Any]) -> list[tuple[Any, list[T]]]:
    """Return rows by a key, in order of first appearance."""
    groups: dict[Any, list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def at_batch(row: Measured) -> str:
    """Return a row's condition in words."""
    return f"batch {row.cell.batch_size}"
