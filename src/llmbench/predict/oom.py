"""Where memory ends: which cells fitted, which did not, and what follows for larger ones without running them.

A cell's need grows with its batch, its prompt and its whole context. So one that ran out of memory speaks
for every cell of the same engine that is no smaller in any of the three, until something as large fits.
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
"""So many processes must have run out of memory before a cell is skipped for it.

One may be the edge's own flakiness: a fragmented allocator, or bytes that a neighbour held just then.
Asking for a second costs one more worker a frontier; believing the first could hide a cell that fits.
"""

RAN = (Status.OK, Status.INVALID)
"""What ended so went through its whole course, so it fitted, whatever its numbers are worth."""

GIB = 2**30


class Met(msgspec.Struct):
    """What one cell met: sessions that fitted, and the processes, by session and id, that had too little memory.

    A load that fails is met by all cells of a worker at once, in one process: it counts once.
    """

    fitted: int = 0
    ooms: set[tuple[int, int | None]] = set()

    def note(self, status: Status, session: int, worker: Mapping[str, object]) -> None:
        """Take in how one session ended."""
        if status in RAN:
            self.fitted += 1
        elif status is Status.OOM:
            pid = worker.get("pid")
            self.ooms.add((session, pid if isinstance(pid, int) else None))


Seen: TypeAlias = "tuple[Cell, Met]"
"""A cell, and what it met."""


def tells(status: Status) -> bool:
    """Return whether a session that ended so says whether its cell fits."""
    return status in RAN or status is Status.OOM


def at_most(cell: Cell, other: Cell) -> bool:
    """Return whether a cell needs no more than another of the same engine.

    The prompt counts beside the context: its tokens pass all at once, those that follow one by one.
    """
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
    """Return the cells of one engine that ran out of memory where nothing as large has ever fitted."""
    runs = [pair for pair in seen if pair[1].fitted]
    return [(cell, met) for cell, met in seen if met.ooms and not fitted(cell, runs)]


def dominated(cell: Cell, limits: Sequence[Seen]) -> str | None:
    """Return the OOMs that speak for a cell, in words, or None if they are too few."""
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
    """Return why a cell is predicted not to fit, with the figures, or None if it may."""
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
    """Return why a cell need not be run, or None; what was seen weighs more than what was predicted.

    A model that is spread over devices, or kept elsewhere, needs less of each than the prediction says.
    """
    reason = too_big(prediction)
    whole = cell.options.get("device_map", "none") == "none"
    if reason and whole and not fitted(cell, seen):
        return reason
    return dominated(cell, limits)


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f}"
