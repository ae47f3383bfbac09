"""Claims about training and about the size of a fleet: arithmetic on published figures and on measured throughput."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmbench import cost
from llmbench.claims.claim import Answer, ClaimVerdict, Part, Range, grouped, held
from llmbench.claims.money import BILLION, MILLION, MONTH_S, full_size
from llmbench.cost import prices
from llmbench.machine import chips
from llmbench.numbers import digits
from llmbench.stats.interval import exactly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.claims.claim import Claim, Evidence
    from llmbench.results.cells import Measured

TERA = 1e12


def training_cost_decline(claim: Claim, given: Evidence) -> Answer:
    """Compute from pairs of dated published costs by what factor training became cheaper in 18 months."""
    del given
    parts = []
    for pair in claim.pairs:
        months = 12 * (pair.later_year - pair.earlier_year)
        factor = (pair.earlier_usd / pair.later_usd) ** (18 / months)
        sentence = (
            f"${pair.earlier_usd:,.0f} then, ${pair.later_usd:,.0f} after {digits(months)} months; factor "
            "per 18 months"
        )
        predicted = Range(claim.threshold("factor"))
        parts.append(held(pair.what, sentence, exactly(factor), predicted, "x"))
    return Answer(tuple(parts))


def training_price_per_parameter(claim: Claim, given: Evidence) -> Answer:
    """Compare two published figures by arithmetic alone."""
    del given
    low, high = int(claim.assumed("parameters_low")), int(claim.assumed("parameters_high"))
    sizes = range(low, high + 1, int(claim.assumed("step")))
    parts = [
        _class_part(claim, verdict, [size for _, size in same])
        for verdict, same in grouped(
            [(_agree(claim, size), size) for size in sizes], lambda pair: pair[0]
        )
    ]
    return Answer(tuple(parts), (_tokens_bought(claim, claim.assumed("rmb_run_high")),))


def _class_part(claim: Claim, verdict: ClaimVerdict, sizes: list[int]) -> Part:
    """Return the verdict for the sizes of a class that share it, with both figures at their ends."""
    ends = dict.fromkeys((sizes[0], sizes[-1]))
    by_size = " and ".join(
        "RMB {:g} to {:g} million".format(*_by_parameter(claim, size)) for size in ends
    )
    run = [claim.assumed(f"rmb_run_{end}") / MILLION for end in ("low", "high")]
    where = " to ".join(f"{size / BILLION:g}B" for size in ends)
    sentence = f"by the parameter {by_size}, by the run {run[0]:g} to {run[1]:g}"
    return Part(f"{where} parameters", verdict, sentence)


def _by_parameter(claim: Claim, size: float) -> tuple[float, float]:
    """Return the range of the price of a size by the parameter, in millions."""
    units = size / claim.assumed("per_parameters") / MILLION
    return units * claim.assumed("rmb_per_100m_low"), units * claim.assumed("rmb_per_100m_high")


def _agree(claim: Claim, size: float) -> ClaimVerdict:
    """Return whether the two ranges share enough of the narrower one at a size."""
    low, high = _by_parameter(claim, size)
    run_low, run_high = (claim.assumed(f"rmb_run_{end}") / MILLION for end in ("low", "high"))
    overlap = min(high, run_high) - max(low, run_low)
    agree = overlap >= claim.threshold("overlap") * min(high - low, run_high - run_low)
    return ClaimVerdict.SUPPORTED if agree else ClaimVerdict.CONTRADICTED


def _tokens_bought(claim: Claim, rmb: float) -> str:
    """Return how many tokens the higher figure trains, at 6 operations per parameter and token."""
    flops = chips.chip("a100-80gb-sxm").flops("bfloat16") or 0.0
    hours = rmb / claim.assumed("rmb_per_usd") / claim.assumed("usd_per_gpu_hour")
    done = hours * cost.HOUR_S * flops * claim.assumed("utilisation")
    size = claim.assumed("parameters_low")
    tokens = done / (6 * size)
    return (
        f"RMB {rmb / MILLION:g} million buys a model of {size / BILLION:g}B parameters "
        f"{digits(tokens / BILLION)}B tokens of training at the assumed price."
    )


def serving_fleet(claim: Claim, given: Evidence) -> Answer:
    """Compute how many A100s serve the demand at the measured throughput, under a bound on latency."""
    parts, notes = [], []
    use_s = claim.assumed("uses_per_user_month") * claim.assumed("output_tokens_per_use") / MONTH_S
    demand = claim.assumed("monthly_users") * use_s * claim.assumed("peak_over_mean")
    fleet = claim.threshold("gpus")
    rates, times_of = cost.OUTPUT_RATES[:2], cost.TOKEN_TIMES
    able = full_size(given, 0, rates=rates)
    for (model, where), rows in grouped(able, lambda r: (r.cell.model, r.where)):
        quick = [
            r
            for r in rows
            if r.has(key := r.first(times_of))
            and r.figure(key).high < claim.threshold("tpot_under_s")
        ]
        if not quick or where == "cpu":
            continue
        row = max(quick, key=lambda r: r.middle(r.first(rates)) / prices.gpus_of(r))
        pace = row.figure(row.first(rates)).times(1 / prices.gpus_of(row))
        times, how = _to_size(claim, row)
        if where.startswith("a100"):
            needed = pace.over(demand * times)
            sentence = f"for {digits(demand)} tokens/s at peak, {how},"
            parts.append(held(model, sentence, needed, Range(high=fleet), "GPUs", (row,)))
        else:
            notes.append(
                f"{model} on {where}: {fleet:,.0f} of these would serve "
                f"{digits(pace.value * fleet / times)} tokens/s, {how}."
            )
    return Answer(tuple(parts), tuple(notes))


def _to_size(claim: Claim, row: Measured) -> tuple[float, str]:
    """Return how many times the work of a token a model of the claim's size has, and the extrapolation in words."""
    size, active = claim.assumed("parameters"), claim.assumed("active_parameters")
    if row.counts is None or row.counts.parameters >= size / 2:
        return 1.0, "as measured"
    ours = row.counts.active_parameters
    return active / ours, (
        f"extrapolated from {digits(ours / BILLION)}B to {digits(active / BILLION)}B active parameters in "
        "proportion, without the cost of splitting a model over GPUs"
    )


