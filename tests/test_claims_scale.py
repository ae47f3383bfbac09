"""Claims about size and money: each made true, false, undecided, unmeasured and mixed."""

from __future__ import annotations

from typing import Any

import pytest

from claimed import HOST, asked, only, row
from llmbench.claims import ClaimVerdict
from llmbench.models import formulas
from llmbench.results.cells import Machine, Measured

FAMILY = ("llama-7b", "llama-13b", "llama-30b", "llama-65b")
H200 = Machine("h200", "h200", 1)
A100 = Machine("a100", "a100-80gb-sxm", 1)
MI300X = Machine("mi300x", "mi300x", 1)


def size(found: Measured) -> float:
    assert found.shape is not None
    return float(formulas.parameters(found.shape))


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


def bound(prefill: str, decode: str, batch: int = 1) -> Any:
    return row(batch_size=batch, bound={"prefill": prefill, "decode": decode}, ceilings="measured")


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([bound("compute", "compute")], ClaimVerdict.SUPPORTED),
        ([bound("overhead", "bandwidth")], ClaimVerdict.CONTRADICTED),
        ([bound("compute", "bandwidth")], ClaimVerdict.MIXED),
        ([bound("", "bandwidth", 1), bound("compute", "compute", 64)], ClaimVerdict.MIXED),
        ([row()], ClaimVerdict.NOT_MEASURED),
    ],
)
def test_the_side_of_the_roofline(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("compute-is-the-bottleneck", *rows).verdict is verdict


def test_cells_without_ceilings_are_counted() -> None:
    [note] = asked("compute-is-the-bottleneck", row(), row("mpt-7b")).notes

    assert note.startswith("2 cells have no ceilings")
    assert "machine --probe" in note


def utilised(
    prefill: float, decode: float, ceilings: str = "datasheet", share: float = 0.01
) -> Any:
    values = {"mfu_prefill": prefill, "mfu_decode": decode}
    return row(values=values, ceilings=ceilings, share=share)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([utilised(0.7, 0.6)], ClaimVerdict.SUPPORTED),
        ([utilised(0.3, 0.01)], ClaimVerdict.CONTRADICTED),
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


# 300 uses of 300 tokens over 30 days are 2.7 million tokens: $7.41 a million is the price of $20.
@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([sold(1e6 / 3600 / 1.0)], ClaimVerdict.SUPPORTED),
        ([sold(1e6 / 3600 / 20)], ClaimVerdict.CONTRADICTED),
        ([sold(1e6 / 3600 / 7.4)], ClaimVerdict.INCONCLUSIVE),
        ([sold(9e9, "pythia-1b")], ClaimVerdict.NOT_MEASURED),
        ([sold(1e6 / 3600), sold(1, "mpt-7b")], ClaimVerdict.MIXED),
    ],
    ids=["carries", "does not", "straddles", "too small", "one of two"],
)
def test_a_subscription_carries_its_inference(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("copilot-economics", *rows, usd_per_hour=1.0).verdict is verdict


def on_a100(tokens_s: float, **more: Any) -> Any:
    changes = {"device": "cuda", "machine": A100, **more}
    return row("llama-7b", values={"output_tok_s": tokens_s}, **changes)


# 280 million users, 60 answers of 300 tokens a month, three times as many at peak: 5,833,333 tokens a
# second; 40,000 GPUs carry it at 145.8 each.
@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([on_a100(500)], ClaimVerdict.SUPPORTED),
        ([on_a100(100)], ClaimVerdict.CONTRADICTED),
        ([on_a100(146)], ClaimVerdict.INCONCLUSIVE),
        ([on_a100(500, machine=H200)], ClaimVerdict.NOT_MEASURED),
        ([on_a100(500, step_s=0.2)], ClaimVerdict.NOT_MEASURED),
        ([on_a100(500, step_s=0.099)], ClaimVerdict.NOT_MEASURED),  # 0.1 s is inside its interval
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


def test_another_chip_is_told_and_not_judged() -> None:
    [note] = asked("serving-fleet", on_a100(500, machine=H200)).notes

    assert "40,000 of these would serve 20,000,000 tokens/s" in note


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


def test_two_published_figures_do_not_agree() -> None:
    part = only(asked("training-price-per-parameter"))

    assert part.verdict is ClaimVerdict.CONTRADICTED
    assert "RMB 15 to 30 million, by the run 30 to 50" in part.said
    assert HOST.chip is None


def test_the_tokens_that_a_run_buys_by_hand() -> None:
    [note] = asked("training-price-per-parameter").notes

    # 50e6 / 7.2 / 1.5 = 4.63 million hours x 3600 s x 312e12 x 0.4 / (6 x 100e9) = 3,467 billion
    assert "buys 3,467B tokens" in note
