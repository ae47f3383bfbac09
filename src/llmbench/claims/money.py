"""Claims about money: the cost of a token in dollars, and its effect on prices, subscriptions and fleets."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from llmbench import cost
from llmbench.claims.claim import (
    Answer,
    ClaimVerdict,
    Evidence,
    Part,
    Range,
    at_batch,
    grouped,
    held,
)
from llmbench.cost import prices
from llmbench.machine import chips
from llmbench.models import formulas
from llmbench.numbers import count, digits
from llmbench.stats.interval import Interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.claims.claim import Claim
    from llmbench.results.cells import Measured

DAYS_A_MONTH = 30
MONTH_S = DAYS_A_MONTH * cost.DAY_S
SAMBANOVA, AMD_OR_TPU = ("sambanova", "sn30", "sn40"), ("mi2", "mi3", "tpu")
"""The first letters of their chips' and machines' names."""
PRICE_FLAGS = "no price: give --usd-per-hour, --usd-per-gpu-hour or --price"


def inference_cost_decline(claim: Claim, given: Evidence) -> Answer:
    """Compare a model's cost today with its dated cost of 2023, as a factor per 18 months."""
    notes: list[str] = []
    parts: list[Part] = []
    then = claim.assumed("mpt_7b_usd_per_1m_output")
    same = [
        row
        for row in given.rows
        if row.cell.input_len == claim.threshold("input_len")
        and row.cell.output_len == claim.threshold("output_len")
    ]
    for model, row, usd in _cheapest_by_model(Evidence(same, given.asked), notes):
        months = _months(claim.assumed("baseline_year"), row.at)
        if model != "mpt-7b" or months < claim.threshold("least_months"):
            continue
        factor = Interval(*(part ** (18 / months) for part in usd.over(then)))
        sentence = (
            f"{digits(then)} dollars then, {digits(usd.value)} now, {digits(months)} months apart; factor "
            f"per 18 months"
        )
        predicted = Range(claim.threshold("factor"))
        parts.append(held(_where(row), sentence, factor, predicted, "x", (row,)))
    return Answer(tuple(parts), tuple(notes))


def _months(year: float, at: str) -> float:
    return 12 * (int(at[:4]) + (int(at[5:7]) - 1) / 12 - year)


def self_host_or_api(claim: Claim, given: Evidence) -> Answer:
    """Find the volume from which your own machine is cheaper than the cheapest API for the same model."""
    del claim
    parts: list[Part] = []
    notes: list[str] = []
    for model, row, _ in _cheapest_by_model(given, notes):
        listed = prices.against(None, model)
        if not listed:
            continue
        hour = given.hour_usd(row) or 0.0
        api = min(listed, key=lambda p: p.request_usd(row.cell.input_len, row.cell.output_len))
        equal = cost.break_even(row, hour, api)
        sentence = (
            f"{count(round(equal.tokens_per_day))} tokens a day cost as much at {api.name}; utilisation at "
            f"that volume"
        )
        parts.append(held(_where(row), sentence, equal.utilisation, Range(high=1.0), rows=(row,)))
    return Answer(tuple(parts), tuple(notes))


def copilot_economics(claim: Claim, given: Evidence) -> Answer:
    """Compute the cost of a subscriber's month from the measured cost of a token."""
    parts: list[Part] = []
    notes: list[str] = []
    tokens = claim.assumed("uses_per_day") * claim.assumed("output_tokens_per_use") * DAYS_A_MONTH
    price = claim.assumed("usd_per_month")
    for _, row, usd in _cheapest_by_model(given, notes, claim.threshold("least_parameters")):
        month = usd.times(tokens / prices.MILLION)
        gone = claim.assumed("uses_per_day") * price / month.value
        sentence = f"margin gone at {digits(gone)} uses a day; a month costs"
        parts.append(held(_where(row), sentence, month, Range(high=price), "dollars", (row,)))
    return Answer(tuple(parts), tuple(notes))


