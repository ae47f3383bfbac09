"""Inference about memory: cells that fitted, cells that did not, and larger ones that need not run.

A cell's need grows with its batch size, prompt and context. If a cell ran out of memory, every cell of the same
engine that is no smaller in any of the three will too, unless a cell as large has fitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from llmbench.results.record import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmbench.results.prediction import Prediction
    from llmbench.spec.sweep import Cell

OOMS_NEEDED = 2
"""The number of processes that must run out of memory before a cell is skipped.

A single one may be chance: a fragmented allocator, or another process's memory. A second one costs one more worker
per frontier; relying on the first could hide a cell that fits.
"""

RAN = (Status.OK, Status.INVALID)
"""Statuses of sessions that ran to the end and therefore fitted, even if their numbers are invalid."""

GIB = 2**30


class Met(msgspec.Struct):
    """The results of one cell: sessions that fitted, and processes, by session and id, that ran out of memory.

    A failed load affects all cells of a worker, in one process; it counts once.
    """

    fitted: int = 0
    ooms: set[tuple[int, int | None]] = set()

    def note(self, status: Status, session: int, worker: Mapping[str, object]) -> None:
        """Add how one session ended."""
        if status in RAN:
            self.fitted += 1
        elif status is Status.OOM:
            pid = worker.get("pid")
            self.ooms.add((session, pid if isinstance(pid, int) else None))


Seen: TypeAlias = "tuple[Cell, Met]"
"""A cell and its results."""


def shows_fit(status: Status) -> bool:
    """Return whether this status shows if a cell fits."""
    return status in RAN or status is Status.OOM


def at_most(cell: Cell, other: Cell) -> bool:
    """Return whether a cell surely needs no more than another of the same engine.

    The prompt counts in addition to the context, because its tokens pass at once and later ones one by one. Nothing is
    inferred from a batch of different lengths to another, because neither need be the larger one throughout.
    """
    if cell.spread or other.spread:
        return cell.id == other.id
    return (
        cell.batch_size <= other.batch_size
        and cell.input_len <= other.input_len
        and context(cell) <= context(other)
    )


def context(cell: Cell) -> int:
    """Return the tokens of one whole sequence, prompt and answer."""
    return cell.input_len + cell.output_len


def fitted(cell: Cell, seen: Iterable[Seen]) -> bool:
    """Return whether this cell, or one that needs at least as much, has ever fitted."""
    return any(met.fitted and at_most(cell, other) for other, met in seen)


def limits(seen: Sequence[Seen]) -> list[Seen]:
    """Return the cells of one engine that ran out of memory while nothing as large has ever fitted."""
    runs = [pair for pair in seen if pair[1].fitted]
    return [(cell, met) for cell, met in seen if met.ooms and not fitted(cell, runs)]


def dominated(cell: Cell, limits: Sequence[Seen]) -> str | None:
    """Return a description of the OOMs that imply one for this cell, or None if they are too few."""
    below = [(other, met) for other, met in limits if at_most(other, cell)]
    below.sort(key=lambda pair: (-len(pair[1].ooms), pair[0].batch_size, context(pair[0])))
    named: list[str] = []
    processes: set[tuple[int, int | None]] = set()
    for other, met in below:
        if met.ooms <= processes:
            continue
        processes |= met.ooms
        times = "once" if len(met.ooms) == 1 else f"{len(met.ooms)} times"
        named.append(f"at batch {other.batch_size}, context {context(other)} (seen {times})")
        if len(processes) >= OOMS_NEEDED:
            return f"needs at least as much memory as the OOM{'s'[: len(named) - 1]} {' and '.join(named)}"
    return None


def too_big(prediction: Prediction | None) -> str | None:
    """Return why a cell is predicted not to fit, with figures, or None if it may fit."""
    if prediction is None or prediction.fits != "no":
        return None
    need, have = prediction.need_bytes, prediction.have_bytes
    if need is None or have is None:
        return None
    known = (("weights", prediction.weights_bytes), ("keys and values", prediction.kv_cache_bytes))
    parts = [(name, size) for name, size in known if size is not None]
    rest = need - sum(size for _, size in parts)
    shares = ", ".join(f"{name} {_gib(size)}" for name, size in (*parts, ("the rest", rest)))
    return f"predicted to need {_gib(need)} GiB of {_gib(have)}: {shares}"


def inferred(
    cell: Cell, seen: Sequence[Seen], limits: Sequence[Seen], prediction: Prediction | None
) -> str | None:
    """Return why a cell need not run, or None; observations outweigh predictions.

    A model that is spread over devices or offloaded needs less of each than predicted.
    """
    reason = too_big(prediction)
    whole = cell.options.get("device_map", "none") == "none"
    if reason and whole and not fitted(cell, seen):
        return reason
    return dominated(cell, limits)


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f}"
