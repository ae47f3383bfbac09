"""The geometric mean of a table's ratios, with an interval over sessions instead of cells.

Cells of one round share the machine's state: a thousand cells in three rounds still sample it three times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench.stats.intervals import CONFIDENCE
from llmbench.stats.special import stdtrit

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Overall(NamedTuple):
    """The geometric mean of ratios, the number of cells, and its 95 % interval, NaN if there is none."""

    ratio: float
    low: float
    high: float
    cells: int


class Residuals(NamedTuple):
    """The deviation of each session from its cell's mean logarithm, and the session's round."""

    values: NDArray[np.float64]
    rounds: NDArray[np.int64]

    def of_rounds(self) -> NDArray[np.float64]:
        """Return the mean residual of each round."""
        _, number = np.unique(self.rounds, return_inverse=True)
        means: NDArray[np.float64] = np.bincount(number, weights=self.values) / np.bincount(number)
        return means


def residuals(
    y: NDArray[np.float64],
    cells: NDArray[np.int64],
    rounds: NDArray[np.int64],
    mean: NDArray[np.float64],
) -> Residuals:
    """Return the residuals of sessions around the means of their cells; the only session of a cell has none."""
    several = np.bincount(cells, minlength=len(mean))[cells] > 1
    return Residuals((y - mean[cells])[several], rounds[several])


def overall(d: NDArray[np.float64], sides: tuple[Residuals, ...]) -> Overall:
    """Return the mean of differences of logarithms as a ratio.

    Args:
        d: candidate minus baseline, for each cell.
        sides: the residuals of both sides, or of the one set of differences of paired rounds.

    """
    middle = float(np.mean(d)) if len(d) else np.nan
    of_rounds = [side.of_rounds() for side in sides]
    dof = sum(len(means) - 1 for means in of_rounds)
    if min(map(len, of_rounds)) < 2:
        return Overall(float(np.exp(middle)), np.nan, np.nan, len(d))
    variance = sum(float(np.sum(means**2)) for means in of_rounds) / dof
    error = np.sqrt(variance * sum(1 / len(means) for means in of_rounds))
    reach = float(stdtrit(dof, (1 + CONFIDENCE) / 2)) * error
    ratio, low, high = np.exp([middle, middle - reach, middle + reach]).tolist()
    return Overall(ratio, low, high, len(d))