def gpt3_needs_thousands(claim: Claim, given: Evidence) -> Answer:
    """Count the GPUs that hold the model, train it in a month, and serve a stated demand."""
    least = Range(claim.threshold("gpus"))
    size = claim.assumed("parameters")
    memory = claim.assumed("gpu_memory_gb") * BILLION
    needed = math.ceil(size * claim.assumed("bytes_per_parameter") / memory)
    sentence = f"{digits(size * claim.assumed('bytes_per_parameter') / BILLION)} GB of weights in"
    hold = held("holding it", sentence, exactly(needed), least, "GPUs")
    served = [_served(claim, row) for row in _quickest(claim, given)]
    return Answer((hold, _trained(claim, least), *served))


def _trained(claim: Claim, least: Range) -> Part:
    """Return how many GPUs of 2020 train the model in a month."""
    operations = 6 * claim.assumed("parameters") * claim.assumed("training_tokens")
    rate = claim.assumed("tflops_of_2020") * TERA * claim.assumed("utilisation")
    gpus = operations / rate / MONTH_S
    sentence = f"{digits(operations / 1e21)} x 10^21 operations in 30 days on V100s:"
    return held("training it in a month", sentence, exactly(gpus), least, "GPUs")


def _quickest(claim: Claim, given: Evidence) -> Iterator[Measured]:
    """Yield the cell with the most tokens per second of each model of at least a size on each kind of GPU."""
    able = [r for r in full_size(given, claim.threshold("least_parameters")) if r.where != "cpu"]
    for _, rows in grouped(able, lambda r: (r.cell.model, r.where)):
        yield max(rows, key=lambda r: r.middle("output_tok_s") / prices.gpus_of(r))


def _served(claim: Claim, row: Measured) -> Part:
    """Return how many GPUs serve the stated demand, extrapolated in proportion to the active parameters."""
    assert row.counts is not None
    ours, size = row.counts.active_parameters, claim.assumed("parameters")
    pace = row.figure("output_tok_s").times(ours / size / prices.gpus_of(row))
    needed = pace.over(claim.assumed("demand_tok_s"))
    sentence = (
        f"for {digits(claim.assumed('demand_tok_s'))} tokens/s, extrapolated from {row.cell.model} "
        f"({digits(ours / BILLION)}B active parameters) in proportion,"
    )
    where = f"serving it on {row.where}, from {row.cell.model}"
    return held(where, sentence, needed, Range(claim.threshold("gpus")), "GPUs", (row,))


def not_testable(claim: Claim, given: Evidence) -> Answer:
    """Return no part, for a claim about the world that no run of a harness can settle."""
    del claim, given
    return Answer()
