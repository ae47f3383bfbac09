"""Claims about size: the cost of parameters, the savings of a mixture of experts, and quality per cost."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING

from llmbench.claims.claim import Answer, ClaimVerdict, Part, Range, at_batch, grouped, held
from llmbench.models import resolve
from llmbench.numbers import digits
from llmbench.stats.interval import Interval, product, ratio, slope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llmbench.claims.claim import Claim, Evidence
    from llmbench.results.cells import Measured

COST = "output_tok_s"
"""On one machine the cost of a token is proportional to the inverse of this, at any price per hour."""


def ten_times_the_parameters(claim: Claim, given: Evidence) -> Answer:
    """Fit how the time and the cost of a token grow with the parameters of dense models."""
    parts = []
    predicted = Range(claim.threshold("slope_low"), claim.threshold("slope_high"))
    for rows in _alike(given):
        dense = [row for row in rows if not _experts(row)]
        sizes = [_active(row) for row in dense]
        if len(set(sizes)) < claim.threshold("least_models") or max(sizes) < claim.threshold(
            "least_range"
        ) * min(sizes):
            continue
        for what, key, power in (("latency", "tpot_s", 1), ("cost", COST, -1)):
            figure = slope(sizes, [row.middle(key) ** power for row in dense])
            sentence = f"{len(dense)} models; ten times the parameters, {_tenfold(figure)} the {what}; slope"
            where = f"{what} at {_condition(rows[0])}"
            parts.append(held(where, sentence, figure, predicted, rows=tuple(dense)))
    return Answer(tuple(parts))


def _tenfold(figure: Interval) -> str:
    return f"{digits(10**figure.value)}x ({digits(10**figure.low)} to {digits(10**figure.high)})"


def moe_cuts_cost(claim: Claim, given: Evidence) -> Answer:
    """Compare a mixture with dense models near its total and near its active number of parameters."""
    del claim
    parts, notes = [], []
    for rows in _alike(given):
        dense = sorted((row for row in rows if not _experts(row)), key=_total)
        for row in filter(_experts, rows):
            equal = _against(row, dense, _total(row))
            if equal is None:
                continue
            figure, others = equal
            names = " and ".join(other.cell.model for other in others)
            where = f"{row.cell.model}, {_condition(row)}"
            sentence = f"cost against a dense model of equal total, between {names}:"
            parts.append(held(where, sentence, figure, Range(high=1.0), "x", (row, *others)))
            if active := _against(row, dense, _active(row)):
                notes.append(
                    f"{where}: {digits(active[0].value)}x a dense model of equal active parameters."
                )
    return Answer(tuple(parts), tuple(notes))


def _against(
    row: Measured, dense: Sequence[Measured], size: float
) -> tuple[Interval, tuple[Measured, ...]] | None:
    """Return a cell's cost relative to a dense model of a size, interpolated between the two nearest in logarithms."""
    for small, large in pairwise(dense):
        if _total(small) <= size <= _total(large) and _total(small) < _total(large):
            part = math.log(size / _total(small)) / math.log(_total(large) / _total(small))
            figure = product(
                [
                    (-1.0, row.values[COST]),
                    (1 - part, small.values[COST]),
                    (part, large.values[COST]),
                ]
            )
            return figure, (small, large)
    return None


def sub_50b(claim: Claim, given: Evidence) -> Answer:
    """Compare every dense model below a share of LLaMA-65B's parameters with LLaMA-65B, at equal conditions."""
    parts = []
    for rows in _alike(given):
        large = [row for row in rows if _base(row) == "llama-65b"]
        small = [
            row
            for row in rows
            if large
            and not _experts(row)
            and _total(row) < claim.threshold("share_of_65b") * _total(large[0])
        ]
        if not small:
            continue
        ratios = [(ratio(large[0].values[COST], row.values[COST]), row) for row in small]
        figure, worst = max(ratios, key=lambda pair: pair[0].high)
        sentence = f"{len(small)} dense models; the dearest, {worst.cell.model}, costs"
        both = (worst, large[0])
        parts.append(
            held(_condition(worst), sentence, figure, Range(high=1.0), "x LLaMA-65B", both)
        )
    return Answer(tuple(parts))


