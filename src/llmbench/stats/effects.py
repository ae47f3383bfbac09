"""Differences between two sides of a table, cell by cell, with verdicts (METHOD section 3).

Everything is a difference d of mean logarithms, candidate minus baseline; exp(d) is a ratio. The code knows no
cell, metric or file, which lets simulations test it on tables with a known truth.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmbench.stats.intervals import CONFIDENCE
from llmbench.stats.shrinkage import moderated, prior
from llmbench.stats.special import ndtri, stdtr, stdtrit

if TYPE_CHECKING:
    from llmbench.stats.intervals import Moments
    from llmbench.stats.shrinkage import Prior

Reals: TypeAlias = NDArray[np.float64]

FALSE_DISCOVERIES = 0.05
"""The share of cells called different that may be false in the long run (Benjamini-Hochberg)."""
SAME_CONFIDENCE = 0.90
"""The confidence of the interval that must lie within the margin for the verdict same: two one-sided tests at 0.05.
The verdict different uses the 95 % interval that tables show."""
POWER = 0.8
"""The probability with which the suggested number of sessions would decide an undecided cell."""
PLENTY = 1e9
"""Replaces infinite degrees of freedom, which stdtrit does not accept."""


class Verdict(enum.IntEnum):
    """The verdict on one cell. `WORSE` means slower, or more memory; reports choose the word."""

    WORSE = 1
    BETTER = 2
    SAME = 3
    UNCLEAR = 4


class Noise(enum.IntEnum):
    """The source of a cell's variance."""

    NONE = 0
    OWN = 1
    SHARED = 2
    CALIBRATED = 3


class Differences(NamedTuple):
    """One row per cell: d, its variance from one session per side, and the factor by which sessions reduce it.

    The standard error of d is sqrt(variance * share); with n sessions on both sides the share is 1 / n. `single`
    marks cells with one session on a side; their variance is NaN unless a calibration provides one.
    """

    d: Reals
    variance: Reals
    dof: Reals
    share: Reals
    single: NDArray[np.bool_]
    noise: NDArray[np.int64]


class Effects(NamedTuple):
    """One row per cell: the ratio, its 95 % interval, the probabilities, the verdict.

    Attributes:
        ratio: candidate over baseline.
        low: lower end of the 95 % interval; NaN where there is none.
        high: upper end.
        p: the two-sided probability of a difference this large by chance.
        adjusted: p adjusted by Benjamini and Hochberg over the whole table.
        verdict: the `Verdict` of each cell.
        needed: sessions per side that would decide an unclear cell; NaN if unknown.
        noise: the `Noise` of each cell.

    """

    ratio: Reals
    low: Reals
    high: Reals
    p: Reals
    adjusted: Reals
    verdict: NDArray[np.int64]
    needed: Reals
    noise: NDArray[np.int64]


def unpaired(baseline: Moments, candidate: Moments) -> Differences:
    """Return the differences of two independent sides with pooled variances, or else Welch's."""
    n_a, n_b = baseline.n.astype(float), candidate.n.astype(float)
    dof = n_a + n_b - 2
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = 2 * (baseline.squares + candidate.squares) / dof
        share = (1 / n_a + 1 / n_b) / 2
    made = _made(candidate.mean - baseline.mean, variance, dof, share, np.minimum(n_a, n_b))
    common = _common(made)
    return _welch(made, baseline, candidate) if common is None else _drawn(made, common)


def paired(differences: Moments) -> Differences:
    """Return the differences of two sides measured in the same rounds, from those of each round."""
    n = differences.n.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        made = _made(differences.mean, differences.squares / (n - 1), n - 1, 1 / n, n)
    common = _common(made)
    return made if common is None else _drawn(made, common)


def calibrated(made: Differences, variance: Reals, dof: Reals) -> Differences:
    """Return the differences, with a machine's own variance for cells with one session on a side.

    Args:
        made: the differences.
        variance: of one session's logarithm, per cell; NaN if the calibration has none.
        dof: the degrees of freedom of each variance.

    """
    use = made.single & np.isfinite(variance)
    return made._replace(
        variance=np.where(use, 2 * variance, made.variance),
        dof=np.where(use, dof, made.dof),
        single=made.single & ~use,
        noise=np.where(use, Noise.CALIBRATED, made.noise),
    )


