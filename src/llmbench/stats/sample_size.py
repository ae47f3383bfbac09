"""The number of sessions that an interval of the wanted width takes, fixed before the further ones are measured.

A rule that stops a cell as soon as its interval is narrow selects lucky variances: such cells covered 87 % instead of
95 % at a true spread of 2 %, and 37 % at 5 %. So all cells get one number of sessions, from the variance that all of
them share in the first stage (C. Stein, "A two-sample test for a linear hypothesis whose power is independent of the
variance", Annals of Mathematical Statistics 16 (1945)). No cell's own luck decides, and its interval stays Student's
over all its sessions. `scripts/bench-compare coverage` holds the real command against a known true value.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from llmbench.stats.intervals import moments, t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST_FREEDOM = 20
"""Degrees of freedom of a variance that may end a sweep early: ten cells of three sessions. With eight degrees, cells
that ended early at a true spread of 3 % covered 91 %."""


MOST = 100
"""The most sessions that are worth naming; nobody measures a cell more often."""


def sessions_for(deviation: float, within: float, least: int = 2, most: int = MOST) -> int | None:
    """Return the fewest sessions whose interval has a relative half-width of `within`; None above `most`.

    Args:
        deviation: of the logarithms of one session's value.
        within: the wanted half-width; 0.015 means that the interval reaches 1.5 % above its middle.
        least: no fewer than this, and at least two.
        most: no more than this.

    """
    numbers = np.arange(max(least, 2), most + 1)
    reach = t_quantile(numbers - 1) * deviation / np.sqrt(numbers)
    enough = numbers[np.expm1(reach) <= within]
    return int(enough[0]) if len(enough) else None


def shared_deviation(first_stage: Sequence[Sequence[float]]) -> float | None:
    """Return the deviation of logarithms that cells share, or None if too few sessions tell it.

    Args:
        first_stage: the positive values of each cell's first sessions.

    """
    values = np.array([value for cell in first_stage for value in cell], np.float64)
    owners = np.repeat(np.arange(len(first_stage)), [len(cell) for cell in first_stage])
    seen = moments(values, owners, len(first_stage))
    freedom = int(np.maximum(seen.n - 1, 0).sum())
    if freedom < FEWEST_FREEDOM:
        return None
    return math.sqrt(float(seen.squares.sum()) / freedom)
