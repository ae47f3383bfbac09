"""Intervals over sessions, and percentiles with enough samples (METHOD section 3).

The replicate is the session. Everything works on y = log(value of a session), which makes effects ratios.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmbench.stats.special import stdtrit

if TYPE_CHECKING:
    from collections.abc import Sequence

Reals: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

CONFIDENCE = 0.95

# fmt: off
T95 = np.array((
    np.nan,
    12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934, 2.5705818356363146,
    2.4469118511449786, 2.364624251592784, 2.306004135204166, 2.262157162798205, 2.228138851986274,
    2.200985160091639, 2.1788128296672284, 2.1603686564627913, 2.144786687917804, 2.131449545559776,
    2.1199052992212546, 2.1098155778333156, 2.1009220402410382, 2.0930240544083087, 2.085963447265864,
    2.0796138447276795, 2.0738730679040254, 2.0686576104190486, 2.0638985616280245, 2.0595385527532972,
    2.0555294386428735, 2.0518305164802846, 2.0484071417952454, 2.045229642132703, 2.0422724563012378,
))
# fmt: on
"""Student's t at 97.5 % by degrees of freedom, as scipy gives it: to import scipy takes half the time of a command."""

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
        reach = t_quantile(n - 1, confidence) * error
        half_width = np.where(n > 1, np.expm1(reach), np.nan)
    return Estimates(np.exp(mean), half_width, n)


def t_quantile(freedom: Integers, confidence: float = CONFIDENCE) -> Reals:
    """Return how many standard errors an interval reaches to each side, by its degrees of freedom; NaN below one."""
    if confidence == CONFIDENCE and freedom.max(initial=0) < len(T95):
        return T95[np.maximum(freedom, 0)]
    quantile: Reals = stdtrit(freedom, (1 + confidence) / 2)
    return quantile


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
