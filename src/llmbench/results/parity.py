"""Cells whose engine failed its parity check, which makes their records invalid to every reader.

A verdict is a separate line in the file of the records that it covers, which stay unchanged.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TypeVar

import msgspec

from llmbench.results import lines, record
from llmbench.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

T = TypeVar("T")

HEAD = b'{"kind":"parity",'

_verdict = msgspec.json.Decoder(record.Parity)


def cells(path: Path, size: int) -> dict[str, str]:
    """Return why each cell failed, by id; the last verdict on a cell counts, except `untested` ones.

    Only lines with verdicts are decoded.
    """
    failed: dict[str, str] = {}
    for verdict in _verdicts(path, size):
        for cell in verdict.cells:
            if verdict.verdict == "failed":
                failed[cell] = verdict.why
            elif verdict.verdict == "passed":
                failed.pop(cell, None)
    return failed


def _verdicts(path: Path, size: int) -> Iterator[record.Parity]:
    if not size or not os.access(path, os.R_OK):
        return
    with contextlib.suppress(FormatError):  # readers of the run report it, like any damage
        if not lines.holds(path, size, HEAD):
            return  # as in nearly every run; checking its lines would take twenty times as long
        for line in lines.scan(path, size, lambda _: None):
            if line.startswith(HEAD):
                with contextlib.suppress(*lines.NOT_UNDERSTOOD):
                    yield _verdict.decode(line)


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