def serving_fleet(claim: Claim, given: Evidence) -> Answer:
    """Compute how many A100s serve the demand at the measured throughput, under a latency bound."""
    parts, notes = [], []
    use_s = claim.assumed("uses_per_user_month") * claim.assumed("output_tokens_per_use") / MONTH_S
    demand = claim.assumed("monthly_users") * use_s * claim.assumed("peak_over_mean")
    fleet = claim.threshold("gpus")
    for (model, where), rows in grouped(_able(given, 0), lambda r: (r.cell.model, r.where)):
        quick = [
            r
            for r in rows
            if r.has("tpot_s") and r.figure("tpot_s").high < claim.threshold("tpot_under_s")
        ]
        if not quick or where == "cpu":
            continue
        row = max(quick, key=lambda r: r.middle("output_tok_s") / prices.gpus_of(r))
        pace = row.figure("output_tok_s").times(1 / prices.gpus_of(row))
        if where.startswith("a100"):
            needed = pace.over(demand)
            sentence = f"for {digits(demand)} tokens/s at peak,"
            parts.append(held(model, sentence, needed, Range(high=fleet), "GPUs", (row,)))
        else:
            notes.append(
                f"{model} on {where}: {fleet:,.0f} of these would serve {digits(pace.value * fleet)} tokens/s."
            )
    return Answer(tuple(parts), tuple(notes))


def verify_budget(claim: Claim, given: Evidence) -> Answer:
    """Count the passes that a machine makes while a reader waits, and those that a cent pays for."""
    wanted, wait_s, cent = (
        claim.threshold("passes"),
        claim.threshold("wait_s"),
        claim.threshold("usd"),
    )
    parts: list[Part] = []
    notes: list[str] = []
    able = [row for row in _able(given, 0, scaled=True) if _pass_size(claim, row)]
    for model, rows in grouped(able, lambda row: row.cell.model):
        row = max(rows, key=lambda r: r.middle("output_tok_s") / r.cell.output_len)
        a_second = row.figure("output_tok_s").times(1 / row.cell.output_len)
        hour = given.hour_usd(row)
        if hour is None:
            notes.append(PRICE_FLAGS)
            continue
        in_time, for_a_cent = a_second.times(wait_s), a_second.times(cent * cost.HOUR_S / hour)
        fewest = min(in_time, for_a_cent, key=lambda figure: figure.value)
        sentence = f"{digits(for_a_cent.value)} passes for a cent, {digits(in_time.value)} in {wait_s:g} s; smaller:"
        where = f"{model}, {row.cell.input_len} in and {row.cell.output_len} out"
        parts.append(held(where, sentence, fewest, Range(wanted), "passes", (row,)))
    return Answer(tuple(parts), tuple(dict.fromkeys(notes)))


def _pass_size(claim: Claim, row: Measured) -> bool:
    cell = row.cell
    return cell.input_len >= claim.threshold("least_input") and cell.output_len >= claim.threshold(
        "least_output"
    )


def sambanova(claim: Claim, given: Evidence) -> Answer:
    """Compare a model's cost on SambaNova's machine with that on NVIDIA's; no verdict until both are measured."""
    return _against_nvidia(given, SAMBANOVA, claim.threshold("least_ratio"))


def amd_tpu_parity(claim: Claim, given: Evidence) -> Answer:
    """Compare a model's cost on AMD's or Google's chips with NVIDIA's; before that, list datasheet ceilings."""
    measured = _against_nvidia(given, AMD_OR_TPU, claim.threshold("least_ratio"))
    return Answer(measured.parts, (*measured.notes, *_ceilings()))


def _against_nvidia(given: Evidence, theirs: tuple[str, ...], least: float) -> Answer:
    """Compare the cheapest cells of a model in one year: NVIDIA's cost over another machine's."""
    notes: list[str] = []
    parts = []
    rows = list(_cheapest_by_model(given, notes))
    others = [other for other in rows if other[1].where.startswith(theirs)]
    for (model, row, usd), (same, nvidia, nvidia_usd) in itertools.product(others, rows):
        if same != model or not _nvidia(nvidia) or nvidia.at[:4] != row.at[:4]:
            continue
        # Wider than necessary: the ends of both intervals, because no sessions pair them.
        ends = nvidia_usd.low / usd.high, nvidia_usd.high / usd.low
        figure = Interval(nvidia_usd.value / usd.value, *ends)
        where = f"{model}, {row.where} and {nvidia.where}"
        sentence = f"NVIDIA's cost over {row.where}'s"
        parts.append(held(where, sentence, figure, Range(least), "x", (row, nvidia)))
    return Answer(tuple(parts), tuple(notes))


