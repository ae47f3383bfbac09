"""Shared code of importers for tools that load a server over HTTP: definitions, and medians over requests."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from llmbench.results.record import Finding, Given

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFINITIONS = {
    "request_ttft_s": "request sent to first piece of text, median over requests",
    "request_tpot_s": "(time of the last piece - time of the first) / (new tokens - 1), median over requests",
    "request_itl_s": "gap between successive pieces of text, median over those of all requests",
    "request_e2e_s": "request sent to last piece of text, median over requests",
    "served_output_tok_s": "new tokens of completed requests / duration of the run",
    "served_total_tok_s": "prompt and new tokens of completed requests / duration of the run",
}


def of_requests(
    key: str, samples: Sequence[float], clock: str, tokens: str = ""
) -> dict[str, Given]:
    """Return a number as the median of its samples, under its key; empty without samples."""
    if not samples:
        return {}
    return {
        key: Given(
            value=median(samples),
            definition=DEFINITIONS[key],
            clock=clock,
            tokens=tokens,
            per="request",
            samples=list(samples),
        )
    }


def of_run(key: str, value: float, clock: str, tokens: str = "") -> dict[str, Given]:
    """Return a number that the tool itself computed over the run, under its key."""
    return {key: Given(value=value, definition=DEFINITIONS[key], clock=clock, tokens=tokens)}


def failed(count: int, of: int) -> list[Finding]:
    """Return a warning if some requests failed, because leaving them out improves every number."""
    return [Finding("requests_failed", f"{count:,} of {of:,} requests failed")] if count else []


def shared(lengths: Sequence[int]) -> int | None:
    """Return the common length of all requests, if there is one."""
    return lengths[0] if lengths and len(set(lengths)) == 1 else None
