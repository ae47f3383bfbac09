"""Figures with 95 % intervals: of one cell, of a ratio of two cells, of a slope over many.

As in `stats`, a session is one value and all computation is on logarithms. A figure from one session has no
interval and decides nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench.stats.intervals import CONFIDENCE, estimates
from llmbench.stats.special import stdtrit

if TYPE_CHECKING:
    from collections.abc import Sequence

QUANTILE = (1 + CONFIDENCE) / 2


class Interval(NamedTuple):
    """A figure and the ends of its 95 % interval; both ends are NaN if there is none."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Return whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def times(self, factor: float) -> Interval:
        """Return the figure multiplied by an exact factor."""
        return Interval(*(part * factor for part in self))

    def over(self, numerator: float = 1.0) -> Interval:
        """Return the numerator divided by this figure, with its ends swapped."""
        return Interval(numerator / self.value, numerator / self.high, numerator / self.low)

    def lies_within(self, low: float, high: float) -> bool | None:
        """Return whether the whole interval lies between two ends; None if it straddles one, or there is none."""
        if not self.known:
            return None
        if low <= self.low and self.high <= high:
            return True
        return False if self.high < low or high < self.low else None


def exactly(value: float) -> Interval:
    """Return a figure that was counted or computed, not timed."""
    return Interval(value, value, value)


def around(values: Sequence[float]) -> Interval:
    """Return the mean of logarithms of sessions' values, with its interval from Student's t."""
    array = np.asarray(values, dtype=np.float64)
    estimate = estimates(array, np.zeros(len(array), np.int64), 1)
    return _reaching(float(estimate.middle[0]), 1 + float(estimate.half_width[0]))


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Return the ratio of two cells' values, unpaired: Welch's t on logarithms."""
    return product([(1.0, numerator), (-1.0, denominator)])


def product(powers: Sequence[tuple[float, Sequence[float]]]) -> Interval:
    """Return the product of powers of cells' values: a ratio, or an interpolation between two cells.

    A weighted sum of means of logarithms; its degrees of freedom are Satterthwaite's.
    """
    sides = [(power, np.log(np.asarray(values, np.float64))) for power, values in powers if power]
    middle = _exp(sum(power * float(side.mean()) for power, side in sides))
    if min(len(side) for _, side in sides) < 2:
        return Interval(middle, math.nan, math.nan)
    parts = [power**2 * float(side.var(ddof=1)) / len(side) for power, side in sides]
    total = sum(parts)
    if total == 0:
        return exactly(middle)
    shares = zip(parts, sides, strict=True)
    freedom = total**2 / sum(part**2 / (len(side) - 1) for part, (_, side) in shares)
    return _reaching(middle, _exp(stdtrit(freedom, QUANTILE) * math.sqrt(total)))


def _reaching(middle: float, factor: float) -> Interval:
    """Return a figure with ends a factor below and above; no ends if they would be zero and infinity."""
    ends = (middle / factor, middle * factor)
    return Interval(middle, *(ends if math.isfinite(ends[1]) else (math.nan, math.nan)))


def _exp(logarithm: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(logarithm))


def slope(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Return the slope of log y over log x by least squares; its interval comes from the residuals of the points.

    Two points give a slope without an interval.
    """
    across, up = np.log(np.asarray(x, np.float64)), np.log(np.asarray(y, np.float64))
    centred = across - across.mean()
    spread = float(centred @ centred)
    rise = float(centred @ up) / spread
    freedom = len(across) - 2
    if freedom < 1:
        return Interval(rise, math.nan, math.nan)
    left = up - up.mean() - rise * centred
    reach = float(stdtrit(freedom, QUANTILE)) * math.sqrt(float(left @ left) / freedom / spread)
    return Interval(rise, rise - reach, rise + reach)
