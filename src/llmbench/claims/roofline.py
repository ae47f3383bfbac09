"""Claims about bottlenecks: the side of the roofline that cells are on, and the share of a peak that they reach."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from llmbench.claims.claim import (
    Answer,
    ClaimVerdict,
    Part,
    Range,
    at_batch,
    but_batch,
    frontiers,
    grouped,
    held,
    missing,
    reachable,
)
from llmbench.cost import prices
from llmbench.machine import chips
from llmbench.models import formulas
from llmbench.results.cells import PHASES
from llmbench.results.utilization import OVERHEAD_OVER
from llmbench.spec.grid import QUANTIZATION
from llmbench.spec.load import LOAD, SHARED_PREFIX, TRACE, parse
from llmbench.spec.sweep import NOT_SAID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.claims.claim import Claim, Evidence
    from llmbench.results.cells import Measured
    from llmbench.stats.interval import Interval

COMPUTE = "compute"
OTHER_WORK = (SHARED_PREFIX, QUANTIZATION)
"""Options with which a request takes other work than its lengths and the model's dtype say."""
NO_CEILINGS = (
    "{} cells have no ceilings to compare with; measure them first with llmbench machine --probe."
)


def compute_is_the_bottleneck(claim: Claim, given: Evidence) -> Answer:
    """Count, by batch size and phase, which side of the roofline the cells are on."""
    del claim
    parts = []
    known = [row for row in given.rows if row.bound]
    largest = frontiers(given.rows)
    for _, rows in grouped(
        sorted(known, key=lambda r: r.cell.batch_size), lambda r: (r.cell.batch_size, r.where)
    ):
        for phase in PHASES:
            able = [row for row in rows if phase in row.bound]
            if able:
                reached = all(largest.get(but_batch(row)) is row for row in able)
                parts.append(reachable(_side(phase, able), reached=reached))
    parts += _sides_at_load(given)
    return Answer(tuple(parts), (*missing(parts), *_unknown(given)))


def _side(phase: str, able: Sequence[Measured]) -> Part:
    """Return whether more than half of the cells of one batch size are bound by compute."""
    return _counted(f"{phase} at {at_batch(able[0])}", [(row, row.bound[phase]) for row in able])


def _counted(where: str, found: Sequence[tuple[Measured, str]]) -> Part:
    """Return whether more than half of some cells are bound by compute, by the side that each is on."""
    sides = Counter(side for _, side in found)
    bound = 2 * sides[COMPUTE] > len(found)
    verdict = ClaimVerdict.SUPPORTED if bound else ClaimVerdict.CONTRADICTED
    counted = ", ".join(f"{count} by {side}" for side, count in sides.most_common())
    rows = tuple(row for row, _ in found)
    return Part(where, verdict, f"of {len(found)} cells: {counted}", rows=rows)


def _sides_at_load(given: Evidence) -> Iterator[Part]:
    """Yield which side of the roofline servers are on, for each load on each kind of machine."""
    able = [(row, side) for row in given.rows if (side := _side_at_load(row))]
    for (where, load), found in grouped(able, lambda pair: (pair[0].where, _load(pair[0]))):
        reached = all(row.has("capacity_rps") for row, _ in found)
        yield reachable(_counted(f"at load {load} on {where}", found), reached=reached)


def _side_at_load(row: Measured) -> str:
    """Return which share of its chip a server took more of, operations or bandwidth; empty where one is unknown.

    Each step reads the weights, and for each request that is being answered the keys and values of its tokens; it takes
    as long as a token of one request. Where both shares are under a half, something else limits.
    """
    computing = _share_of_requests(row)
    chip = chips.chip(row.machine.chip) if row.machine.chip else None
    bandwidth = chip.bandwidth() if chip else None
    steps = row.cell.output_len - 1
    wanted = ("served_tpot_s", "steady_output_tok_s")
    if computing is None or not (bandwidth and row.counts and steps):
        return ""
    if not all(map(row.has, wanted)):
        return ""
    step_s, tokens_s = map(row.middle, wanted)
    weights = formulas.step_weight_bytes(row.counts, row.cell.dtype)
    kept = formulas.read_kv_bytes(row.counts, row.cell.dtype, row.cell.input_len + 1, steps) / steps
    moved_s = weights / step_s + kept * tokens_s
    moving = moved_s / (bandwidth * prices.gpus_of(row))
    if max(computing.value, moving) < 1 / OVERHEAD_OVER:
        return "overhead"
    return COMPUTE if computing.value >= moving else "bandwidth"


def _load(row: Measured) -> str:
    return str(row.cell.options.get(LOAD, ""))


def half_utilisation(claim: Claim, given: Evidence) -> Answer:
    """Find the largest share of the compute ceiling that any cell reached in each phase."""
    parts, notes = [], []
    predicted = Range(100 * claim.threshold("share"))
    reached = frontiers(given.rows)
    for phase in PHASES:
        key = f"mfu_{phase}"
        able = [row for row in given.rows if row.has(key)]
        for where, rows in grouped(able, lambda row: (row.where, row.ceilings)):
            best = max(rows, key=lambda row: row.middle(key))
            figure = best.figure(key).times(100)
            peak = (
                "the datasheet's dense peak" if where[1] == "datasheet" else "the measured ceiling"
            )
            sentence = f"best of {len(rows)} cells ({best.cell.model}, {at_batch(best)}), of {peak}"
            part = held(phase, sentence, figure, predicted, "%", (best,))
            parts.append(reachable(part, reached=but_batch(best) in reached))
    parts += _at_load(given, predicted)
    if any(row.ceilings == "measured" for part in parts for row in part.rows):
        notes.append("A share of a measured ceiling is larger than one of a datasheet's peak.")
    return Answer(tuple(parts), (*notes, *missing(parts), *_unknown(given)))


def _at_load(given: Evidence, predicted: Range) -> Iterator[Part]:
    """Yield the largest share of the peak that the requests of a server at load took, on each kind of machine."""
    able = [(row, share) for row in given.rows if (share := _share_of_requests(row))]
    for where, rows in grouped(able, lambda pair: pair[0].where):
        best, share = max(rows, key=lambda pair: pair[1].value)
        load = best.cell.options[LOAD]
        sentence = f"best of {len(rows)} served cells ({best.cell.model}, load {load}), of the datasheet's dense peak"
        part = held(f"at load on {where}", sentence, share.times(100), predicted, "%", (best,))
        yield reachable(part, reached=best.has("capacity_rps"))


def _share_of_requests(row: Measured) -> Interval | None:
    """Return the operations of the requests answered in a second over the chip's peak; None where one is unknown."""
    load = _load(row)
    here = row.machine.chip if row.cell.device not in {"cpu", NOT_SAID} else None
    chip = chips.chip(here) if here else None
    peak = chip.flops(row.cell.dtype) if chip else None
    if (
        not load
        or parse(load).kind == TRACE
        or any(row.cell.options.get(name) for name in OTHER_WORK)
        or not row.has("achieved_rps")
        or not (peak and row.counts)
    ):
        return None
    work = formulas.prefill_flops(row.counts, row.cell.input_len)
    work += formulas.decode_flops_of_steps(row.counts, row.cell.input_len, row.cell.output_len - 1)
    return row.figure("achieved_rps").times(work / (peak * prices.gpus_of(row)))


def _unknown(given: Evidence) -> tuple[str, ...]:
    rows: list[Measured] = [row for row in given.rows if not row.bound]
    return (NO_CEILINGS.format(len(rows)),) if rows else ()
