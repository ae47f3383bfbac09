"""Which unit measures which cells: a cell stays where its first session was, and so do the cells compared with it.

Cells that agree in model, device, prompts, batch size and lengths differ in what is compared, such as backend, dtype
and options. Such a block of cells is measured on one unit, or a comparison would compare GPUs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from llmbench.numbers import plural
from llmbench.results.record import Record
from llmbench.spec import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from llmbench.results.record import Line
    from llmbench.spec.sweep import Cell

T = TypeVar("T")
UNIT = "unit"
"""The fact of a record's worker that names the unit; several GPUs are joined by `TOGETHER`."""
TOGETHER = "+"


class Size(NamedTuple):
    """How much a cell takes: so many GPUs, 0 for the processors, on each of so many boxes."""

    gpus: int
    boxes: int


class Block(NamedTuple):
    """What the cells have in common that are measured on one unit."""

    model: str
    device: str
    prompts: str
    size: Size
    lengths: tuple[object, ...]


def block_of(cell: Cell, width: int) -> Block:
    """Return the block of a cell that takes `width` GPUs of each of its boxes."""
    lengths = cell.batch_size, cell.asked("input_len"), cell.output_len
    size = Size(width, sweep.boxes_of(cell.options))
    return Block(cell.model, cell.device, cell.prompts, size, lengths)


def width_of(cell: Cell, most: int) -> int:
    """Return the number of GPUs that a cell takes of each of its boxes, which have `most`; 0 for processors."""
    if not cell.device.startswith("cuda"):
        return 0
    return sweep.gpus_of(cell.options, most) // sweep.boxes_of(cell.options)


def too_wide(cells: Iterable[Cell], most: int, boxes: int) -> dict[str, str]:
    """Return, by its id, why a cell has no place on so many boxes with at most so many GPUs each."""
    why = {}
    for cell in cells:
        width, count = width_of(cell, most), sweep.boxes_of(cell.options)
        if sweep.gpus_of(cell.options, count) % count:
            why[cell.id] = (
                f"{cell.where()}: {count} boxes cannot share its GPUs equally; give tensor_parallel_size={count} "
                "or another multiple."
            )
        elif count > boxes:
            why[cell.id] = (
                f"{cell.where()}: takes {count} boxes, and this sweep has {boxes}; name more with --places."
            )
        elif 0 < most < width:
            each = " of each box" if count > 1 else ""
            why[cell.id] = (
                f"{cell.where()}: takes {plural(width, 'GPU')}{each}, and no box has more than {most}."
            )
    return why


def sets(
    units: Mapping[str, Sequence[str]], count: int, pinned: Iterable[str]
) -> list[tuple[str, ...]]:
    """Return sets of so many boxes: those that were together before, then the others in their order."""
    owner = {unit: box for box, all_units in units.items() for unit in all_units}
    found: list[tuple[str, ...]] = []
    for together in pinned:
        names = dict.fromkeys(owner.get(unit, "") for unit in together.split(TOGETHER))
        known = {name for names in found for name in names}
        if len(names) == count and "" not in names and not known & set(names):
            found.append(tuple(names))
    rest = [box for box in units if all(box not in names for names in found)]
    starts = range(0, len(rest) - count + 1, count)
    return [*found, *(tuple(rest[start : start + count]) for start in starts)]


def next_unit(
    living: Mapping[str, str], had: Mapping[str, set[int]], session: int, load: Mapping[str, float]
) -> str:
    """Return the unit that measures a session of a block, on the box that measured the fewest; empty without a unit.

    Args:
        living: the units, each with its box.
        had: the sessions of the block on each unit.
        session: the number of this one; what was begun on a unit goes on there.
        load: the work of this round on each unit so far.

    """
    of_box: Counter[str] = Counter()
    work: defaultdict[str, float] = defaultdict(float)
    for unit, box in living.items():
        of_box[box] += len(had.get(unit, ()))
        work[box] += load.get(unit, 0.0)
    return min(
        living,
        key=lambda unit: (
            session not in had.get(unit, ()), of_box[living[unit]], work[living[unit]], load.get(unit, 0),
        ),
        default="",
    )  # fmt: skip


def shares(units: Sequence[T], width: int, *, alone: bool) -> list[Sequence[T]]:
    """Return the GPUs of a box as slots of so many each, or its first slot only; processors are one slot."""
    size = width or 1
    starts = range(0, len(units) - size + 1, size)
    slots = [units[start : start + size] for start in starts]
    return slots[:1] if alone or not width else slots


def pinned(lines: Iterable[Line], block: Callable[[Cell], Block]) -> dict[Block, str]:
    """Return the unit of each block that has a final record of one of its cells."""
    pins: dict[Block, str] = {}
    for line in lines:
        if isinstance(line, Record) and line.final and (unit := line.worker.get(UNIT)):
            pins.setdefault(block(line.cell), str(unit))
    return pins


def weights(
    cells: Iterable[Cell], block: Callable[[Cell], Block], seconds: Mapping[str, float | None]
) -> dict[Block, float]:
    """Return how much work each block is: the predicted seconds of its cells, or their number if any is unknown."""
    cells = list(cells)
    known = {cell.id: seconds.get(cell.id) for cell in cells}
    counted = any(not value for value in known.values())
    total: defaultdict[Block, float] = defaultdict(float)
    for cell in cells:
        total[block(cell)] += 1.0 if counted else known[cell.id] or 0.0
    return dict(total)


def deal(
    work: Mapping[Block, float], units: Sequence[str], pins: Mapping[Block, str]
) -> dict[Block, str]:
    """Return a unit for each block that has none: each unit gets neighbouring blocks, to about the same work.

    Neighbouring blocks share models, so that few units load the same ones. Work that is pinned to a unit counts.
    """
    load = dict.fromkeys(units, 0.0)
    for block, unit in pins.items():
        if unit in load:
            load[unit] += work.get(block, 0.0)
    free = sorted((block for block in work if block not in pins), key=repr)
    left = sum(work[block] for block in free)
    dealt: dict[Block, str] = {}
    filling = list(units)
    for block in free:
        while len(filling) > 1:
            share = (sum(load[unit] for unit in filling) + left) / len(filling)
            if load[filling[0]] + work[block] / 2 <= share:
                break
            del filling[0]
        dealt[block] = filling[0]
        load[filling[0]] += work[block]
        left -= work[block]
    return dealt
