"""Shared code of importers for tools that load a server over HTTP: definitions, and medians over requests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbench.importers.fields import Fields
from llmbench.results.record import Finding, Given

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.importers import ToolFile

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
            value=float(np.median(samples)),
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


def runs(document: ToolFile) -> list[Any]:
    """Return the runs of a file: its values, and the items of those that are lists."""
    held = [value if isinstance(value, list) else [value] for value in document.values]
    return [run for values in held for run in values]


def has_keys(document: ToolFile, keys: set[str]) -> bool:
    """Return whether the file has runs, each an object with these keys."""
    held = runs(document)
    return bool(held) and all(isinstance(run, dict) and run.keys() >= keys for run in held)


def each_run(document: ToolFile) -> list[Fields]:
    """Return the runs of a file as fields; of several, each by its number."""
    held = runs(document)
    names = [f": run {number}" for number in range(1, len(held) + 1)] if len(held) > 1 else [""]
    return [Fields(run, document.name + name) for run, name in zip(held, names, strict=True)]


def stated(fields: Fields, key: str, refused: dict[str, str]) -> float | None:
    """Return a median in seconds from a key in milliseconds; None, with the reason, if it is absent, NaN or 0."""
    value = fields.raw(key)
    if isinstance(value, float) and math.isnan(value):
        refused[key] = "is NaN: there was nothing to take a median of"
        return None
    if value is None or value == 0:
        return None
    return fields.positive(key) / 1e3


def medians(
    fields: Fields, names: Mapping[str, str], clock: str, tokens: str, refused: dict[str, str]
) -> dict[str, Given]:
    """Return the medians in a file under our keys; tools write 0 for one that is missing."""
    given: dict[str, Given] = {}
    for key, theirs in names.items():
        value = stated(fields, theirs, refused)
        if value is not None:
            given |= of_run(key, value, clock, tokens)
        elif fields.raw(theirs) == 0:
            refused[theirs] = "is 0, which the tool writes for a missing value"
    return given


def zero(fields: Fields, names: Mapping[str, str], completed: int) -> list[Finding]:
    """Return a warning if the median time to the first token is 0 although tokens came after it."""
    first, after = fields.raw(names["request_ttft_s"]), fields.raw(names["request_tpot_s"])
    if first != 0 or not isinstance(after, int | float) or not after > 0:
        return []
    detail = f"the median TTFT is 0: most of the {completed:,} completed requests gave no token"
    return [Finding("empty_answers", detail)]


def empty(count: int, of: int) -> list[Finding]:
    """Return a warning if completed requests gave no token."""
    detail = f"{count:,} of {of:,} completed requests gave no token"
    return [Finding("empty_answers", detail)] if count else []


def failed(count: int, of: int) -> list[Finding]:
    """Return a warning if some requests failed, because leaving them out improves every number."""
    return [Finding("requests_failed", f"{count:,} of {of:,} requests failed")] if count else []


def shared(lengths: Sequence[int]) -> int | None:
    """Return the common length of all requests, if there is one."""
    return lengths[0] if lengths and len(set(lengths)) == 1 else None
