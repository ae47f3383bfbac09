"""Conditions that two sides were measured under: those that forbid a comparison, and those that need a notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench.compare.match import ELSEWHERE
from llmbench.errors import NotComparable
from llmbench.machine import info
from llmbench.machine.differences import differing, flat
from llmbench.spec.grid import NONE, QUANTIZATION
from llmbench.spec.sweep import AXES_AFTER, AXES_BEFORE, NOT_OURS, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmbench.compare.match import Match
    from llmbench.compare.sides import Side
    from llmbench.machine.calibration import Calibration
    from llmbench.results.metrics import Metric
    from llmbench.results.record import Plan
    from llmbench.spec.sweep import Point

MARGIN = 0.02
"""Ratios this close to one are the same speed for any reader's purpose."""


class CompareOptions(NamedTuple):
    """Options of a comparison.

    Attributes:
        metric: the metric compared.
        margin: the relative difference up to which sides are the same.
        factor: the axis in which the sides of one run differ; None for separate runs.
        cross_machine: whether to allow different machines.
        cross_server: whether to allow a server that was there already against one started for each session.
        calibration: the machine's own spread, for cells with one session; None if not known.

    """

    metric: Metric
    margin: float = MARGIN
    factor: str | None = None
    cross_machine: bool = False
    cross_server: bool = False
    calibration: Calibration | None = None


CLOCKS_APART = 0.02
"""Mean clocks that differ by more than this may explain a difference by themselves."""

MEMORY_WITHOUT_HOLDERS = ("weights_bytes", "kv_cache_theoretical_bytes")
"""The memory metrics that do not depend on whether an engine pre-allocates memory."""

WEIGHTS = "cannot compare random with real weights, whose numbers differ for other reasons; no flag allows it."

APART = (
    "The runs were made at different times: a difference may come from the machine's state instead of the change. To "
    "rule that out, measure both in turn with llmbench builds, or in one sweep and use llmbench compare --by."
)
IN_TURN = "The runs were measured in turn, round by round; sessions of the same round are paired."
ALIKE = "The runs were measured on GPUs of the same model, but not on the same cards, and cards differ a little."

MOST_CHANGES = 8
"""The number of changed facts that are named; the rest are counted."""


SHOWN = tuple(name for name in (*AXES_BEFORE, *AXES_AFTER) if name not in ELSEWHERE)
"""The coordinates that a notice names; those of ELSEWHERE have words of their own."""

MOST_VALUES = 4
"""Values of a coordinate that a notice names."""


def refuse(baseline: Side, candidate: Side, matched: Match, asked: CompareOptions) -> None:
    """Raise NotComparable if two sides must not be compared, naming the flag that allows it, if any."""
    where = f"{candidate.name} against {baseline.name}"
    protocols = sorted((baseline.protocols | candidate.protocols) - {NOT_OURS})
    if len(protocols) > 1:
        versions = " and ".join(map(str, protocols))
        raise NotComparable(
            f"{where}: measured with protocols {versions}, whose numbers mean different things; no flag allows it."
        )
    if asked.factor is None and not asked.cross_machine:
        _refuse_other_machine(where, baseline.plan, candidate.plan)
    if not len(matched.baseline) and any(
        m.reason == ELSEWHERE["load_format"] for m in matched.missing
    ):
        raise NotComparable(f"{where}: {WEIGHTS}")
    if asked.metric.unit.word == "MiB" and asked.metric.key not in MEMORY_WITHOUT_HOLDERS:
        _refuse_other_holding(where, baseline, candidate)
    if not asked.cross_server:
        _refuse_other_age(where, baseline, candidate, matched)


def _refuse_other_age(where: str, baseline: Side, candidate: Side, matched: Match) -> None:
    before, after = (
        dict(zip(side.owners.tolist(), side.fresh.tolist(), strict=True))
        for side in (baseline, candidate)
    )
    pairs = zip(matched.baseline.tolist(), matched.candidate.tolist(), strict=True)
    if any(before.get(a, True) != after.get(b, True) for a, b in pairs):
        raise NotComparable(
            f"{where}: one side's server was there already, the other's was started for each session; a server can "
            "slow down with its age. llmbench compare --cross-server compares them anyway."
        )


def _refuse_other_machine(where: str, baseline: Plan | None, candidate: Plan | None) -> None:
    allow = "llmbench compare --cross-machine compares them anyway."
    if baseline is None or candidate is None:
        raise NotComparable(f"{where}: one run does not name its machine. {allow}")
    here, there = info.kind(baseline.machine), info.kind(candidate.machine)
    if here != there:
        difference = (
            f"{there[0]} against {here[0]}"
            if there[0] != here[0]
            else f"two machines of the kind {here[0]}"
        )
        raise NotComparable(
            f"{where}: {difference}; a difference may come from the machine instead of the change. {allow}"
        )


def _refuse_other_holding(where: str, baseline: Side, candidate: Side) -> None:
    held = {bool(value) for side in (baseline, candidate) for value in side.preallocated}
    if len(held) > 1:
        raise NotComparable(
            f"{where}: one side's engine pre-allocates memory, and its bytes cannot be compared with memory "
            f"taken on demand; no flag allows it. Compare {' or '.join(MEMORY_WITHOUT_HOLDERS)} instead."
        )


