"""Cells whose engine failed its parity check, which makes their records invalid to every reader.

A verdict is a separate line in the file of the records that it covers, which stay unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from llmbench.results import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")


def failed(verdicts: Iterable[record.Parity]) -> dict[str, str]:
    """Return why each cell failed, by id; the last verdict on a cell counts, except `untested` ones."""
    failed: dict[str, str] = {}
    for verdict in verdicts:
        for cell in verdict.cells:
            if verdict.verdict == "failed":
                failed[cell] = verdict.why
            elif verdict.verdict != "untested":
                failed.pop(cell, None)
    return failed


def errors_nats(verdicts: Iterable[record.Parity]) -> dict[str, float]:
    """Return how far each cell's model is from the reference, in nats, by id; the last verdict with a figure counts."""
    return {
        cell: verdict.error_nats
        for verdict in verdicts
        if verdict.error_nats is not None
        for cell in verdict.cells
    }


def with_verdict(value: T, failed: Mapping[str, str]) -> T:
    """Return a record as invalid if its cell failed parity; any other value unchanged.

    `value` may be any struct with some of a record's fields.
    """
    why = failed.get(getattr(value, "id", ""))
    if why is None or getattr(value, "status", None) is not record.Status.OK:
        return value
    problems = [*getattr(value, "problems", []), record.Finding("parity", why)]
    changes = {"status": record.Status.INVALID, "reason": f"parity: {why}", "problems": problems}
    known = {key: new for key, new in changes.items() if hasattr(value, key)}
    changed: T = msgspec.structs.replace(value, **known)  # type: ignore[type-var]
    return changed
