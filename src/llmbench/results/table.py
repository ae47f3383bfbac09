"""A run as a table: a row per cell, a column per axis or metric, and the sessions that have no number.

Invalid sessions are never among the numbers; they and all other failures are counted separately.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmbench.results import metrics, utilization
from llmbench.results.trust import Trust, verdict_on
from llmbench.spec.load import is_open
from llmbench.spec.sweep import AXES_AFTER, AXES_BEFORE, NOT_OURS, NOT_SAID
from llmbench.stats.intervals import Estimates, estimates
from llmbench.stats.rounds import RoundEffect, round_effect
from llmbench.results.aggregate import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.results.metrics import Metric
    from llmbench.results.record import Import, Plan, Stop
    from llmbench.results.sessions import Sessions
    from llmbench.results.utilization import Words, PredictedWork
    from llmbench.spec.sweep import Point
    from llmbench.results.store import Log
    from llmbench.results.aggregate import Failure

Integers: TypeAlias = NDArray[np.int64]
Reals: TypeAlias = NDArray[np.float64]

HEADLINE = (
    "ttft_s",
    "tpot_s",
    "output_tok_s",
    "served_ttft_s",
    "served_tpot_s",
    "steady_output_tok_s",
    "goodput_rps",
    "capacity_rps",
    "prefix_hit_share",
    "peak_allocated_bytes",
    "host_peak_rss_bytes",
)
"""The metrics shown to people by default; with three axes they fit a terminal of 80 columns."""


COUNTED_FROM_0 = (metrics.REQUESTS, metrics.SHARE)
"""Units of what may well be 0, such as a server's goodput; times and rates of tokens never are."""

ROUNDS_DIFFER_BELOW = 0.01
"""Rounds that chance alone makes this different less often than this are said to differ."""

MOST_COUNTED = 5
"""Cells whose failed requests are told one by one."""

NOT_ITS_OWN = "-"
"""The value of an option that no cell of a backend sets: it may not even have it."""

NONE: Mapping[str, int] = MappingProxyType({})


class Axis(NamedTuple):
    """One coordinate of the cells: its name, and the value of each cell, None where it has none."""

    name: str
    values: tuple[object, ...]


class Numbers(NamedTuple):
    """One metric over all cells, in the unit of its key, NaN where absent.

    `half_width` is relative and belongs to the 95 % interval over sessions. A cell with one session has
    none; it has a `spread`, half the range within that one process, relative too.
    """

    metric: Metric
    middle: Reals
    half_width: Reals
    spread: Reals
    sessions: Integers


class RunProgress(NamedTuple):
    """How many sessions stand where; `planned` are those that ended and those still to come."""

    planned: int
    valid: int
    warned: int
    invalid: int
    failed: int
    interrupted: int

    @property
    def ended(self) -> int:
        """Return the sessions that need not be run again."""
        return self.valid + self.warned + self.invalid + self.failed

    @property
    def to_come(self) -> int:
        """Return the planned sessions that have not ended for good."""
        return self.planned - self.ended


@dataclass(frozen=True)
class Table:
    """A run's content for reports. Sequences per cell follow the order of `cells`.

    Attributes:
        run: the name of the run's folder.
        plan: the run's last plan; None if its file has lost it, or never had one.
        imported: where an imported run was read from; None if it was measured here.
        cells: those of the plan in its order, then any others that were measured.
        axes: the coordinates that vary.
        constants: those that do not, with their value.
        numbers: the metrics asked for that were measured anywhere.
        headline: those of them that people are shown.
        sides: the bottleneck of each cell and the source of its ceilings; empty without predictions.
        valid: valid sessions of each cell.
        iterations: the fewest and the most of them in a valid session of each cell, of shape [2, cells]; 0 if not known.
        to_come: sessions of each cell still to come.
        places: the box and the GPUs that measured each cell, in words; empty where one machine did on one GPU.
        stops: why each cell got no further session; None if it may get some, or nobody wrote it.
        warnings: reason codes of each cell, with how many of its valid sessions have them.
        everywhere: reason codes that all valid sessions of the run have; they are not in `warnings`.
        failures: the sessions without a number, alike ones together, the most frequent first.
        progress: the sessions, counted.
        trust: how far the numbers can be trusted; None if nothing has ended, or another tool measured.
        notices: problems of the run, in words.

    """

    run: str
    plan: Plan | None
    imported: Import | None
    cells: tuple[Point, ...]
    axes: tuple[Axis, ...]
    constants: dict[str, object]
    numbers: tuple[Numbers, ...]
    headline: tuple[Numbers, ...]
    sides: tuple[Words, ...]
    valid: Integers
    iterations: Integers
    to_come: Integers
    places: tuple[str, ...]
    stops: tuple[Stop | None, ...]
    warnings: tuple[Mapping[str, int], ...]
    everywhere: tuple[str, ...]
    failures: tuple[Failure, ...]
    progress: RunProgress
    trust: Trust | None
    notices: tuple[str, ...]

    @property
    def rows(self) -> list[int]:
        """Return the numbers of the cells that have a valid session."""
        rows: list[int] = np.flatnonzero(self.valid).tolist()
        return rows