def quality_per_cost(claim: Claim, given: Evidence) -> Answer:
    """Combine published accuracies with measured cost: are two models level, and does a larger older one win?"""
    parts = []
    for rows in _alike(given):
        scored = {_base(row): row for row in rows if _quality(row) is not None}
        both = [*_level(claim, scored), *_larger(claim, scored)]
        parts += both if len(both) > 1 else []  # both halves are needed for a verdict
    return Answer(
        tuple(parts),
        ("Accuracies are means over the twelve tasks printed in the report.",) if parts else (),
    )


def _level(claim: Claim, scored: dict[str, Measured]) -> Iterator[Part]:
    if not {"mpt-7b", "llama-7b"} <= scored.keys():
        return
    ours, theirs = scored["mpt-7b"], scored["llama-7b"]
    apart = abs((_quality(ours) or 0) - (_quality(theirs) or 0))
    figure = ratio(theirs.values[COST], ours.values[COST])
    slack = claim.threshold("cost_within")
    sentence = f"mean accuracies {apart:.3f} apart; MPT-7B costs"
    where = f"MPT-7B level with LLaMA-7B, {_condition(ours)}"
    level = Range(1 / (1 + slack), 1 + slack)
    part = held(where, sentence, figure, level, "x LLaMA-7B", (ours, theirs))
    alike = apart <= claim.threshold("quality_within")
    yield part if alike else part._replace(verdict=ClaimVerdict.CONTRADICTED)


def _larger(claim: Claim, scored: dict[str, Measured]) -> Iterator[Part]:
    """Yield whether each larger model is beaten: another is no worse, and cheaper by more than its interval."""
    if not scored:
        return
    least = claim.threshold("larger_than") * min(map(_total, scored.values()))
    large = {name: row for name, row in scored.items() if _total(row) > least}
    if not large or len(scored) == len(large):
        return
    front = [name for name, row in large.items() if not _beaten(row, scored.values())]
    verdict = ClaimVerdict.CONTRADICTED if front else ClaimVerdict.SUPPORTED
    sentence = (
        f"not beaten: {', '.join(front)}"
        if front
        else f"all {len(large)} are beaten by a cheaper one"
    )
    some = next(iter(large.values()))
    yield Part(
        f"no larger model wins, {_condition(some)}", verdict, sentence, rows=tuple(scored.values())
    )


def _beaten(row: Measured, others: Iterable[Measured]) -> bool:
    return any(
        (_quality(other) or 0) >= (_quality(row) or 0)
        and ratio(row.values[COST], other.values[COST]).high < 1
        for other in others
        if other is not row
    )


def _quality(row: Measured) -> float | None:
    """Return the mean published accuracy of a model of the catalogue; None if there is none."""
    return _mean_accuracy(_base(row))


@cache  # cached: reading the file again for every pair of models would take seconds
def _mean_accuracy(name: str) -> float | None:
    scores = resolve.entry(name).zero_shot if name in resolve.catalogue() else None
    return mean(scores.accuracy.values()) if scores else None


def _alike(given: Evidence) -> list[list[Measured]]:
    """Return lists of cells that differ only in the model, and have the same scale."""
    rows = [row for row in given.rows if row.counts and row.has(COST) and row.has("tpot_s")]
    return [
        cells
        for _, cells in grouped(
            rows,
            lambda r: (r.alike, _size(r), r.cell.batch_size, r.cell.input_len, r.cell.output_len),
        )
    ]


def _base(row: Measured) -> str:
    return row.cell.model.partition(resolve.AT)[0]


def _size(row: Measured) -> str:
    return row.cell.model.partition(resolve.AT)[2]


def _experts(row: Measured) -> bool:
    return row.counts is not None and row.counts.experts > 1


def _total(row: Measured) -> float:
    return row.counts.parameters if row.counts else math.nan


def _active(row: Measured) -> float:
    return row.counts.active_parameters if row.counts else math.nan


def _condition(row: Measured) -> str:
    return f"{at_batch(row)}, {row.cell.input_len:,} in"
