"""What arrives when at a server: a closed loop of so many streams, or an open loop of requests at a rate.

A closed loop sends a stream's next request when its last answer has ended. An open loop sends each request at a time
that was drawn before anything ran, whether or not earlier ones have been answered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from llmbench.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_STREAMS, MOST_RATE = 16_384, 10_000.0
"""Limits against typing errors, above what one client's core carries."""
OPEN_STREAMS = 1024
"""The most requests of an open loop in flight at once; a record in which this many were is invalid."""
FORMS = "8 (streams of a closed loop), 20/s, constant 20/s or gamma 20/s cv 2"
PATTERN = re.compile(
    r"(?:(?P<kind>poisson|constant|gamma)\s+)?(?P<rate>\d+(?:\.\d+)?)/s(?:\s+cv\s+(?P<cv>\d+(?:\.\d+)?))?"
)

Kind = Literal["closed", "poisson", "constant", "gamma"]


class Load(NamedTuple):
    """One load.

    Attributes:
        kind: `closed`, or how the gaps between arrivals are distributed.
        streams: the requests in flight of a closed loop, the most of an open one.
        rate: of an open loop, requests a second.
        cv: of gamma, the standard deviation of a gap over its mean.

    """

    kind: Kind
    streams: int
    rate: float = 0.0
    cv: float = 1.0


def parse(text: str) -> Load:
    """Return the load that a text means; raise SpecError, with the forms there are, if it means none."""
    plain = " ".join(text.split())
    if plain.isascii() and plain.isdigit() and 1 <= int(plain[:9]) <= MOST_STREAMS:
        return Load("closed", int(plain))
    found = PATTERN.fullmatch(plain)
    if found is None or (found["cv"] is not None) != (found["kind"] == "gamma"):
        raise SpecError(f"load: {text!r} is not a load; write {FORMS}.")
    rate, cv = float(found["rate"]), float(found["cv"] or 1)
    if not 0 < rate <= MOST_RATE or cv <= 0:
        raise SpecError(
            f"load: {text!r}: a rate is above 0 and at most {MOST_RATE:,.0f}/s, and cv above 0."
        )
    return Load(found["kind"] or "poisson", OPEN_STREAMS, rate, cv)  # type: ignore[arg-type]


def arrivals(load: Load, seed: str, horizon_s: float) -> NDArray[np.int64]:
    """Return the times at which requests of an open loop are due, in nanoseconds from its start, up to a horizon.

    Gaps are drawn as they are and not rescaled: a Poisson process has no fixed number of arrivals.
    """
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
