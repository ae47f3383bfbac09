"""The forecast of a sweep before it runs: its cells, the prediction of each, and the price of an hour."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from llmbench import backends
from llmbench.cost import prices
from llmbench.errors import SpecError
from llmbench.machine import calibration, chips, info, peaks
from llmbench.models import resolve
from llmbench.predict import estimate, nearest, preallocated
from llmbench.results.prediction import Prediction
from llmbench.run import pins, plan
from llmbench.spec.load import LOAD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from llmbench.cost.prices import Hour, PriceOptions
    from llmbench.machine.chips import Chip
    from llmbench.predict.preallocated import Room
    from llmbench.run.channel import Here
    from llmbench.run.pins import Block
    from llmbench.run.plan import Planned
    from llmbench.spec.sweep import Cell, Sweep

PREALLOCATING = ("vllm", "vllm_server")
"""Engines that take their memory at the start."""
MOST_GPUS = 1024
"""A limit against typing errors: no sweep runs on more."""


class PlannedCell(NamedTuple):
    """One cell and what is known of it in advance.

    Attributes:
        cell: the cell.
        prediction: what is predicted of it.
        refused: why it cannot run, if it cannot.
        room: what an engine has that takes its memory at the start; None for others, or if it is not known.
        least: the least times of an engine whose times are not predicted.
        sweep_s: all of its first sessions; None if unknown, or if it does not run.

    """

    cell: Cell
    prediction: Prediction
    refused: str | None
    room: Room | None
    least: Prediction | None
    sweep_s: float | None


class PlannedBox(NamedTuple):
    """A box that would measure: its name, how many GPUs it may use, its cells, and how long its busiest GPU takes.

    The time is None if that of a cell is unknown.
    """

    name: str
    gpus: int
    cells: int
    busy_s: float | None


class Forecast(NamedTuple):
    """A sweep that has been planned and predicted.

    Attributes:
        planned: the plan.
        cells: all of them, those that cannot run too.
        chip: what it is planned for; None for this machine.
        gpus: how many GPUs the machine has.
        price: of an hour of the machine, if there is one.
        sessions: how many sessions an interval takes on this machine, in words; empty where it was not calibrated.
        boxes: that would measure; empty for this machine, on one GPU at a time.

    """

    planned: Planned
    cells: list[PlannedCell]
    chip: Chip | None
    gpus: int
    price: Hour | None
    sessions: str
    boxes: tuple[PlannedBox, ...] = ()


def forecast(
    sweep: Sweep,
    machine: str | None,
    price: PriceOptions,
    results: Path,
    boxes: Sequence[Here] = (),
    *,
    alone: bool = True,
) -> Forecast:
    """Plan a sweep for this machine, for `CHIP` or `CHIP*N`, or for boxes of one kind, and predict its cells.

    With `alone`, a box measures one group at a time.
    """
    prices.check(price)
    if machine is None:
        facts = boxes[0].machine if boxes else info.machine()
        past = nearest.past_cells(results, facts)
        place = estimate.here(facts, peaks.probes_of(facts), past)
        chip, gpus = None, len(facts["gpus"])
        name = chips.match(facts["gpus"][0]) if gpus and price.provider else None
    else:
        name, gpus = _named(machine)
        chip = chips.chip(name)
        place = estimate.elsewhere(chip, gpus)
    planned = plan.plan(sweep, chip=chip, machine=boxes[0].machine if boxes else None)
    if not chip:
        most, many = max((len(box.gpus) for box in boxes), default=gpus), max(1, len(boxes))
        refused = {**pins.too_wide(planned.cells, most, many), **planned.refused}
        planned = msgspec.structs.replace(planned, refused=refused)
    cells = list(_cells(planned, place, gpus))
    hour = prices.of_plan(price, name, max(1, gpus))
    sessions = "" if chip or boxes else _sessions(planned)
    return Forecast(
        planned, cells, chip, gpus, hour, sessions, tuple(_boxes(cells, boxes, alone=alone))
    )


def _boxes(
    cells: Sequence[PlannedCell], boxes: Sequence[Here], *, alone: bool
) -> Iterator[PlannedBox]:
    """Yield what each box would do, dealt out as a sweep does it."""
    most = max((len(box.gpus) for box in boxes), default=0)
    run = [each for each in cells if each.refused is None and each.prediction.fits != "no"]
    widths = {each.cell.id: pins.width_of(each.cell, most) for each in run}

    def block(cell: Cell) -> Block:
        return pins.block_of(cell, widths[cell.id])

    known = all(each.sweep_s for each in run)
    work = pins.weights((e.cell for e in run), block, {e.cell.id: e.sweep_s for e in run})
    members = Counter(block(each.cell) for each in run)
    busy_s: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for size in {each.size for each in work}:
        by_box = [pins.shares(box.units, size.gpus, alone=alone) for box in boxes]
        starts = range(0, len(boxes) - size.boxes + 1, size.boxes)
        sets = [by_box[start : start + size.boxes] for start in starts]
        shares = [itertools.chain(*each) for of_set in sets for each in zip(*of_set, strict=False)]
        units = [pins.TOGETHER.join(share) for share in shares]
        part = {each: work[each] for each in work if each.size == size}
        for each, unit in (pins.deal(part, units, {}) if units else {}).items():
            owners = unit.split(pins.TOGETHER)
            count[owners[0]] += members[each]
            busy_s.update(dict.fromkeys(owners, work[each]))
    for box in boxes:
        longest = max(busy_s[unit] for unit in box.units) if known else None
        yield PlannedBox(box.host, len(box.gpus), sum(count[unit] for unit in box.units), longest)


def _named(machine: str) -> tuple[str, int]:
    """Return the chip and the number of them that `h100-sxm*8` names."""
    name, several, count = machine.partition("*")
    if several and not (count.isdecimal() and 0 < int(count) <= MOST_GPUS):
        raise SpecError(
            f"--machine: {machine!r}: after * belongs the number of GPUs, as in {name}*8."
        )
    return name, int(count or 1)


def _cells(planned: Planned, place: estimate.PredictedMachine, gpus: int) -> Iterator[PlannedCell]:
    known = planned.cells, planned.models, planned.sweep.protocol, place
    predicted, least = estimate.predictions(*known), estimate.at_least(*known)
    for cell in planned.cells:
        prediction, refused = predicted[cell.id], planned.refused.get(cell.id)
        room = None if refused else _room(cell, planned, place, gpus)
        runs = not refused and prediction.fits != "no" and (room is None or room.fits == "fits")
        lower = _window(cell) or least.get(cell.id)
        session_s = (lower or prediction).session_s if runs else None
        sweep_s = session_s and planned.sweep.protocol.sessions * session_s
        yield PlannedCell(cell, prediction, refused, room, lower, sweep_s)


def _window(cell: Cell) -> Prediction | None:
    """Return the least time of a session of a served cell, its window; None for other cells."""
    if LOAD not in cell.options:
        return None
    declared = backends.options(cell.backend)
    window_s = float(str(cell.options.get("window_s", declared["window_s"])))
    return Prediction(
        session_s=window_s, basis="servers: their windows only, without starting them and the ramps"
    )


def _room(cell: Cell, planned: Planned, place: estimate.PredictedMachine, gpus: int) -> Room | None:
    """Return the room that vLLM has for a cell; None for another engine, or if the model or the memory is unknown."""
    model, have = planned.models[cell.model], place.have_bytes.get(cell.device)
    if cell.backend not in PREALLOCATING or have is None:
        return None
    counts = resolve.counts_of(model)
    if counts is None:
        return None
    declared = backends.options(cell.backend)
    defaults = {
        key: value[0] if isinstance(value, tuple) else value for key, value in declared.items()
    }
    found = preallocated.room(counts, cell, defaults, model.max_positions, have, gpus)
    if found and found.fits == "queues" and LOAD in cell.options:
        return found._replace(fits="fits", why="")  # a server is there to queue
    return found


def _sessions(planned: Planned) -> str:
    """Return how many sessions an interval takes, where this machine was calibrated."""
    known = calibration.kept_calibration(info.machine()).calibration
    within = planned.sweep.protocol.interval_within
    return known.forecast(planned.cells, within) or "" if known else ""
