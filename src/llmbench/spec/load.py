"""What arrives when at a server, and the options that every served cell has.

A closed loop of so many streams sends a stream's next request when its last answer has ended. An open loop sends each
request at a time that was drawn, or read from a trace, before anything ran, whether or not earlier ones have been
answered.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from llmbench.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOAD, SHARED_PREFIX = "load", "shared_prefix"
"""Options that are axes of their own in a sweep's file."""
SHARDS, MOST_SHARDS = "shards", 64
OPEN_STREAMS = 1024
"""The most requests of an open loop in flight at once; a record in which this many were is invalid."""
LIMITS = ("ttft_slo_ms", "tpot_slo_ms")
"""Options that say what a request must meet."""
OPTIONS: dict[str, Any] = {
    LOAD: "1",
    "window_s": 30.0,
    "ttft_slo_ms": 0.0,
    "tpot_slo_ms": 0.0,
    "slo_share": 0.99,
    SHARED_PREFIX: 0.0,
    "prompt_as": ("ids", "text", "chat"),
    "extra": "",
    SHARDS: 1,
}
"""Options of every served cell, of which its server does not know."""
MEANINGS = {
    LOAD: "streams of a closed loop (8), requests a second (20/s, constant 20/s, gamma 20/s cv 2), trace FILE, or most",
    "window_s": "seconds that count, after the load has settled",
    "ttft_slo_ms": "limit of the time to first token, for goodput; 0: none",
    "tpot_slo_ms": "limit of the time per token, for goodput; 0: none",
    "slo_share": "share of requests that must meet the limits, for the load most",
    SHARED_PREFIX: "share of each prompt that all prompts of a session begin with",
    "prompt_as": "how a prompt is sent: as token ids, as words, or as words in a chat",
    "extra": "JSON object whose keys are added to every request",
    SHARDS: f"client processes, each with a share of the load; 0: one for each {OPEN_STREAMS:,} in flight",
}

MOST_STREAMS, MOST_RATE = 16_384, 10_000.0
"""Limits against typing errors, above what one client's core carries."""
FORMS = "8 (streams of a closed loop), 20/s, constant 20/s, gamma 20/s cv 2, trace FILE, trace FILE speed 2, or most"
PATTERN = re.compile(
    r"(?:(?P<kind>poisson|constant|gamma)\s+)?(?P<rate>\d+(?:\.\d+)?)/s(?:\s+cv\s+(?P<cv>\d+(?:\.\d+)?))?"
)
TRACE_PATTERN = re.compile(r"trace\s+(?P<file>\S.*?)(?:\s+speed\s+(?P<speed>\d+(?:\.\d+)?))?")

Kind = Literal["closed", "poisson", "constant", "gamma", "trace", "most"]
MOST: Final = "most"
TRACE: Final = "trace"
CLOSED: Final = "closed"


class Load(NamedTuple):
    """One load.

    Attributes:
        kind: `closed`, how the gaps between arrivals are distributed, `trace`, or `most`: the highest rate within the
            limits.
        streams: the requests in flight of a closed loop, the most of an open one.
        rate: of an open loop, requests a second.
        cv: of gamma, the standard deviation of a gap over its mean.
        file: of a trace, as it was given.
        speed: of a trace, how many of its seconds pass in one.

    """

    kind: Kind
    streams: int
    rate: float = 0.0
    cv: float = 1.0
    file: str = ""
    speed: float = 1.0


def parse(text: str) -> Load:
    """Return the load that a text means; raise SpecError, with the forms there are, if it means none."""
    plain = " ".join(text.split())
    if plain.isascii() and plain.isdigit() and 1 <= int(plain[:9]) <= MOST_STREAMS:
        return Load(CLOSED, int(plain))
    if plain == MOST:
        return Load(MOST, OPEN_STREAMS)
    if found := TRACE_PATTERN.fullmatch(text.strip()):
        speed = float(found["speed"] or 1)
        if not speed:
            raise SpecError(f"load: {text!r}: a speed is above 0.")
        return Load(TRACE, OPEN_STREAMS, file=found["file"], speed=speed)
    found = PATTERN.fullmatch(plain)
    if found is None or (found["cv"] is not None) != (found["kind"] == "gamma"):
        raise SpecError(f"load: {text!r} is not a load; write {FORMS}.")
    rate, cv = float(found["rate"]), float(found["cv"] or 1)
    if not 0 < rate <= MOST_RATE or cv <= 0:
        raise SpecError(
            f"load: {text!r}: a rate is above 0 and at most {MOST_RATE:,.0f}/s, and cv above 0."
        )
    return Load(found["kind"] or "poisson", OPEN_STREAMS, rate, cv)  # type: ignore[arg-type]


def is_open(options: Mapping[str, Any]) -> bool:
    """Return whether requests of a cell arrive whatever has been answered, so that no number is in flight."""
    return LOAD in options and not str(options[LOAD]).isdigit()


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a load among those given, the others at their defaults."""
    return {
        name: given.get(name, default[0] if isinstance(default, tuple) else default)
        for name, default in OPTIONS.items()
    }


def shards(options: Mapping[str, Any]) -> int:
    """Return how many client processes a load wants: as many as asked for, or one for each 1,024 in flight."""
    full = with_defaults(options)
    return int(full[SHARDS]) or -(-parse(str(full[LOAD])).streams // OPEN_STREAMS)


def extra_keys(text: str) -> dict[str, Any]:
    """Return the keys that are added to every request; raise SpecError for a text that is no JSON object."""
    try:
        keys = json.loads(text or "{}")
    except ValueError:
        keys = None
    if not isinstance(keys, dict):
        raise SpecError(f'extra: {text!r} is not a JSON object such as {{"min_tokens": 8}}.')
    return keys
