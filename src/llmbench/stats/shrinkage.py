"""Variances that borrow from their neighbours: Smyth 2004, so that two or three sessions have power.

Cells of one table share a prior variance; each cell's own is drawn towards it by as many degrees of freedom
as the variances of all cells differ less than chance alone would have them differ.

G. K. Smyth, "Linear models and empirical Bayes methods for assessing differential expression", Statistical
Applications in Genetics and Molecular Biology 3 (2004), article 3; the moments of section 6.2. To the second
moment its own standard error is added: taken as it comes it lets cells borrow too much where they differ. In
simulated tables of 120 unequal cells (4 degrees of freedom), 3 paired sessions and no change, that called 0.18
cells a table different, and so it is 0.06; of ten changes of 5 % among equal cells 9.5 are found instead of 9.7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import polygamma, psi

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_CELLS = 10
"""Fewer variances than this say too little about how they are spread."""

LEAST_SHARE, LEAST_LIKELY = 1e-5, 1e-4
"""A variance under this share of the median one is taken as that: two equal clock readings are luck. With few
degrees of freedom smaller ones are to be expected: chance goes below x as often as x^(dof / 2)."""

NEWTON_STEPS = 50


class Prior(NamedTuple):
    """What a cell's variance is expected to be before it is seen, and the degrees of freedom behind that.

    `dof` is infinite where the cells' variances differ no more than chance would have them.
    """

    variance: float
    dof: float


def prior(variances: NDArray[np.float64], dof: NDArray[np.float64]) -> Prior | None:
    """Return the prior that cells' variances have in common; None for too few cells, or if all are zero.

    Args:
        variances: of shape [cells]; what has no degrees of freedom is left out.
        dof: degrees of freedom of each, of the same shape.

    """
    seen = dof > 0
    s2, d = variances[seen], dof[seen]
    if len(s2) < FEWEST_CELLS or not (middle := float(np.median(s2))):
        return None
    s2 = np.maximum(s2, middle * np.minimum(LEAST_SHARE, LEAST_LIKELY ** (2 / d)))
    e = np.log(s2) - psi(d / 2) + np.log(d / 2)
    squares = (e - e.mean()) ** 2
    doubt = np.sqrt(np.var(squares) / len(squares))
    excess = float(squares.sum() / (len(e) - 1) - np.mean(polygamma(1, d / 2)) + doubt)
    if excess <= 0:
        return Prior(float(np.average(s2, weights=d)), np.inf)
    d0 = 2 * trigamma_inverse(excess)
    return Prior(float(np.exp(np.mean(e) + psi(d0 / 2) - np.log(d0 / 2))), d0)


def moderated(
    variances: NDArray[np.float64], dof: NDArray[np.float64], common: Prior
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return variances drawn towards the common one, and their degrees of freedom.

    These are never more than all cells have together: the prior was learned from no more than that.
    """
    most = dof.sum()
    if np.isinf(common.dof):
        return np.full_like(variances, common.variance), np.full_like(variances, most)
    own = np.where(dof > 0, dof * variances, 0.0)
    together = dof + common.dof
    return (own + common.dof * common.variance) / together, np.minimum(together, most)


def trigamma_inverse(x: float) -> float:
    """Return y with trigamma(y) = x, by the Newton iteration of Smyth's appendix, which climbs to it from below."""
    y = 0.5 + 1 / x
    for _ in range(NEWTON_STEPS):
        value = float(polygamma(1, y))
        step = value * (1 - value / x) / float(polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y
