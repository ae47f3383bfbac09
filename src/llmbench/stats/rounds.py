"""Whether rounds differ by more than sessions within them: the F test of a two-way layout of cells and rounds.

The model is y = cell + round + residual, with y the logarithm of a session's value. A cell usually has one session
a round, so the residual is their interaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench.stats.special import fdtrc

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RoundEffect(NamedTuple):
    """The F statistic and its probability by chance, and the round that lies farthest from the mean of the others.

    `ratio` is that round's value over theirs: 1.04 is 4 % larger. `spread` is the standard deviation of the logarithms
    of all rounds' values.
    """

    f: float
    p: float
    round: int
    ratio: float
    spread: float


def round_effect(
    values: NDArray[np.float64], cells: NDArray[np.int64], rounds: NDArray[np.int64]
) -> RoundEffect | None:
    """Return the effect of rounds on positive session values; None if the layout cannot show one.

    NaN values are left out. Rounds that no cell connects to others have no effect of their own.
    """
    present = np.isfinite(values) & (values > 0)
    if not present.any():
        return None
    y, (_, cell), (names, number) = (
        np.log(values[present]),
        np.unique(cells[present], return_inverse=True),
        np.unique(rounds[present], return_inverse=True),
    )
    if not len(y):
        return None
    counts = np.zeros((cell.max() + 1, len(names)))
    np.add.at(counts, (cell, number), 1)
    sizes = counts.sum(axis=1)
    deviations = y - (np.bincount(cell, weights=y) / sizes)[cell]
    # The normal equations of the rounds, after the means of the cells are taken out.
    matrix = np.diag(counts.sum(axis=0)) - counts.T @ (counts / sizes[:, None])
    sums = np.bincount(number, weights=deviations, minlength=len(names))
    effects = np.linalg.pinv(matrix, hermitian=True) @ sums
    between = int(np.linalg.matrix_rank(matrix, hermitian=True))
    within = len(y) - len(sizes) - between
    explained = float(effects @ sums)
    residual = float(deviations @ deviations) - explained
    if between < 1 or within < 1 or residual <= 1e-12 * explained:
        return None
    f = (explained / between) / (residual / within)
    apart = (effects - effects.mean()) * len(effects) / (len(effects) - 1)
    farthest = int(np.argmax(np.abs(apart)))
    p = float(fdtrc(between, within, f)) if f > 1 else 1.0
    spread = float(np.std(effects, ddof=1))
    return RoundEffect(f, p, int(names[farthest]), float(np.exp(apart[farthest])), spread)