def quality(baseline: Side, candidate: Side, matched: Match) -> Iterator[str]:
    """Yield a caveat for each pair of schemes of quantisation that differ between cells compared with each other."""
    pairs = zip(matched.baseline.tolist(), matched.candidate.tolist(), strict=True)
    cells = [(baseline.cells[a], candidate.cells[b]) for a, b in pairs]
    schemes = {
        tuple(str(cell.options.get(QUANTIZATION, NONE)) for cell in pair): pair for pair in cells
    }
    for (before, after), pair in schemes.items():
        if before != after:
            far = [
                _how_far(side, cell) for side, cell in zip((baseline, candidate), pair, strict=True)
            ]
            yield (
                f"Quality differs: quantization is {before}{far[0]} in the baseline and {after}{far[1]} in the "
                "candidate. These are not the same model, and the faster one may answer worse; llmbench audit --parity "
                "RUN measures how far they are apart."
            )


def _how_far(side: Side, cell: Point) -> str:
    """Return how far a cell's model was found to be from the float32 reference; empty if nobody looked."""
    nats = side.errors_nats.get(cell.id)
    return "" if nats is None else f" ({nats:.2g} nats from float32)"


def apart(baseline: Side, candidate: Side, matched: Match, factor: str | None) -> Iterator[str]:
    """Yield what keeps two sides without a cell in common apart: coordinates of which they share no value."""
    if len(matched.baseline):
        return
    left, right = (values_of(side.cells, SHOWN) for side in (baseline, candidate))
    pairs = {name: (left.get(name, {}), right.get(name, {})) for name in {**left, **right}}
    differ = [
        f"{name} {_some(before)} -> {_some(after)}"
        for name, (before, after) in pairs.items()
        if name != factor and not before.keys() & after.keys()
    ]
    if differ:
        yield f"No cell is in both runs, which have no value in common of: {'; '.join(differ)}."


def _some(values: Mapping[object, None]) -> str:
    """Return values in words; of many the first ones."""
    listed = [*map(str, values)][:MOST_VALUES]
    return (
        ", ".join(listed) + (", ..." if len(values) > MOST_VALUES else "") if listed else "not set"
    )


def same(baseline: Side, candidate: Side) -> bool:
    """Return whether both sides are the same measurements."""
    if not baseline.plan or not candidate.plan or baseline.plan.run != candidate.plan.run:
        return False
    columns = ("owners", "rounds", "values")
    return all(
        np.array_equal(getattr(baseline, c), getattr(candidate, c), equal_nan=True) for c in columns
    )


def notices(baseline: Side, candidate: Side, asked: CompareOptions) -> Iterator[str]:
    """Yield the caveats of the comparison."""
    if asked.factor is None:
        yield from _of_separate_runs(baseline, candidate)
    yield from _of_other_tools(baseline, candidate)
    clocks = [_mean_clock(side) for side in (baseline, candidate)]
    if abs(clocks[1] / clocks[0] - 1) > CLOCKS_APART:
        yield (
            f"The device's mean clock was {clocks[1]:,.0f} MHz, the baseline's {clocks[0]:,.0f}: "
            f"{clocks[1] / clocks[0] - 1:+.1%}, which alone may explain a difference."
        )
    for side in (baseline, candidate) if asked.factor is None else (baseline,):
        if side.warned:
            codes = ", ".join(f"{code} {count}" for code, count in sorted(side.warned.items()))
            name = side.name if asked.factor is None else "The run"
            yield f"{name} has sessions with warnings: {codes}."


def _of_other_tools(baseline: Side, candidate: Side) -> Iterator[str]:
    if NOT_OURS in baseline.protocols | candidate.protocols:
        yield "Some numbers come from another tool, with its own warm-up and repetitions."
    for definition in sorted(baseline.given ^ candidate.given):
        yield f"One side's number comes from a tool that defines it as: {definition}."


def _mean_clock(side: Side) -> float:
    known = side.clocks_mhz[np.isfinite(side.clocks_mhz)]
    return float(known.mean()) if len(known) else np.nan


def in_turn(baseline: Side, candidate: Side) -> bool:
    """Return whether two runs were measured in turn, round by round, so that sessions of a round are neighbours."""
    turns = [side.plan.turns if side.plan else "" for side in (baseline, candidate)]
    return turns[0] == turns[1] != "" and not same(baseline, candidate)


def _of_separate_runs(baseline: Side, candidate: Side) -> Iterator[str]:
    if baseline.plan and candidate.plan and baseline.plan.run == candidate.plan.run:
        if same(baseline, candidate):
            yield "Both sides are the same run; every ratio is 1 because nothing was measured twice."
        else:
            yield "Both sides are the same run at different moments; sessions in both are compared with themselves."
        return
    yield IN_TURN if in_turn(baseline, candidate) else APART
    if baseline.plan and candidate.plan:
        here, there = baseline.plan.machine, candidate.plan.machine
        if info.kind(here) == info.kind(there) and info.identity(here) != info.identity(there):
            yield ALIKE
        yield from _changes(baseline.plan, candidate.plan)


def _changes(baseline: Plan, candidate: Plan) -> Iterator[str]:
    settings = differing(baseline.settings.measuring(), candidate.settings.measuring())
    if settings:
        yield f"Measured with other settings: {', '.join(settings)}."
    facts = differing(flat(baseline.environment), flat(candidate.environment))
    if facts:
        more = f", and {len(facts) - MOST_CHANGES} more" if len(facts) > MOST_CHANGES else ""
        yield f"Changed between the runs: {', '.join(facts[:MOST_CHANGES])}{more}."
