"""Claims about size and money: each made true, false, undecided, unmeasured and mixed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from claimed import HOST, asked, only, row
from llmbench.claims import ClaimVerdict, Part
from llmbench.results.cells import Machine, Measured

FAMILY = ("llama-7b", "llama-13b", "llama-30b", "llama-65b")
H200 = Machine("h200", "h200", 1)
A100 = Machine("a100", "a100-80gb-sxm", 1)
GH200 = Machine("gh200", "gh200-96gb", 1)
MI300X = Machine("mi300x", "mi300x", 1)


def size(found: Measured) -> float:
    assert found.counts is not None
    return float(found.counts.parameters)


def valued(part: Part) -> float:
    assert part.figure is not None
    return part.figure.value


def grown(slope: float, batch: int = 1, wobble: float = 0.0) -> list[Any]:
    """Return LLaMA in four sizes whose tokens take longer by this slope; some points lie off the line."""
    off = (1 + wobble, 1 - wobble, 1 - wobble, 1 + wobble)
    return [
        row(name, 0.01 * (size(row(name)) / 7e9) ** slope * by, batch_size=batch)
        for name, by in zip(FAMILY, off, strict=True)
    ]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (grown(1.0), ClaimVerdict.SUPPORTED),
        (grown(0.5), ClaimVerdict.CONTRADICTED),
        (grown(1.1, wobble=0.2), ClaimVerdict.INCONCLUSIVE),
        (grown(1.0)[:3], ClaimVerdict.NOT_MEASURED),
        ([*grown(1.0), *grown(0.3, batch=8)], ClaimVerdict.MIXED),
    ],
    ids=["linear", "root", "scattered", "three models", "by batch"],
)
def test_ten_times_the_parameters(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("ten-times-the-parameters", *rows).verdict is verdict


def test_the_extrapolation_is_ten_to_the_slope() -> None:
    latency = asked("ten-times-the-parameters", *grown(1.0)).parts[0]

    assert "10.0x (10.0 to 10.0) the latency" in latency.said


def beside_65b(ratio: float, batch: int = 1, share: float = 0.01) -> list[Any]:
    """Return LLaMA-65B and a 30B that costs so many times as much; a mixture is no dense model."""
    return [
        row("llama-65b", 0.10, batch_size=batch, share=share),
        row("llama-30b", 0.10 * ratio, batch_size=batch, share=share),
        row("mixtral-8x7b-v0.1", 1.0, batch_size=batch, share=share),
    ]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (beside_65b(0.5), ClaimVerdict.SUPPORTED),
        (beside_65b(1.5), ClaimVerdict.CONTRADICTED),
        (beside_65b(0.99), ClaimVerdict.INCONCLUSIVE),
        (beside_65b(0.5)[1:], ClaimVerdict.NOT_MEASURED),
        ([*beside_65b(0.5), *beside_65b(1.5, batch=8)], ClaimVerdict.MIXED),
        ([beside_65b(0.5)[0], row("llama-30b@small", 0.01)], ClaimVerdict.NOT_MEASURED),
    ],
    ids=["cheaper", "dearer", "straddles", "no LLaMA", "by batch", "another size"],
)
def test_under_50b_is_cheaper(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("sub-50b-cheaper-than-llama", *rows).verdict is verdict


def mixture(step_s: float, batch: int = 1, share: float = 0.01) -> list[Any]:
    """Return a mixture of 46.7B beside 30B and 65B, which take 50 and 100 ms."""
    return [
        row("mixtral-8x7b-v0.1", step_s, batch_size=batch, share=share),
        row("llama-30b", 0.05, batch_size=batch, share=share),
        row("llama-65b", 0.10, batch_size=batch, share=share),
    ]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (mixture(0.02), ClaimVerdict.SUPPORTED),
        (mixture(0.09), ClaimVerdict.CONTRADICTED),
        (mixture(0.0716), ClaimVerdict.INCONCLUSIVE),
        (mixture(0.02)[:2], ClaimVerdict.NOT_MEASURED),
        ([*mixture(0.02), *mixture(0.09, batch=16)], ClaimVerdict.MIXED),
    ],
    ids=["cheaper", "dearer", "straddles", "one dense", "by batch"],
)
def test_a_mixture_against_its_total(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("moe-cuts-cost", *rows).verdict is verdict


def eleven(mpt: float = 1.0, larger: float = 2.0, share: float = 0.01) -> list[Any]:
    """Return models of the accuracy table; MPT costs so many times LLaMA-7B, the 20B so many."""
    return [
        row("llama-7b", 0.05, share=share),
        row("mpt-7b", 0.05 * mpt, share=share),
        row("gpt-neox-20b", 0.05 * larger, share=share),
    ]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (eleven(), ClaimVerdict.SUPPORTED),
        (eleven(mpt=1.5, larger=0.5), ClaimVerdict.CONTRADICTED),
        (eleven(mpt=1.5), ClaimVerdict.MIXED),
        (eleven(larger=0.5), ClaimVerdict.MIXED),
        (eleven()[:2], ClaimVerdict.NOT_MEASURED),
        (eleven()[1:], ClaimVerdict.NOT_MEASURED),
    ],
    ids=["level", "neither", "dearer", "a larger wins", "no larger", "no LLaMA"],
)
def test_quality_for_its_cost(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("quality-per-cost", *rows).verdict is verdict


def test_costs_that_may_be_level_are_undecided() -> None:
    answer = asked("quality-per-cost", *eleven(mpt=1.09))

    assert answer.parts[0].verdict is ClaimVerdict.INCONCLUSIVE


# -- what holds a chip back -----------------------------------------------------------------------------


def bound(prefill: str, decode: str, batch: int = 1, tokens_s: float = 100) -> Any:
    facts: dict[str, Any] = {"ceilings": "measured", "values": {"output_tok_s": tokens_s}}
    return row(batch_size=batch, bound={"prefill": prefill, "decode": decode}, **facts)


def up_to(
    batch: int, gain: float, prefill: str = "overhead", decode: str = "bandwidth"
) -> list[Any]:
    """Return two batch sizes, the larger twice the smaller with so many times its tokens per second."""
    return [
        bound(prefill, decode, batch // 2),
        bound(prefill, decode, batch, tokens_s=100 * gain),
    ]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([bound("compute", "compute")], ClaimVerdict.SUPPORTED),
        ([bound("overhead", "bandwidth")], ClaimVerdict.INCONCLUSIVE),
        ([bound("compute", "bandwidth")], ClaimVerdict.MIXED),
        ([bound("", "bandwidth", 1), bound("compute", "compute", 64)], ClaimVerdict.MIXED),
        (up_to(64, 1.02)[1:], ClaimVerdict.INCONCLUSIVE),
        (up_to(64, 1.5), ClaimVerdict.INCONCLUSIVE),
        (up_to(64, 1.09), ClaimVerdict.INCONCLUSIVE),
        (up_to(16, 1.02), ClaimVerdict.INCONCLUSIVE),
        ([row()], ClaimVerdict.NOT_MEASURED),
    ],
    ids=[
        "compute",
        "small batch",
        "by phase",
        "by batch",
        "no half",
        "still gains",
        "gain straddles",
        "frontier too low",
        "no ceilings",
    ],
)
def test_the_side_of_the_roofline(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("compute-is-the-bottleneck", *rows).verdict is verdict


def test_a_miss_counts_at_the_frontier_of_batch_sizes_only() -> None:
    answer = asked("compute-is-the-bottleneck", *up_to(64, 1.02))

    assert {(part.where, part.verdict) for part in answer.parts} == {
        ("prefill at batch 32", ClaimVerdict.INCONCLUSIVE),
        ("decode at batch 32", ClaimVerdict.INCONCLUSIVE),
        ("prefill at batch 64", ClaimVerdict.CONTRADICTED),
        ("decode at batch 64", ClaimVerdict.CONTRADICTED),
    }
    [note] = answer.notes
    assert note.startswith("prefill at batch 32, decode at batch 32: a miss below the frontier")
    assert "Missing: batches up to one of at least 32 that brings at most 10% more tokens/s" in note


def test_cells_without_ceilings_are_counted() -> None:
    [note] = asked("compute-is-the-bottleneck", row(), row("mpt-7b")).notes

    assert note.startswith("2 cells have no ceilings")
    assert "machine --probe" in note


def utilised(
    prefill: float, decode: float, ceilings: str = "datasheet", share: float = 0.01
) -> Any:
    values = {"mfu_prefill": prefill, "mfu_decode": decode}
    return row(values=values, ceilings=ceilings, share=share)


def at_frontier(prefill: float, decode: float) -> list[Any]:
    """Return two batch sizes with these shares, of which the larger brings 2 % more tokens per second."""
    values = {"mfu_prefill": prefill, "mfu_decode": decode}
    return [
        row(batch_size=batch, values={**values, "output_tok_s": tokens_s}, ceilings="datasheet")
        for batch, tokens_s in ((32, 100), (64, 102))
    ]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([utilised(0.7, 0.6)], ClaimVerdict.SUPPORTED),
        ([utilised(0.3, 0.01)], ClaimVerdict.INCONCLUSIVE),
        (at_frontier(0.3, 0.01), ClaimVerdict.CONTRADICTED),
        ([utilised(0.505, 0.505)], ClaimVerdict.INCONCLUSIVE),
        ([utilised(0.7, 0.01)], ClaimVerdict.MIXED),
        ([row()], ClaimVerdict.NOT_MEASURED),
    ],
)
def test_half_of_the_peak(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("half-utilisation", *rows).verdict is verdict


def test_a_measured_ceiling_is_called_so() -> None:
    answer = asked("half-utilisation", utilised(0.7, 0.6, "measured"))

    assert "of the measured ceiling" in answer.parts[0].said
    assert "larger than one of a datasheet" in answer.notes[0]


# -- money ----------------------------------------------------------------------------------------------


def baseline(usd: float, share: float = 0.01) -> Any:
    """Return MPT-7B at the lengths of its baseline, at so many dollars a million at $1 an hour."""
    tokens_s = 1e6 / 3600 / usd
    lengths = {"input_len": 512, "output_len": 64}
    return row("mpt-7b", values={"output_tok_s": tokens_s}, share=share, at="2026-01-15", **lengths)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([baseline(0.01)], ClaimVerdict.SUPPORTED),
        ([baseline(1.0)], ClaimVerdict.CONTRADICTED),
        # July 2023 to January 2026 are 29.4 months: ten times in 18 are 43 in all, 3.05 / 43 = $0.071
        ([baseline(3.05 / 10 ** (29.4 / 18))], ClaimVerdict.INCONCLUSIVE),
        ([row("mpt-7b")], ClaimVerdict.NOT_MEASURED),
        ([row("llama-7b", input_len=512, output_len=64)], ClaimVerdict.NOT_MEASURED),
    ],
    ids=["cheap", "dear", "straddles", "other lengths", "another model"],
)
def test_inference_becomes_cheaper(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("inference-cost-decline", *rows, usd_per_hour=1.0).verdict is verdict


def test_prices_of_one_year_are_preferred_and_others_are_named() -> None:
    recent = sold(300)
    older = sold(300, at="2023-11-20", run="older")

    parts = [only(asked("self-host-or-api", one, usd_per_hour=1.0)) for one in (recent, older)]

    assert "prices of different years: 2023 for the API, 2026 for the machine" in parts[0].said
    assert "both prices of 2023" in parts[1].said


def test_a_cheaper_price_of_another_year_is_passed_over() -> None:
    """LLaMA-2-70B cost $1.50 in 2023, and $0.70 in 2024."""
    older = sold(300, "llama-2-70b", at="2023-11-20")
    later = sold(300, "llama-2-70b", at="2024-06-20")

    said = [only(asked("self-host-or-api", one, usd_per_hour=1.0)).said for one in (older, later)]

    assert "OpenRouter llama-2-70b-chat, 2023-11, both prices of 2023" in said[0]
    assert "both prices of 2024" in said[1]


def test_without_a_price_nothing_has_a_cost_and_the_flag_is_named() -> None:
    answer = asked("inference-cost-decline", baseline(0.01))

    assert answer.verdict is ClaimVerdict.NOT_MEASURED
    assert "--usd-per-hour" in answer.notes[0]


def sold(tokens_s: float, name: str = "llama-2-7b", **more: Any) -> Any:
    """Return a model that vendors sell at $0.20 a million; 128 in and 16 out are $0.0000288 a request."""
    return row(name, values={"output_tok_s": tokens_s}, **more)


# At $1 an hour, $24 a day are 833,333 requests, so 9.645 a second, and 154.3 new tokens a second.
@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([sold(300)], ClaimVerdict.SUPPORTED),
        ([sold(100)], ClaimVerdict.CONTRADICTED),
        ([sold(155)], ClaimVerdict.INCONCLUSIVE),
        ([sold(300, "llama-7b")], ClaimVerdict.NOT_MEASURED),
        ([sold(300, "llama-2-7b@small")], ClaimVerdict.NOT_MEASURED),
        ([sold(300), sold(20, "mistral-7b-v0.1")], ClaimVerdict.MIXED),
    ],
    ids=["pays", "never", "straddles", "not sold", "a copy", "one of two"],
)
def test_self_hosting_against_an_api(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("self-host-or-api", *rows, usd_per_hour=1.0).verdict is verdict


def served_by(tokens_s: float) -> list[Any]:
    """Return two batch sizes, the larger of which brings 2 % more tokens per second."""
    return [sold(tokens_s / 1.02, batch_size=32), sold(tokens_s, batch_size=64)]


# 300 uses of 300 tokens over 30 days are 2.7 million tokens: $7.41 a million is the price of $20.
@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([sold(1e6 / 3600 / 1.0)], ClaimVerdict.SUPPORTED),
        ([sold(1e6 / 3600 / 20)], ClaimVerdict.INCONCLUSIVE),
        (served_by(1e6 / 3600 / 20), ClaimVerdict.CONTRADICTED),
        ([sold(1e6 / 3600 / 7.4)], ClaimVerdict.INCONCLUSIVE),
        ([sold(9e9, "pythia-1b")], ClaimVerdict.NOT_MEASURED),
        ([sold(1e6 / 3600), sold(1, "mpt-7b")], ClaimVerdict.MIXED),
    ],
    ids=["carries", "batch 1", "does not", "straddles", "too small", "one of two"],
)
def test_a_subscription_carries_its_inference(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("copilot-economics", *rows, usd_per_hour=1.0).verdict is verdict


# 100 uses of 300 tokens over 30 days are 0.9 million tokens: $33.3 a million is the price of $30.
@pytest.mark.parametrize(
    ("usd_per_1m", "verdict"),
    [
        (33.0, ClaimVerdict.INCONCLUSIVE),
        (20.0, ClaimVerdict.SUPPORTED),
        (40.0, ClaimVerdict.CONTRADICTED),
    ],
)
def test_thirty_dollars_carry_a_copilot(usd_per_1m: float, verdict: ClaimVerdict) -> None:
    rows = served_by(1e6 / 3600 / usd_per_1m)

    assert asked("copilot-at-thirty", *rows, usd_per_hour=1.0).verdict is verdict


def on_a100(tokens_s: float, **more: Any) -> Any:
    changes = {"device": "cuda", "machine": A100, **more}
    return row("llama-7b", values={"output_tok_s": tokens_s}, **changes)


# 280 million users, 60 answers of 300 tokens a month, three times as many at peak: 5,833,333 tokens a
# second; 40,000 GPUs carry it at 145.8 each. LLaMA-7B has 6.74B parameters, so 100B active take 14.84 times as
# much: 2,164 tokens a second of its own.
@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([on_a100(3000)], ClaimVerdict.SUPPORTED),
        ([on_a100(500)], ClaimVerdict.CONTRADICTED),
        ([on_a100(2180)], ClaimVerdict.INCONCLUSIVE),
        ([on_a100(3000, machine=H200)], ClaimVerdict.NOT_MEASURED),
        ([on_a100(3000, step_s=0.2)], ClaimVerdict.NOT_MEASURED),
        ([on_a100(3000, step_s=0.099)], ClaimVerdict.NOT_MEASURED),
        ([row("llama-7b")], ClaimVerdict.NOT_MEASURED),
    ],
    ids=[
        "carries",
        "too few",
        "straddles",
        "another chip",
        "too slow",
        "perhaps too slow",
        "a CPU",
    ],
)
def test_a_fleet_carries_the_demand(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("serving-fleet", *rows).verdict is verdict


def answering(requests_s: float, **more: Any) -> Any:
    """Return a served cell on an A100, whose dense peak in bfloat16 is 312 TFLOP/s."""
    made = row("llama-7b", device="cuda", machine=A100, input_len=1000, output_len=2, **more)
    return dataclasses.replace(made, values={"achieved_rps": (requests_s,) * 3})


# A request of 1,000 and 2 tokens of 6.6B weights that multiply takes about 13.5 TFLOP: 12 a second are over half.
@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([answering(15, options={"load": "64"})], ClaimVerdict.SUPPORTED),
        ([answering(9, options={"load": "64"})], ClaimVerdict.INCONCLUSIVE),
        ([answering(15, options={"load": "trace x.csv"})], ClaimVerdict.NOT_MEASURED),
        ([answering(15, options={})], ClaimVerdict.NOT_MEASURED),
        ([answering(15, options={"load": "64", "shared_prefix": 0.5})], ClaimVerdict.NOT_MEASURED),
        ([answering(15, options={"load": "64", "quantization": "fp8"})], ClaimVerdict.NOT_MEASURED),
    ],
    ids=["over half", "below, and perhaps not all", "a trace", "a batch", "a cache", "quantised"],
)
def test_half_of_the_peak_at_load(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("half-utilisation", *rows).verdict is verdict


def loaded(requests_s: float, step_s: float, **more: Any) -> Any:
    """Return a served cell on an A100 of 312 TFLOP/s and 2,039 GB/s, with 1,000 tokens in and 100 out."""
    changes = {"options": {"load": "64"}, "machine": A100, **more}
    made = row("llama-7b", device="cuda", input_len=1000, output_len=100, **changes)
    values = {
        "achieved_rps": (requests_s,) * 3,
        "steady_output_tok_s": (100 * requests_s,) * 3,
        "served_tpot_s": (step_s,) * 3,
    }
    if more.get("options", {}).get("load") == "most":
        values["capacity_rps"] = values["achieved_rps"]
    return dataclasses.replace(made, values=values)


# A request takes about 15 TFLOP, a step reads 13.2 GB of weights: 15 requests a second are 0.72 of the peak, and steps
# of 8 ms 0.81 of the bandwidth; each request's keys and values of 0.55 GB a step come on top.
@pytest.mark.parametrize(
    ("cell", "verdict", "said"),
    [
        (loaded(15, 0.100), ClaimVerdict.SUPPORTED, "1 by compute"),
        (loaded(1, 0.008), ClaimVerdict.INCONCLUSIVE, "1 by bandwidth"),
        (loaded(1, 0.008, options={"load": "most"}), ClaimVerdict.CONTRADICTED, "1 by bandwidth"),
        (loaded(0.5, 0.100), ClaimVerdict.INCONCLUSIVE, "1 by overhead"),
        (loaded(15, 0.100, options={"load": "trace x.csv"}), ClaimVerdict.NOT_MEASURED, ""),
        (loaded(15, 0.100, machine=HOST), ClaimVerdict.NOT_MEASURED, ""),
    ],
    ids=["compute", "bandwidth", "bandwidth at the most", "neither", "a trace", "unknown chip"],
)
def test_what_limits_a_server_at_load(cell: Any, verdict: ClaimVerdict, said: str) -> None:
    answer = asked("compute-is-the-bottleneck", cell)

    assert answer.verdict is verdict
    assert [said in part.said for part in answer.parts] == ([True] if said else [])


def at_load(tokens_s: float, step_s: float) -> Any:
    """Return a served cell, which has no numbers of a batch."""
    values = {"steady_output_tok_s": tokens_s, "served_tpot_s": step_s}
    made = row("llama-7b", device="cuda", machine=A100, options={"load": "64"}, values=values)
    return dataclasses.replace(made, values={key: made.values[key] for key in values})


def test_a_server_at_load_counts_for_the_fleet_under_the_same_limit() -> None:
    assert asked("serving-fleet", at_load(3000, 0.05)).verdict is ClaimVerdict.SUPPORTED
    assert asked("serving-fleet", at_load(500, 0.05)).verdict is ClaimVerdict.CONTRADICTED
    assert asked("serving-fleet", at_load(3000, 0.2)).verdict is ClaimVerdict.NOT_MEASURED


def test_another_chip_is_told_and_not_judged() -> None:
    [note] = asked("serving-fleet", on_a100(500, machine=H200)).notes

    # 500 x 40,000 / 14.84
    assert "40,000 of these would serve 1,347,683 tokens/s, extrapolated from 6.74B to 100B" in note


def test_the_fleet_says_that_it_extrapolates_and_carries_its_interval() -> None:
    part = only(asked("serving-fleet", on_a100(3000)))

    assert "extrapolated from 6.74B to 100B active parameters in proportion" in part.said
    assert part.figure is not None
    # 5,833,333 x 14.84 / 3000 GPUs; three sessions 1 % apart have an interval of 2.5 %
    assert part.figure == pytest.approx((28_855, 28_151, 29_577), rel=0.001)


# 100,000 tokens a second of a model 25.97 times as large as LLaMA-7B: 1,000 GPUs at 2,597 tokens a second each.
@pytest.mark.parametrize(
    ("tokens_s", "verdict"),
    [
        (1000, ClaimVerdict.SUPPORTED),
        (5000, ClaimVerdict.CONTRADICTED),
        (2600, ClaimVerdict.INCONCLUSIVE),
    ],
)
def test_gpt_3_on_thousands_of_gpus(tokens_s: float, verdict: ClaimVerdict) -> None:
    hold, train, serve = asked("gpt3-needs-thousands", on_a100(tokens_s)).parts

    assert valued(hold) == 5
    assert hold.verdict is ClaimVerdict.CONTRADICTED
    # 6 x 175e9 x 300e9 operations / (125e12 x 0.3) a second / 30 days of 86,400 s
    assert valued(train) == pytest.approx(3240.7, abs=0.1)
    assert train.verdict is ClaimVerdict.SUPPORTED
    assert serve.verdict is verdict
    assert "extrapolated from llama-7b (6.74B active parameters) in proportion" in serve.said


@pytest.mark.parametrize(
    ("rows", "price", "verdict"),
    [
        ([sold(160)], 0.1, ClaimVerdict.SUPPORTED),  # 10 passes of 16 tokens a second
        ([sold(1.6)], 0.1, ClaimVerdict.CONTRADICTED),  # one in ten seconds
        ([sold(160)], 1e5, ClaimVerdict.CONTRADICTED),  # quick, and dear
        ([sold(16.1)], 0.1, ClaimVerdict.INCONCLUSIVE),
        ([sold(160)], None, ClaimVerdict.NOT_MEASURED),
        ([row(input_len=16)], 0.1, ClaimVerdict.NOT_MEASURED),
        ([sold(160), sold(1.6, "mpt-7b")], 0.1, ClaimVerdict.MIXED),
    ],
)
def test_many_passes_before_an_answer(rows: list[Any], price: float, verdict: ClaimVerdict) -> None:
    assert asked("verify-budget", *rows, usd_per_hour=price).verdict is verdict


def elsewhere(name: str, cost_ratio: float, chip: str | None, **more: Any) -> list[Any]:
    """Return LLaMA-2 on an H200, and on a machine where it costs so many times less."""
    there = {"device": "cuda", "machine": Machine(name, chip, 1), "run": "there", **more}
    return [
        sold(100, device="cuda", machine=H200),
        sold(100 * cost_ratio, **there),
    ]


@pytest.mark.parametrize(
    ("claim", "name", "chip"),
    [("sambanova-one-thirtieth", "sambanova-sn40l", None), ("amd-tpu-parity", "mi300x", "mi300x")],
)
def test_another_vendor_against_nvidia(claim: str, name: str, chip: str | None) -> None:
    def verdict(ratio: float, **more: Any) -> ClaimVerdict:
        return asked(claim, *elsewhere(name, ratio, chip, **more), usd_per_hour=1.0).verdict

    assert verdict(40.0) is ClaimVerdict.SUPPORTED
    assert verdict(0.5) is ClaimVerdict.CONTRADICTED
    assert verdict(20.1 if claim.startswith("samba") else 0.905) is ClaimVerdict.INCONCLUSIVE
    assert verdict(40.0, at="2024-01-01") is ClaimVerdict.NOT_MEASURED
    assert (
        asked(claim, sold(100, device="cuda", machine=H200), usd_per_hour=1.0).verdict
        is ClaimVerdict.NOT_MEASURED
    )


@pytest.mark.parametrize("offloaded", [False, True])
def test_one_package_against_two(*, offloaded: bool) -> None:
    options = {"device_map": "cpu_offload"} if offloaded else {}

    def verdict(ratio: float, **more: Any) -> ClaimVerdict:
        rows = [
            sold(100, device="cuda", machine=Machine("h100", "h100-sxm", 1), options=options),
            sold(100 * ratio, device="cuda", machine=GH200, options=options, **more),
        ]
        return asked("cpu-and-gpu-in-one-package", *rows, usd_per_hour=1.0).verdict

    assert verdict(2.0) is ClaimVerdict.SUPPORTED
    assert verdict(1.1) is ClaimVerdict.CONTRADICTED
    assert verdict(1.51) is ClaimVerdict.INCONCLUSIVE
    assert verdict(2.0, at="2024-01-01") is ClaimVerdict.NOT_MEASURED


def test_weights_in_the_hosts_memory_are_a_case_of_their_own() -> None:
    h100 = Machine("h100", "h100-sxm", 1)
    down = {"device_map": "cpu_offload"}
    rows = [
        sold(100, device="cuda", machine=h100),
        sold(110, device="cuda", machine=GH200),
        sold(10, device="cuda", machine=h100, options=down),
        sold(70, device="cuda", machine=GH200, options=down),
    ]

    answer = asked("cpu-and-gpu-in-one-package", *rows, usd_per_hour=1.0)

    assert answer.verdict is ClaimVerdict.MIXED
    assert [part.where.startswith("weights in the host's memory") for part in answer.parts] == [
        False,
        True,
    ]


def test_two_models_on_another_vendor_may_differ() -> None:
    rows = elsewhere("mi300x", 2.0, "mi300x")
    rows += [
        sold(100, "llama-7b", device="cuda", machine=H200),
        sold(50, "llama-7b", device="cuda", machine=MI300X),
    ]

    assert asked("amd-tpu-parity", *rows, usd_per_hour=1.0).verdict is ClaimVerdict.MIXED


def test_datasheets_are_told_and_never_judged() -> None:
    answer = asked("amd-tpu-parity")

    assert answer.verdict is ClaimVerdict.NOT_MEASURED
    assert all(note.startswith("Ceiling, not measured") for note in answer.notes)
    # An H200: 4.8 TB/s for an hour at $7.91 are 17,280 TB / 7.91 = 2.18 PB a dollar
    assert any("h200 can read 2.18 PB" in note for note in answer.notes)


def test_two_published_figures_agree_from_a_size_of_the_class_on() -> None:
    below, above = asked("training-price-per-parameter").parts

    # At n x 100B the ranges are 15n to 30n and 30 to 50; 30n - 30 is a quarter of 15n at n = 1.143.
    assert (below.where, below.verdict) == ("100B to 114B parameters", ClaimVerdict.CONTRADICTED)
    assert (above.where, above.verdict) == ("115B to 200B parameters", ClaimVerdict.SUPPORTED)
    assert "RMB 15 to 30 million and RMB 17.1 to 34.2 million, by the run 30 to 50" in below.said
    assert HOST.chip is None


def test_training_became_cheaper_by_published_costs() -> None:
    to_2024, to_2026 = asked("training-cost-decline").parts

    # (43,000 / 672) ^ (18 / 64.8) and (43,000 / 73) ^ (18 / 83.5)
    assert valued(to_2024) == pytest.approx(3.175, abs=0.001)
    assert valued(to_2026) == pytest.approx(3.954, abs=0.001)
    assert {to_2024.verdict, to_2026.verdict} == {ClaimVerdict.CONTRADICTED}


def test_the_tokens_that_a_run_buys_by_hand() -> None:
    [note] = asked("training-price-per-parameter").notes

    # 50e6 / 7.2 / 1.5 = 4.63 million hours x 3600 s x 312e12 x 0.4 / (6 x 100e9) = 3,467 billion
    assert "buys a model of 100B parameters 3,467B tokens" in note