def build(log: Log, chosen: Sequence[Metric] | None = None) -> Table:
    """Return a run's table with the metrics chosen, or else with all of them and the usual ones in front."""
    return tabulate(log, Tally(log), chosen)


def tabulate(log: Log, tally: Tally, chosen: Sequence[Metric] | None = None) -> Table:
    """Return the table of a run that has been read."""
    cells = tally.cells
    owners = tally.numbers_of_owners()
    work, sessions = utilization.columns(tally, log.plan)
    known = [utilization.worded(metric, work.sources) for metric in chosen or metrics.METRICS]
    numbers = _numbers(sessions, owners, len(cells), known)
    to_come = _to_come(log.plan, tally)
    axes, constants = axes_of(cells, NOT_SAID if log.imported else None)
    warnings, everywhere = _warnings(tally)
    spread = any(len(places) > 1 for places in tally.places.values())
    boxes = tuple(_boxes(sessions, owners, tally.boxes)) if spread else ()
    rounds = () if log.imported or spread else tuple(_rounds(sessions, owners, tally.rounds))
    progress = RunProgress(
        planned=sum(tally.verdicts.values()) + int(to_come.sum()),
        interrupted=tally.interrupted,
        **tally.verdicts,
    )
    whole = metrics.BY_KEY["e2e_s"]._replace(value=metrics.whole_s)
    e2e = next(iter(_numbers(sessions, owners, len(cells), [whole])), None)
    judged = verdict_on(tally, owners, e2e, progress, rounds_differ=bool(rounds))
    return Table(
        run=log.name,
        plan=log.plan,
        imported=log.imported,
        cells=tuple(cells),
        axes=axes,
        constants=constants,
        numbers=numbers,
        headline=tuple(n for n in numbers if chosen or log.imported or n.metric.key in HEADLINE),
        sides=utilization.sides(work, sessions, owners),
        valid=np.bincount(owners, minlength=len(cells)),
        iterations=_iterations(tally, owners),
        to_come=to_come,
        places=tuple(", ".join(sorted(tally.places.get(cell.id, {}))) for cell in cells),
        stops=_stops(log, tally),
        warnings=warnings,
        everywhere=everywhere,
        failures=tuple(sorted(tally.failures.values(), key=lambda failure: -failure.sessions)),
        progress=progress,
        trust=None if log.imported else judged,
        notices=(
            *_notices(log, tally),
            *(
                notice
                for each in numbers
                for notice in utilization.over_unity(each.metric.key, each.middle, work.sources)
            ),
            *rounds,
            *boxes,
        ),
    )


def _numbers(
    sessions: Sessions, owners: Integers, count: int, chosen: Sequence[Metric]
) -> tuple[Numbers, ...]:
    """Return the metrics that were measured anywhere, each over all cells."""
    numbers = []
    for metric in chosen:
        with np.errstate(divide="ignore", invalid="ignore"):  # n = 1 has no gaps: absent over 0
            values = metric.value(sessions)
        if not np.isfinite(values).any():
            continue
        summary = _highest if metric.over == "max" else estimates
        made = summary(values, owners, count)
        if metric.unit in COUNTED_FROM_0:
            made = _with_zeros(values, owners, made)
        spread = np.full(count, np.nan)
        if metric.spread:
            spread[owners] = metric.spread(sessions)
        spread = np.where(made.sessions == 1, spread, np.nan)
        numbers.append(Numbers(metric, made.middle, made.half_width, spread, made.sessions))
    return tuple(numbers)


