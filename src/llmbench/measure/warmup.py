"""The end of a warm-up: no trend is left in the times of its calls.

The last two thirds of the calls are halved. The trend is how much faster the later half is than the earlier, as a
difference of medians of logarithms. Its standard error comes from the bends (differences of successive differences),
which a smooth trend leaves small. Simulated, 500 cells each: at a constant time the median cell settles after 3 calls
without noise, 5 at 1 % and 7 at 5 %; a warming of 1 + 0.5 exp(-k/30) was never settled while over 2 % off at 0.3 %
noise, in 0.6 % of cells at 0.5 %, and in 13 % at 1 %.
"""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST = 3
"""Fewer calls show no trend."""
SEVERAL = 8
"""From this many calls on, the noise of the calls themselves may hide a trend; before, the error must be small."""
IN_NOISE = 0.5
"""The trend that ends a warm-up, in standard errors. At 1, twice as many slow warmings at 2 % noise go unseen."""
BEYOND_NOISE = 3.0
"""The trend that a warning needs, in standard errors: with three calls, 2 of them are often exceeded by chance."""
MAD_OF_NORMAL = 0.6745
"""The median of the absolute value of a standard normal variable."""
MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""The standard error of a median over that of a mean, for normal noise."""


def settled(times_ns: Sequence[int | None], within: float) -> bool:
    """Return whether the warm-up may end: the later calls are at most `within` faster than the earlier."""
    known = [time_ns for time_ns in times_ns if time_ns and time_ns > 0]
    if len(known) < FEWEST:
        return False
    faster, error = trend(known)
    if len(known) < SEVERAL:
        return faster + error <= within
    return faster <= max(within, IN_NOISE * error)


def converged(times_ns: Sequence[int | None], within: float) -> bool | None:
    """Return False if the calls clearly still got faster at the end; None if there are too few to compare."""
    known = [time_ns for time_ns in times_ns if time_ns and time_ns > 0]
    if len(known) < FEWEST:
        return None
    faster, error = trend(known)
    return settled(known, within) or faster <= max(within, BEYOND_NOISE * error)


def trend(times_ns: Sequence[int]) -> tuple[float, float]:
    """Return how much faster later calls are than earlier, as a share, and its standard error; at least three calls."""
    logs = [math.log(time_ns) for time_ns in times_ns]
    last = logs[len(logs) // 3 :]
    half = len(last) // 2
    faster = statistics.median(last[:half]) - statistics.median(last[-half:])
    steps = [after - before for before, after in pairwise(logs)]
    bends = [abs(after - before) for before, after in pairwise(steps)]
    noise = statistics.median(bends) / (MAD_OF_NORMAL * math.sqrt(6))
    return faster, noise * math.sqrt(2 / half) * (MEDIAN_ERROR if half > 2 else 1)