def effects(made: Differences, margin: float, *, lower_is_better: bool) -> Effects:
    """Return ratios with intervals and verdicts; with a margin of 0.02, 2 % in either direction is the same."""
    error = np.sqrt(made.variance * made.share)
    dof = np.minimum(made.dof, PLENTY)
    reach = stdtrit(dof, (1 + CONFIDENCE) / 2) * error
    p = _probability(made.d, error, dof)
    adjusted = benjamini_hochberg(p)
    beyond = np.abs(made.d) - reach > np.log1p(margin)
    reach_same = stdtrit(dof, (1 + SAME_CONFIDENCE) / 2) * error
    worse = made.d > 0 if lower_is_better else made.d < 0
    different = beyond & (adjusted <= FALSE_DISCOVERIES)
    verdict = np.select(
        [different & worse, different, np.abs(made.d) + reach_same < np.log1p(margin)],
        [Verdict.WORSE, Verdict.BETTER, Verdict.SAME],
        Verdict.UNCLEAR,
    )
    with np.errstate(over="ignore"):
        ratio, low, high = (np.exp(made.d + part) for part in (0, -reach, reach))
    return Effects(
        ratio=ratio,
        low=low,
        high=high,
        p=p,
        adjusted=adjusted,
        verdict=verdict,
        needed=np.where(verdict == Verdict.UNCLEAR, _needed(made, margin), np.nan),
        noise=made.noise,
    )


def benjamini_hochberg(p: Reals) -> Reals:
    """Return adjusted probabilities, NaN where p is NaN; importing scipy.stats for it would take 0.6 s."""
    adjusted = np.full_like(p, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    falling = known[np.argsort(-p[known], kind="stable")]
    rank = np.arange(len(falling), 0, -1)
    adjusted[falling] = np.minimum.accumulate(np.minimum(p[falling] * len(falling) / rank, 1))
    return adjusted


def _made(d: Reals, variance: Reals, dof: Reals, share: Reals, fewest: Reals) -> Differences:
    single = fewest < 2
    variance = np.where(single, np.nan, variance)
    noise = np.where(single, Noise.NONE, Noise.OWN)
    return Differences(d, variance, np.where(single, 0.0, dof), share, single, noise)


def _common(made: Differences) -> Prior | None:
    return prior(made.variance[~made.single], made.dof[~made.single])


def _drawn(made: Differences, common: Prior) -> Differences:
    several = ~made.single
    variance, dof = made.variance.copy(), made.dof.copy()
    variance[several], dof[several] = moderated(variance[several], dof[several], common)
    noise = np.where(several, Noise.SHARED, made.noise)
    return made._replace(variance=variance, dof=dof, noise=noise)


def _welch(made: Differences, baseline: Moments, candidate: Moments) -> Differences:
    """Return the differences without assuming equal variances."""
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [m.squares / (m.n - 1) / m.n for m in (baseline, candidate)]
        whole = parts[0] + parts[1]
        dof = whole**2 / (parts[0] ** 2 / (baseline.n - 1) + parts[1] ** 2 / (candidate.n - 1))
        variance = whole / made.share
    exact = ~made.single & (whole == 0)  # without variation any difference is real
    return made._replace(
        variance=np.where(made.single, np.nan, variance),
        dof=np.where(made.single | exact, made.dof, dof),
    )


def _probability(d: Reals, error: Reals, dof: Reals) -> Reals:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(d == 0, 0.0, -np.abs(d) / error)
    p: Reals = np.where(np.isnan(error), np.nan, 2 * stdtr(np.maximum(dof, 1), t))
    return p


def _needed(made: Differences, margin: float) -> Reals:
    """Return the sessions per side that would decide `POWER` of such cells if the estimated ratio were true.

    n = (z_q + z_power)^2 variance / gap^2, and z_q^2 / 4 more for Student's t (Guenther 1981); `gap` is the
    distance of d from the margin. The result exceeds the present number, which did not decide.
    """
    outside = np.abs(made.d) > np.log1p(margin)
    z = ndtri(np.where(outside, 1 + CONFIDENCE, 1 + SAME_CONFIDENCE) / 2)
    gap = np.abs(np.abs(made.d) - np.log1p(margin))
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.ceil((z + ndtri(POWER)) ** 2 * made.variance / gap**2 + z**2 / 4)
        needed: Reals = np.maximum(n, np.floor(1 / made.share) + 1)
    return needed
