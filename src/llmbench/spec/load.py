"""What arrives when at a server: a closed loop of so many streams, or an open loop of requests at a rate.

A closed loop sends a stream's next request when its last answer has ended. An open loop sends each request at a time
that was drawn before anything ran, whether or not earlier ones have been answered.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from llmbench.errors import SpecError

MOST_STREAMS, MOST_RATE = 16_384, 10_000.0
"""Limits against typing errors, above what one client's core carries."""
OPEN_STREAMS = 1024
"""The most requests of an open loop in flight at once; a record in which this many were is invalid."""
FORMS = "8 (streams of a closed loop), 20/s, constant 20/s, gamma 20/s cv 2, or most"
PATTERN = re.compile(
    r"(?:(?P<kind>poisson|constant|gamma)\s+)?(?P<rate>\d+(?:\.\d+)?)/s(?:\s+cv\s+(?P<cv>\d+(?:\.\d+)?))?"
)

MOST = "most"
Kind = Literal["closed", "poisson", "constant", "gamma", "most"]


class Load(NamedTuple):
    """One load.

    Attributes:
        kind: `closed`, how the gaps between arrivals are distributed, or `most`: the highest rate within the limits.
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
    if plain == MOST:
        return Load("most", OPEN_STREAMS)
    found = PATTERN.fullmatch(plain)
    if found is None or (found["cv"] is not None) != (found["kind"] == "gamma"):
        raise SpecError(f"load: {text!r} is not a load; write {FORMS}.")
    rate, cv = float(found["rate"]), float(found["cv"] or 1)
    if not 0 < rate <= MOST_RATE or cv <= 0:
        raise SpecError(
            f"load: {text!r}: a rate is above 0 and at most {MOST_RATE:,.0f}/s, and cv above 0."
        )
    return Load(found["kind"] or "poisson", OPEN_STREAMS, rate, cv)  # type: ignore[arg-type]
