"""The highest rate of requests at which a server still meets its limits: a search, and a window to prove what it found.

Rates are doubled until one is too high, or halved until one is not, and then the span is halved by its logarithm, each
rate with a short window. The rate
found is measured in a full window; while the share of requests that met every limit is not surely as high as wanted, it
is lowered.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from llmbench.stats.special import betaincinv

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_DOUBLINGS, BISECTIONS, STEP, MOST_STEPS = 12, 5, 0.95, 8
CONFIDENCE = 0.95


class Probe(NamedTuple):
    """A rate that was tried: requests a second, how many met every limit of how many, and whether it was carried."""

    rate: float
    good: int
    due: int
    carried: bool

    def meets(self, share: float) -> bool:
        """Return whether as many as wanted met every limit, by the numbers alone."""
        return self.carried and self.due > 0 and self.good >= share * self.due

    def surely_meets(self, share: float) -> bool:
        """Return whether the lower end of a one-sided 95 % interval of the share is as high as wanted."""
        return self.carried and lower_end(self.good, self.due) >= share


def lower_end(good: int, due: int) -> float:
    """Return the lower end of the one-sided 95 % interval of a share, after Clopper and Pearson."""
    if not good:
        return 0.0
    return float(betaincinv(good, due - good + 1, 1 - CONFIDENCE))


def fewest(share: float) -> int:
    """Return how many requests, all of them good, show that the share is surely as high as wanted."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share)) if share < 1 else 0


def search(
    first: float, share: float, briefly: Callable[[float], Probe], fully: Callable[[float], Probe]
) -> tuple[Probe | None, list[Probe]]:
    """Return the rate that was proven, None if none was, and every rate that was tried.

    Args:
        first: a rate to begin with, which the server should carry.
        share: of the requests that must meet every limit.
        briefly: tries a rate in a short window.
        fully: tries it in a full one.

    """
    tried: list[Probe] = []

    def meets(rate: float) -> bool:
        tried.append(briefly(rate))
        return tried[-1].meets(share)

    factor = 2.0 if meets(first) else 0.5
    low = high = first
    for _ in range(MOST_DOUBLINGS):
        low, high = high, high * factor
        if meets(high) != (factor > 1):
            break
    low, high = min(low, high), max(low, high)
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        if meets(middle):
            low = middle
        else:
            high = middle
    for _ in range(MOST_STEPS):
        tried.append(fully(low))
        if tried[-1].surely_meets(share):
            return tried[-1], tried
        low *= STEP
    return None, tried
