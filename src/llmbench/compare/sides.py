"""One side of a comparison: a run, or the part of it at one value of a factor, with one metric's values."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from llmbench.errors import SpecError, did_you_mean
from llmbench.results import utilization
from llmbench.results.aggregate import Tally
from llmbench.spec import adapters, speculation
from llmbench.spec.grid import ONLY_WITH, QUANTIZATION
from llmbench.spec.load import OPTIONS
from llmbench.spec.sweep import Cell, Point

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from numpy.typing import NDArray

    from llmbench.results.metrics import Metric
    from llmbench.results.record import Plan
    from llmbench.results.store import Log
    from llmbench.stats.intervals import Integers, Reals

AXES = tuple(name for name in Cell.__struct_fields__ if name != "id")
"""The axes that identify a cell; its id also covers how it was measured."""

WITH = {
    "model": ("model_digest",),
    "backend": ("options", "attached_digest"),
    "load": ("batch_size",),
    "input_len": ("spread", "input_lens"),
    "spread": ("input_len", "input_lens"),
    **dict.fromkeys((adapters.LORA, *speculation.OPTIONS), ("attached_digest",)),
}
"""Fields that change together with a factor: a model's facts with the model, options with the engine, the requests in
flight with the load, lengths with how they were asked for, and further weights with the option that names them."""
KeyForm: TypeAlias = Literal["without dependent", "plain", "scheme"]
FORMS: tuple[KeyForm, ...] = ("without dependent", "plain", "scheme")
"""How cells are matched, in the order in which it is tried."""
NO_FACTORS = ("model_digest", "options", "input_lens", "attached_digest")


class Side(NamedTuple):
    """One side of a comparison, for one metric.

    Attributes:
        name: its name in reports.
        plan: the run's plan; None if it is missing.
        cells: those of the plan, then any others with records.
        owners: the cell index of each valid session.
        rounds: the session number of each.
        values: the metric of each, NaN where absent.
        clocks_mhz: the device's mean clock in each, NaN where not read.
        preallocated: whether the engine of each pre-allocates memory.
        fresh: whether the engine of each was started for it; a server that was there already was not.
        disturbed: whether other processes were busy during each.
        protocols: the measuring protocols.
        warned: reason codes, and how many valid sessions have them.
        given: other tools' definitions of the metric, for imported numbers.
        failed: how sessions without a number ended, by cell id.
        errors_nats: how far a cell's model is from a float32 reference, where `audit --parity` looked, by cell id.

    """

    name: str
    plan: Plan | None
    cells: tuple[Point, ...]
    owners: Integers
    rounds: Integers
    values: Reals
    clocks_mhz: Reals
    preallocated: NDArray[np.bool_]
    fresh: NDArray[np.bool_]
    disturbed: NDArray[np.bool_]
    protocols: frozenset[int]
    warned: Mapping[str, int]
    given: frozenset[str]
    failed: Mapping[str, str]
    errors_nats: Mapping[str, float]


def read(name: str, log: Log, metric: Metric) -> Side:
    """Return a whole run as a side."""
    tally = Tally(log)
    return side(name, log.plan, tally, metric)


def side(name: str, plan: Plan | None, tally: Tally, metric: Metric) -> Side:
    """Return a run that has been read as a side."""
    owners = tally.numbers_of_owners()
    _, sessions = utilization.columns(tally, plan)
    with np.errstate(divide="ignore", invalid="ignore"):  # n = 1 has no gaps: absent over 0
        values = metric.value(sessions)
    warned: Counter[str] = Counter()
    for codes in tally.warnings.values():
        warned.update(codes)
    return Side(
        name=name,
        plan=plan,
        cells=tuple(tally.cells),
        owners=owners,
        rounds=np.array(tally.rounds, dtype=np.int64),
        values=values,
        clocks_mhz=np.array(tally.clocks_mhz, dtype=np.float64),
        preallocated=np.array([engine.preallocates for engine in tally.engines], dtype=np.bool_),
        fresh=np.array([engine.fresh for engine in tally.engines], dtype=np.bool_),
        disturbed=np.array(tally.disturbed, dtype=np.bool_),
        protocols=frozenset(tally.protocols),
        warned=warned,
        given=frozenset(tally.gatherer.definitions(metric.key)),
        failed=_failed(tally),
        errors_nats=tally.errors_nats,
    )


def _failed(tally: Tally) -> dict[str, str]:
    """Return how each cell's sessions without a number ended: `oom in warmup: tried to allocate 2 GiB`."""
    ends: dict[str, str] = {}
    for failure in tally.failures.values():
        where = f" in {failure.phase}" if failure.phase else ""
        for cell in failure.cells:
            ends.setdefault(cell, f"{failure.status}{where}: {failure.reason}")
    return ends


def levels(side: Side, factor: str) -> list[Side]:
    """Return one side for each value of a factor in one run, in order of appearance.

    Raises:
        SpecError: no cell has the factor, or it does not vary.

    """
    options = dict.fromkeys(name for cell in side.cells for name in cell.options)
    known = [name for name in (*AXES, *options) if name not in NO_FACTORS]
    if factor not in known:
        raise SpecError(f"--by: the run has no factor {factor!r}.{did_you_mean(factor, known)}")
    values = [_value(cell, factor) for cell in side.cells]
    if len(set(values)) < 2:
        raise SpecError(
            f"--by: {factor} is {_shown(values[0]) if values else 'nowhere'} in the whole run; "
            "compare by a factor that varies."
        )
    return [_part(side, factor, value, values) for value in dict.fromkeys(values)]


def key_of(cell: Point, factor: str | None, form: KeyForm = "plain") -> Hashable:
    """Return the key by which cells are matched: all axes except the factor compared; engines share those of a load.

    The form leaves out options that mean nothing without the factor (`without dependent`), or those of the engine but
    for how weights are quantised (`scheme`).
    """
    left_out = (factor, *WITH.get(factor or "", ()))
    if cell.spread:  # the longest length says nothing that the lengths do not
        left_out += ("input_len", *(("input_lens",) if factor == "batch_size" else ()))
    axes = [getattr(cell, name) for name in AXES if name != "options" and name not in left_out]
    shared = (*OPTIONS, QUANTIZATION) if form == "scheme" else OPTIONS
    kept = shared if "options" in left_out else cell.options
    options = {
        name: value
        for name, value in cell.options.items()
        if name in kept
        and name != factor
        and not (form == "without dependent" and factor and ONLY_WITH.get(name) == factor)
    }
    return (*axes, *sorted(options.items()))


def _value(cell: Point, factor: str) -> object:
    return cell.asked(factor) if factor in AXES else cell.options.get(factor)


def _shown(value: object) -> str:
    return "default" if value is None else str(value)


def _part(side: Side, factor: str, value: object, values: list[object]) -> Side:
    """Return the part of a side whose cells have one value of the factor."""
    kept = [number for number, of_cell in enumerate(values) if of_cell == value]
    renumbered = np.full(len(side.cells), -1)
    renumbered[kept] = np.arange(len(kept))
    inside = renumbered[side.owners] >= 0
    return side._replace(
        name=f"{factor} {_shown(value)}",
        cells=tuple(side.cells[number] for number in kept),
        owners=renumbered[side.owners][inside],
        rounds=side.rounds[inside],
        values=side.values[inside],
        clocks_mhz=side.clocks_mhz[inside],
        preallocated=side.preallocated[inside],
        fresh=side.fresh[inside],
        disturbed=side.disturbed[inside],
    )
