"""The times at which requests of an open loop are due, drawn before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmbench.serve.trace import Trace
    from llmbench.spec.load import Load


def arrivals(
    load: Load, seed: str, horizon_s: float, trace: Trace | None = None
) -> NDArray[np.int64]:
    """Return the times at which requests of an open loop are due, in nanoseconds from its start, up to a horizon.

    Gaps are drawn as they are and not rescaled: a Poisson process has no fixed number of arrivals. Those of a trace
    are divided by its speed.
    """
    if trace is not None:
        times = trace.at_s / load.speed
        return (times[times <= horizon_s] * 1e9).astype(np.int64)
    rng = np.random.default_rng(list(seed.encode()))
    count = int(load.rate * horizon_s * 1.5 + 10 * (load.rate * horizon_s) ** 0.5 + 16)
    if load.kind == "constant":
        gaps = np.full(count, 1 / load.rate)
    elif load.kind == "gamma":
        shape = 1 / load.cv**2
        gaps = rng.gamma(shape, 1 / (load.rate * shape), count)
    else:
        gaps = rng.exponential(1 / load.rate, count)
    times = np.cumsum(gaps)
    return (times[times <= horizon_s] * 1e9).astype(np.int64)