def _with_zeros(values: Reals, owners: Integers, made: Estimates) -> Estimates:
    """Return estimates in which cells with a session of 0 have the arithmetic mean, and no interval."""
    count = len(made.middle)
    zero = np.bincount(owners[values == 0], minlength=count) > 0
    present = np.isfinite(values)
    n = np.bincount(owners[present], minlength=count)
    mean = np.bincount(owners[present], weights=values[present], minlength=count) / np.maximum(n, 1)
    return Estimates(
        np.where(zero, mean, made.middle),
        np.where(zero, np.nan, made.half_width),
        np.where(zero, n, made.sessions),
    )


def _highest(values: Reals, owners: Integers, count: int) -> Estimates:
    """Return the largest session value of each cell; a peak has no interval."""
    present = np.isfinite(values)
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, owners[present], values[present])
    n = np.bincount(owners[present], minlength=count)
    return Estimates(np.where(n > 0, highest, np.nan), np.full(count, np.nan), n)


def _iterations(tally: Tally, owners: Integers) -> Integers:
    """Return the fewest and the most iterations of a session of each cell; 0 where there is none."""
    counts = np.array(tally.iterations, dtype=np.int64)
    fewest = np.full(len(tally.cells), np.iinfo(np.int64).max)
    most = np.zeros(len(tally.cells), dtype=np.int64)
    np.minimum.at(fewest, owners, counts)
    np.maximum.at(most, owners, counts)
    return np.stack([np.minimum(fewest, most), most])


def _rounds(sessions: Sessions, owners: Integers, rounds: Sequence[int]) -> Iterator[str]:
    """Yield a sentence if rounds differ by more than sessions within them."""
    values = metrics.whole_s(sessions)
    effect = round_effect(values, owners, np.array(rounds, dtype=np.int64))
    if effect is None or effect.p >= ROUNDS_DIFFER_BELOW:
        return
    yield (
        f"Rounds differ more than chance allows ({_tested(effect)}; round {effect.round} was {_change(effect)}): "
        "the machine changed during the run, for all cells at once. The intervals of single cells do not show that."
    )


def _boxes(sessions: Sessions, owners: Integers, boxes: Sequence[str]) -> Iterator[str]:
    """Yield a sentence about the spread between the boxes that measured the same cells."""
    names = sorted(set(boxes))
    numbers = np.array([names.index(box) for box in boxes], dtype=np.int64)
    effect = round_effect(metrics.whole_s(sessions), owners, numbers)
    if effect is None:
        return
    box = f"box {names[effect.round]} was {_change(effect)}"
    more = "differ more than" if effect.p < ROUNDS_DIFFER_BELOW else "differ no more than"
    yield (
        f"Boxes {more} chance allows ({_tested(effect)}): the spread between them is {effect.spread:.2%} of a time; "
        f"{box}. It is part of the intervals, which hold for these boxes."
    )


def _tested(effect: RoundEffect) -> str:
    """Return the test of an effect in figures."""
    p = "p < 0.0001" if effect.p < 1e-4 else f"p = {effect.p:.1g}"
    return f"F = {effect.f:.1f}, {p}"


def _change(effect: RoundEffect) -> str:
    """Return what the effect is, in words."""
    size = f"{abs(effect.ratio - 1):.2g}"
    return f"{100 * float(size):.3g} % {'slower' if effect.ratio > 1 else 'faster'} than the others"


def _to_come(plan: Plan | None, tally: Tally) -> Integers:
    """Return how many sessions of each cell the plan still wants."""
    wanted = np.zeros(len(tally.cells), dtype=np.int64)
    if plan:
        wanted[: len(plan.cells)] = plan.settings.sessions
    ended = np.array([tally.ended[cell.id] for cell in tally.cells], dtype=np.int64)
    to_come: Integers = np.maximum(wanted - ended, 0)
    return to_come


def _stops(log: Log, tally: Tally) -> tuple[Stop | None, ...]:
    """Return the stop of every cell; one written before a later session counts no more."""
    stops = (log.stops.get(cell.id) for cell in tally.cells)
    return tuple(
        stop if stop and stop.sessions == tally.ended[stop.cell] else None for stop in stops
    )


