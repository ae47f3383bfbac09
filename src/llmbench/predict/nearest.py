"""Times of a cell from the nearest one that an earlier run measured on the same machine."""

from __future__ import annotations

import math
from collections import defaultdict
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from llmbench.errors import LlmbenchError
from llmbench.results import store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from llmbench.spec.sweep import Cell

MATCHING = ("cpu", "cpu_count", "cpu_flags")
"""Facts that two machines must share, besides GPU names, for the times of one to apply to the other."""

MOST_RUNS = 30
"""At most this many of a folder's runs are read, the newest first."""

SIZES = attrgetter("batch_size", "prompt_tokens", "output_len")

Engine: TypeAlias = tuple[str, ...]
"""The group of a cell: its model, engine, options, device and type of number."""


class Times(NamedTuple):
    """TTFT and TPOT in seconds, and what they are based on; a cell of one new token has no TPOT."""

    ttft_s: float
    tpot_s: float | None
    basis: str


class PastCell(NamedTuple):
    """A measured cell and its times."""

    cell: Cell
    times: Times


def past_cells(
    results: Path, facts: Mapping[str, Any], without: str | None = None
) -> list[PastCell]:
    """Return the measurements of a folder's runs on a machine like this; `without` excludes one run."""
    folders = [path.parent for path in results.glob(f"*/{store.RECORDS}")]
    newest = sorted(folders, key=lambda path: path.name, reverse=True)[:MOST_RUNS]
    return [cell for folder in newest for cell in _of_run(folder, facts, without)]


def _of_run(folder: Path, facts: Mapping[str, Any], without: str | None) -> Iterator[PastCell]:
    try:
        log = store.read(folder)
        if log.plan is None or log.plan.run == without or not _alike(log.plan.machine, facts):
            return
        from llmbench.results import cells  # noqa: PLC0415 - loads numpy, which no start has to wait for

        for row in cells.read(log, folder.name):
            if row.has("ttft_s"):
                step_s = row.middle("tpot_s") if row.has("tpot_s") else None
                basis = f"nearest cell measured in {folder.name}"
                yield PastCell(row.cell, Times(row.middle("ttft_s"), step_s, basis))
    except LlmbenchError:
        return  # ignore a run that cannot be read


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two machines have the same processors and the same GPUs."""
    gpus = [[gpu.get("name") for gpu in facts.get("gpus") or ()] for facts in (one, other)]
    return gpus[0] == gpus[1] and all(one.get(key) == other.get(key) for key in MATCHING)


def by_engine(past: Iterable[PastCell]) -> dict[Engine, list[PastCell]]:
    """Return measured cells by engine, because a sweep may have thousands of cells to look up."""
    cells: defaultdict[Engine, list[PastCell]] = defaultdict(list)
    for one in past:
        cells[one.cell.group()].append(one)
    return dict(cells)


def times(cell: Cell, past: Mapping[Engine, Sequence[PastCell]]) -> Times | None:
    """Return the times of a cell from the nearest one of the same engine and model; None if there is none.

    TTFT is scaled by the tokens of the prompts. TPOT is not: a step reads all weights, whatever the batch.
    """
    same = past.get(cell.group(), ())
    if cell.output_len > 1:
        same = [one for one in same if one.times.tpot_s]
    if not same:
        return None
    near = min(same, key=lambda one: distance(one.cell, cell))
    scale = (cell.prompt_tokens or 0) / (near.cell.prompt_tokens or 1)
    return near.times._replace(ttft_s=near.times.ttft_s * scale)


def distance(one: Cell, other: Cell) -> float:
    """Return how far apart the sizes of two cells are: the sum of the logarithms of their ratios."""
    return sum(abs(math.log(a / b)) for a, b in zip(SIZES(one), SIZES(other), strict=True))
