"""Claims about money: the cost of a token in dollars, and its effect on prices, subscriptions and fleets."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from llmbench import cost
from llmbench.claims.claim import (
    Answer,
    Evidence,
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
from llmbench.numbers import count, digits
from llmbench.stats.interval import Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llmbench.claims.claim import Claim
    from llmbench.results.cells import Measured

MILLION, BILLION = 1e6, 1e9
BATCH = ("output_tok_s",)
"""The rate of new tokens of a batch."""
DAYS_A_MONTH = 30
MONTH_S = DAYS_A_MONTH * cost.DAY_S
SAMBANOVA, AMD_OR_TPU = ("sambanova", "sn30", "sn40"), ("mi2", "mi3", "tpu")
GRACE_HOPPER, HOPPER = ("gh200",), ("h100",)
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
        hour = given.hour(row)
        assert hour is not None
        api, years = _of_one_year(listed, hour.year, row)
        equal = cost.break_even(row, hour.usd, api)
        sentence = (
            f"{count(round(equal.tokens_per_day))} tokens a day cost as much at {api.name}, {years}; "
            "utilisation at that volume"
        )
        parts.append(held(_where(row), sentence, equal.utilisation, Range(high=1.0), rows=(row,)))
    return Answer(tuple(parts), tuple(notes))


def _of_one_year(
    listed: Sequence[prices.ApiPrice], year: str, row: Measured
) -> tuple[prices.ApiPrice, str]:
    """Return the cheapest API price of the machine price's year, else the cheapest of all, and the years in words."""
    same = [price for price in listed if price.date[:4] == year]
    api = min(same or listed, key=lambda p: p.request_usd(row.cell.input_len, row.cell.output_len))
    if same:
        return api, f"both prices of {year}"
    return (
        api,
        f"prices of different years: {api.date[:4]} for the API, {year or 'undated'} for the machine",
    )


def copilot_economics(claim: Claim, given: Evidence) -> Answer:
    """Compute the cost of a subscriber's month from the measured cost of a token."""
    parts: list[Part] = []
    notes: list[str] = []
    tokens = claim.assumed("uses_per_day") * claim.assumed("output_tokens_per_use") * DAYS_A_MONTH
    price = claim.assumed("usd_per_month")
    reached = frontiers(given.rows)
    for _, row, usd in _cheapest_by_model(given, notes, claim.threshold("least_parameters")):
        month = usd.times(tokens / MILLION)
        gone = claim.assumed("uses_per_day") * price / month.value
        sentence = f"margin gone at {digits(gone)} uses a day; a month costs"
        part = held(_where(row), sentence, month, Range(high=price), "dollars", (row,))
        parts.append(reachable(part, reached=but_batch(row) in reached))
    return Answer(tuple(parts), (*notes, *missing(parts)))


def verify_budget(claim: Claim, given: Evidence) -> Answer:
    """Count the passes that a machine makes while a reader waits, and those that a cent pays for."""
    wanted, wait_s, cent = (
        claim.threshold("passes"),
        claim.threshold("wait_s"),
        claim.threshold("usd"),
    )
    parts: list[Part] = []
    notes: list[str] = []
    able = [row for row in full_size(given, 0, scaled=True) if _pass_size(claim, row)]
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
    return _against(given, SAMBANOVA, _nvidia, claim.threshold("least_ratio"))


def amd_tpu_parity(claim: Claim, given: Evidence) -> Answer:
    """Compare a model's cost on AMD's or Google's chips with NVIDIA's; before that, list datasheet ceilings."""
    measured = _against(given, AMD_OR_TPU, _nvidia, claim.threshold("least_ratio"))
    return Answer(measured.parts, (*measured.notes, *_ceilings()))


def cpu_and_gpu_in_one_package(claim: Claim, given: Evidence) -> Answer:
    """Compare costs on a Grace Hopper with those on an H100: with weights on the device, and in the host's memory."""
    answers = []
    for offloaded, where in ((False, ""), (True, "weights in the host's memory, ")):
        rows = [
            row
            for row in given.rows
            if (row.cell.options.get("device_map") == "cpu_offload") is offloaded
        ]
        some = Evidence(rows, given.asked)
        found = _against(some, GRACE_HOPPER, _hopper, claim.threshold("least_ratio"))
        parts = [part._replace(where=f"{where}{part.where}") for part in found.parts]
        answers.append(Answer(tuple(parts), found.notes))
    parts = [part for found in answers for part in found.parts]
    return Answer(tuple(parts), tuple(dict.fromkeys(n for found in answers for n in found.notes)))


def _against(
    given: Evidence, ours: tuple[str, ...], theirs: Callable[[Measured], bool], least: float
) -> Answer:
    """Compare the cheapest cells of a model in one year: the cost on their machine over that on ours."""
    notes: list[str] = []
    parts = []
    rows = list(_cheapest_by_model(given, notes))
    others = [other for other in rows if other[1].where.startswith(ours)]
    for (model, row, usd), (same, against, against_usd) in itertools.product(others, rows):
        if same != model or not theirs(against) or against.at[:4] != row.at[:4]:
            continue
        # Wider than necessary: the ends of both intervals, because no sessions pair them.
        ends = against_usd.low / usd.high, against_usd.high / usd.low
        figure = Interval(against_usd.value / usd.value, *ends)
        where = f"{model}, {row.where} and {against.where}"
        sentence = f"the cost on {against.where} over that on {row.where}"
        parts.append(held(where, sentence, figure, Range(least), "x", (row, against)))
    return Answer(tuple(parts), tuple(notes))


def _hopper(row: Measured) -> bool:
    return row.where.startswith(HOPPER)


def _nvidia(row: Measured) -> bool:
    return row.machine.chip is not None and chips.chip(row.machine.chip).vendor == "NVIDIA"


def _ceilings() -> Iterator[str]:
    """Yield the bytes that datasheets allow per dollar: ceilings, not measurements."""
    for name in ("h100-sxm", "h200", "mi300x", "tpu-v5e", "tpu-v6e"):
        chip = chips.chip(name)
        dated = [price for price in chip.prices if price.usd_per_hour and price.date]
        latest = max(dated, key=lambda price: str(price.date), default=None)
        if latest and latest.usd_per_hour and (bandwidth := chip.bandwidth()):
            a_dollar = digits(bandwidth * cost.HOUR_S / latest.usd_per_hour / 1e15)
            yield (
                f"Ceiling, not measured: {name} can read {a_dollar} PB per dollar ({latest.provider}, "
                f"{latest.date})."
            )


def _where(row: Measured) -> str:
    return f"{row.cell.model} on {row.where}, {at_batch(row)}"


def full_size(
    given: Evidence, least_parameters: float, *, scaled: bool = False, rates: Sequence[str] = BATCH
) -> list[Measured]:
    """Return the cells with one of these token rates, of full-size models or also of scaled copies."""
    return [
        row
        for row in given.rows
        if row.has(row.first(rates))
        and (scaled or not row.scaled)
        and row.counts
        and row.counts.parameters >= least_parameters
    ]


def _cheapest_by_model(
    given: Evidence, notes: list[str], least_parameters: float = 0
) -> Iterator[tuple[str, Measured, Interval]]:
    """Yield each full-size model on each kind of machine, with its cheapest cell and its cost."""
    for (model, _), rows in grouped(
        full_size(given, least_parameters), lambda r: (r.cell.model, r.where)
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
