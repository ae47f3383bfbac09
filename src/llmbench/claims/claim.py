"""What a claim is, and what an answer to one is: verdicts by condition, each with its figure and its cells."""

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
    """What the measurements say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    MIXED = "mixed"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"


class Assumption(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number that a check rests on without measuring it, and why it is what it is."""

    value: float
    why: str


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of configs/claims.

    Attributes:
        report: the short name of the report, and the place in it.
        title: of the report.
        date: when it was published.
        claim: what it says, in our words.
        predicts: what must then be measured.
        needs: which data decide it.
        rule: how, with its thresholds.
        thresholds: the numbers of the rule, by name.
        assumptions: the numbers that are not measured, by name.
        sweep: what would settle it, as a sweep file says it; None if no sweep of one's own does.
        on: the machine that the sweep must run on, in words.

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
    """Where a claim says that a figure lies; an open end is 0 or infinite."""

    low: float = 0.0
    high: float = math.inf

    def verdict(self, figure: Interval) -> ClaimVerdict:
        """Return supported if the whole interval lies inside, contradicted if all of it lies outside."""
        inside = figure.lies_within(*self)
        if inside is None:
            return ClaimVerdict.INCONCLUSIVE
        return ClaimVerdict.SUPPORTED if inside else ClaimVerdict.CONTRADICTED


class Part(NamedTuple):
    """The verdict under one condition.

    Attributes:
        where: the condition, `batch 1`; empty if there is only one.
        said: what was measured, in words, before the figure.
        unit: of the figure; a ratio has none.
        rows: the cells used.
        predicted: where the claim says that the figure lies; None if it says it of no figure.

    """

    where: str
    verdict: ClaimVerdict
    said: str
    figure: Interval | None = None
    unit: str = ""
    rows: tuple[Measured, ...] = ()
    predicted: Range | None = None


class Answer(NamedTuple):
    """Every condition that was measured, and what else a reader must know."""

    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> ClaimVerdict:
        """Return the verdict that all conditions share, or that they differ."""
        found = {part.verdict for part in self.parts}
        if not found:
            return ClaimVerdict.NOT_MEASURED
        return found.pop() if len(found) == 1 else ClaimVerdict.MIXED


class Evidence(NamedTuple):
    """All measured cells, and the price that the user gave."""

    rows: Sequence[Measured]
    asked: prices.PriceOptions

    @property
    def price(self) -> str:
        """Return what an hour costs and who says so; empty if nothing tells it."""
        hours = filter(None, map(self._hour, self.rows))
        return "; ".join(dict.fromkeys(hour.said for hour in hours))

    def hour_usd(self, row: Measured) -> float | None:
        """Return what an hour of a cell costs; None if nothing tells it."""
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
    """Return the verdict of a figure that is held against a range."""
    return Part(where, predicted.verdict(figure), said, figure, unit, rows, predicted)


def grouped(rows: Iterable[T], key: Callable[[T], Any]) -> list[tuple[Any, list[T]]]:
    """Return rows by a key, in order of first appearance."""
    found: dict[Any, list[T]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.items())


def at_batch(row: Measured) -> str:
    """Return a row's condition in words."""
    return f"batch {row.cell.batch_size}"
