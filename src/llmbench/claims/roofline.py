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
from llmbench.spec.load import LOAD, TRACE, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.claims.claim import Claim, Evidence
    from llmbench.results.cells import Measured
    from llmbench.stats.interval import Interval

COMPUTE = "compute"
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
    return Answer(tuple(parts), (*missing(parts), *_unknown(given)))


def _side(phase: str, able: Sequence[Measured]) -> Part:
    """Return whether more than half of the cells of one batch size are bound by compute."""
    sides = Counter(row.bound[phase] for row in able)
    bound = 2 * sides[COMPUTE] > len(able)
    verdict = ClaimVerdict.SUPPORTED if bound else ClaimVerdict.CONTRADICTED
    counted = ", ".join(f"{count} by {side}" for side, count in sides.most_common())
    where = f"{phase} at {at_batch(able[0])}"
    return Part(where, verdict, f"of {len(able)} cells: {counted}", rows=tuple(able))


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
    load = str(row.cell.options.get(LOAD, ""))
    chip = chips.chip(row.machine.chip) if row.machine.chip and row.cell.device != "cpu" else None
    peak = chip.flops(row.cell.dtype) if chip else None
    if (
        not load
        or parse(load).kind == TRACE
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