def _nvidia(row: Measured) -> bool:
    return row.machine.chip is not None and chips.chip(row.machine.chip).vendor == "NVIDIA"


def _ceilings() -> Iterator[str]:
    """Yield the bytes that datasheets allow per dollar: ceilings, not measurements."""
    for name in ("h100-sxm", "h200", "tpu-v5e", "tpu-v6e"):
        chip = chips.chip(name)
        dated = [price for price in chip.prices if price.usd_per_hour and price.date]
        latest = max(dated, key=lambda price: str(price.date), default=None)
        if latest and latest.usd_per_hour and (bandwidth := chip.bandwidth()):
            a_dollar = digits(bandwidth * cost.HOUR_S / latest.usd_per_hour / 1e15)
            yield (
                f"Ceiling, not measured: {name} can read {a_dollar} PB per dollar ({latest.provider}, "
                f"{latest.date})."
            )


def training_price_per_parameter(claim: Claim, given: Evidence) -> Answer:
    """Compare two published figures by arithmetic alone."""
    del given
    hundreds = claim.assumed("parameters") / claim.assumed("per_parameters")
    low, high = (
        hundreds * claim.assumed(name) for name in ("rmb_per_100m_low", "rmb_per_100m_high")
    )
    said_low, said_high = claim.assumed("rmb_run_low"), claim.assumed("rmb_run_high")
    overlap = max(0.0, min(high, said_high) - max(low, said_low))
    share = overlap / min(high - low, said_high - said_low)
    middle = (low + high) / (said_low + said_high)
    verdict = (
        ClaimVerdict.SUPPORTED if share >= claim.threshold("overlap") else ClaimVerdict.CONTRADICTED
    )
    sentence = (
        f"by the parameter RMB {low / 1e6:g} to {high / 1e6:g} million, by the run "
        f"{said_low / 1e6:g} to {said_high / 1e6:g}; middle against middle"
    )
    part = Part("100B parameters", verdict, sentence, Interval(middle, middle, middle), "x")
    return Answer((part,), (_tokens_bought(claim, said_high),))


def _tokens_bought(claim: Claim, rmb: float) -> str:
    """Return how many tokens the higher figure trains, at 6 operations per parameter and token."""
    flops = chips.chip("a100-80gb-sxm").flops("bfloat16") or 0.0
    hours = rmb / claim.assumed("rmb_per_usd") / claim.assumed("usd_per_gpu_hour")
    done = hours * cost.HOUR_S * flops * claim.assumed("utilisation")
    tokens = done / (6 * claim.assumed("parameters"))
    return f"RMB {rmb / 1e6:g} million buys {digits(tokens / 1e9)}B tokens of training at the assumed price."


def _where(row: Measured) -> str:
    return f"{row.cell.model} on {row.where}, {at_batch(row)}"


def _able(given: Evidence, least_parameters: float, *, scaled: bool = False) -> list[Measured]:
    """Return the cells with a token rate, of full-size models or also of scaled copies."""
    return [
        row
        for row in given.rows
        if row.has("output_tok_s")
        and (scaled or not row.scaled)
        and row.shape
        and formulas.parameters(row.shape) >= least_parameters
    ]


def _cheapest_by_model(
    given: Evidence, notes: list[str], least_parameters: float = 0
) -> Iterator[tuple[str, Measured, Interval]]:
    """Yield each full-size model on each kind of machine, with its cheapest cell and its cost."""
    for (model, _), rows in grouped(
        _able(given, least_parameters), lambda r: (r.cell.model, r.where)
    ):
        priced = [
            (row, cost.per_million(row, "output", hour)["output"])
            for row in rows
            if (hour := given.hour_usd(row)) is not None
        ]
        if not priced:
            notes[:] = list(dict.fromkeys([*notes, PRICE_FLAGS]))
            continue
        row, usd = min(priced, key=lambda pair: pair[1].value)
        yield model, row, usd
