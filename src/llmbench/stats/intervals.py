"""Intervals over sessions, and percentiles with enough samples (METHOD section 3).

The replicate is the session. Everything works on y = log(value of a session), which makes effects ratios.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # the t quantile itself; importing scipy.stats costs 0.6 s

if TYPE_CHECKING:
    from collections.abc import Sequence

Reals: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

CONFIDENCE = 0.95

TAIL_SAMPLES = 10
"""The samples needed beyond a percentile; with fewer it would only reflect the largest one."""


class Estimates(NamedTuple):
    """One row per cell: exp(mean y), its relative half-width, and the number of sessions.

    `middle` is NaN without a session, and `half_width` with fewer than two. The interval is middle / (1 +
    half_width) to middle * (1 + half_width).
    """

    middle: NDArray[np.float64]
    half_width: NDArray[np.float64]
    sessions: NDArray[np.int64]


class Moments(NamedTuple):
    """One row per cell: the number of sessions, the mean of their y (NaN for none), the sum of squares around it."""

    n: NDArray[np.int64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]


def estimates(
    values: NDArray[np.float64],
    cells: NDArray[np.int64],
    count: int,
    confidence: float = CONFIDENCE,
) -> Estimates:
    """Return an estimate for each of `count` cells, from positive session values and their cell indices.

    NaN values are sessions without the value. Uses Student's t on y, vectorised over cells, because one call per
    cell takes longer for 100,000 sessions than reading them.
    """
    n, mean, squares = moments(values, cells, count)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error = np.sqrt(squares / (n - 1) / n)  # one session: 0 degrees of freedom
        reach = stdtrit(n - 1.0, (1 + confidence) / 2) * error
        half_width = np.where(n > 1, np.expm1(reach), np.nan)
    return Estimates(np.exp(mean), half_width, n)


def moments(values: NDArray[np.float64], cells: NDArray[np.int64], count: int) -> Moments:
    """Return the moments of y of each of `count` cells; NaN values are sessions without the value."""
    present = np.isfinite(values) & (values > 0)
    y, cell = np.log(values[present]), cells[present]
    n = np.bincount(cell, minlength=count)
    with np.errstate(divide="ignore", invalid="ignore"):  # no session: 0 / 0
        mean = np.bincount(cell, weights=y, minlength=count) / n
    squares = np.bincount(cell, weights=(y - mean[cell]) ** 2, minlength=count).astype(np.float64)
    return Moments(n, mean, squares)


def half_width(values: Sequence[float], confidence: float = CONFIDENCE) -> float | None:
    """Return the relative half-width of the interval around sessions' values; None for fewer than two.

    0.015 means that the interval reaches 1.5 % above its middle, and a little less below.
    """
    array = np.asarray(values, dtype=np.float64)
    width = float(estimates(array, np.zeros(len(array), np.int64), 1, confidence).half_width[0])
    return None if np.isnan(width) else width


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the percentile, or None from fewer than 10 / (1 - share) independent samples.

    For example, the p99 of 30 samples is below the true value 83 % of the time.
    """
    if len(values) * (1 - share) < TAIL_SAMPLES * (1 - 1e-9):  # 1 - 0.99 is not quite 0.01
        return None
    return float(np.quantile(np.asarray(values, dtype=np.float64), share))