def axes_of(
    cells: Sequence[Point], absent: str | None = None
) -> tuple[tuple[Axis, ...], dict[str, object]]:
    """Return the coordinates that vary, and the constant ones with their value; `absent` for an option left out."""
    options = dict.fromkeys(name for cell in cells for name in cell.options)
    own = {(cell.backend, name) for cell in cells for name in cell.options}
    columns = {
        **{name: _values(cells, name) for name in AXES_BEFORE},
        **{
            name: tuple(
                cell.options.get(name, absent if (cell.backend, name) in own else NOT_ITS_OWN)
                for cell in cells
            )
            for name in options
        },
        **{name: _values(cells, name) for name in AXES_AFTER},
        "batch_size": _batches(cells),
    }
    varying = [Axis(name, values) for name, values in columns.items() if len(set(values)) > 1]
    constants = {name: values[0] for name, values in columns.items() if len(set(values)) == 1}
    points = set(zip(*(axis.values for axis in varying), strict=True)) if varying else {()}
    if len(points) < len(cells):  # the same coordinates, measured in two ways
        varying.append(Axis("id", tuple(cell.id for cell in cells)))
    return tuple(varying), constants


def _values(cells: Sequence[Point], name: str) -> tuple[object, ...]:
    values = tuple(cell.asked(name) for cell in cells)
    return tuple(NOT_SAID if value is None else value for value in values) if None in values else values


def _batches(cells: Sequence[Point]) -> tuple[object, ...]:
    """Return the batch of each cell: of an open loop, whose cell has the most requests in flight there, none."""
    batches = _values(cells, "batch_size")
    return tuple(
        NOT_ITS_OWN if is_open(cell.options) else batch
        for cell, batch in zip(cells, batches, strict=True)
    )


def _warnings(tally: Tally) -> tuple[tuple[Mapping[str, int], ...], tuple[str, ...]]:
    """Return each cell's reason codes, and apart from them those that every valid session has."""
    totals: Counter[str] = Counter()
    for codes in tally.warnings.values():
        totals.update(codes)
    everywhere = {code for code, count in totals.items() if count == len(tally.owners)}
    rows = (tally.warnings.get(cell.id, NONE) for cell in tally.cells)
    return tuple(_without(codes, everywhere) for codes in rows), tuple(sorted(everywhere))


def _without(codes: Mapping[str, int], others: set[str]) -> Mapping[str, int]:
    return {code: codes[code] for code in sorted(codes) if code not in others} if codes else NONE


def _of_lengths(cells: Sequence[Point]) -> Iterator[str]:
    """Yield what the prompts of each batch of different lengths are."""
    for asked, lengths, batch in dict.fromkeys((c.spread, c.input_lens, c.batch_size) for c in cells):
        if lengths and len(lengths) == batch:  # a file may list too few, and then nothing is measured
            each = f"of {min(lengths):,} to {max(lengths):,} tokens, {sum(lengths):,} together"
            yield f"in {asked}, batch {batch}: prompts {each}."


def _notices(log: Log, tally: Tally) -> list[str]:
    notices = [*log.notices, *_of_lengths(tally.cells)]
    for cell, details in islice(tally.counted.items(), MOST_COUNTED):
        where = f"{cell}: " if len(tally.cells) > 1 else ""
        notices.append(f"{where}{'; '.join(dict.fromkeys(details))}.")
    if len(tally.counted) > MOST_COUNTED:
        more = len(tally.counted) - MOST_COUNTED
        notices.append(f"Requests of {more:,} more cells failed or were empty; records.jsonl has how many.")
    if len(tally.environments) > 1:
        notices.append(
            f"The records come from {len(tally.environments)} environments; see run.json."
        )
    if len(ours := sorted(tally.protocols - {NOT_OURS})) > 1:
        told = " and ".join(map(str, ours))
        notices.append(
            f"The records were measured by protocols {told}, whose numbers mean different things."
        )
    if log.plan and (others := len(tally.cells) - len(log.plan.cells)):
        notices.append(f"{others} cells are of an earlier plan of this run.")
    return notices
