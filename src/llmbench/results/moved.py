"""Cells that were moved to another unit: their records on the earlier one stay in the file and no longer count."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmbench.results.record import Move


class _Worker(msgspec.Struct, frozen=True):
    unit: str = ""


class _Measured(msgspec.Struct):
    id: str
    worker: _Worker = _Worker()


_measured = msgspec.json.Decoder(_Measured)


def units(moves: Iterable[Move]) -> dict[str, set[str]]:
    """Return the units that each cell was moved from, by the cell's id."""
    left: defaultdict[str, set[str]] = defaultdict(set)
    for move in moves:
        for cell in move.cells:
            left[cell].add(move.unit)
    return dict(left)


def is_left_behind(line: bytes, left: Mapping[str, set[str]]) -> bool:
    """Return whether the line of a record is of a cell that was moved away from the record's unit."""
    try:
        measured = _measured.decode(line)
    except msgspec.DecodeError:
        return False  # whoever reads it says so
    return measured.worker.unit in left.get(measured.id, ())
