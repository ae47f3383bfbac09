"""Claims about memory: each made true, false, undecided, unmeasured and mixed."""

from __future__ import annotations

from typing import Any

import pytest

from claimed import asked, only, row, spread
from llmbench.claims import ClaimVerdict
from llmbench.results.cells import Machine
from llmbench.stats.interval import around

KIB = 1024.0


def context(name: str, held: dict[int, float]) -> list[Any]:
    """Return a model's cells with so many bytes of keys and values by prompt length; one token is made."""
    return [
        row(name, input_len=n, output_len=1, counted={"kv_cache_bytes": size})
        for n, size in held.items()
    ]


def test_a_context_eight_times_as_long_holds_eight_times_as_much() -> None:
    answer = asked("context-is-memory", *context("llama-7b", {128: 64e6, 1024: 512e6}))

    part = only(answer)
    assert answer.verdict is ClaimVerdict.SUPPORTED
    assert part.said.startswith("8.00 x the context takes 8.00 x")
    # LLaMA-7B: 2 x 32 layers x 4096 x 2 bytes = 524,288 a token, not the 500,000 made up here
    assert "multi-head) holds 488 KiB per token; the formula gives 512 KiB" in answer.notes[0]


def test_a_table_of_another_tool_may_not_say_its_dtype() -> None:
    rows = [
        row(
            "llama-7b",
            input_len=n,
            output_len=1,
            dtype="not said",
            counted={"kv_cache_bytes": n * 1e6},
        )
        for n in (128, 1024)
    ]

    answer = asked("context-is-memory", *rows)

    assert answer.verdict is ClaimVerdict.SUPPORTED
    assert answer.notes == ()


def test_a_window_breaks_the_likeness() -> None:
    rows = context("llama-7b", {128: 1e6, 1024: 8e6}) + context("falcon-7b", {128: 1e6, 1024: 4e6})

    answer = asked("context-is-memory", *rows)

    assert answer.verdict is ClaimVerdict.MIXED
    assert [part.verdict for part in answer.parts] == [
        ClaimVerdict.SUPPORTED,
        ClaimVerdict.CONTRADICTED,
    ]


def test_memory_that_does_not_grow_contradicts() -> None:
    answer = asked("context-is-memory", *context("llama-7b", {128: 1e6, 1024: 1e6}))

    assert answer.verdict is ClaimVerdict.CONTRADICTED


def test_twice_the_context_is_too_little_to_tell() -> None:
    answer = asked("context-is-memory", *context("llama-7b", {128: 1e6, 256: 2e6}))

    assert answer.verdict is ClaimVerdict.NOT_MEASURED


def test_cells_of_two_runs_are_no_series() -> None:
    [short, long] = context("llama-7b", {128: 1e6, 1024: 8e6})
    elsewhere = type(long)(**{**vars(long), "run": "another"})

    assert asked("context-is-memory", short, elsewhere).verdict is ClaimVerdict.NOT_MEASURED


# -- selective reads: Mistral has a window of 4,096 tokens -----------------------------------------------


def windowed(grows: float, other_grows: float | None = 1.5, share: float = 0.01) -> list[Any]:
    rows = [
        row("mistral-7b-v0.1", 0.05, input_len=4096, share=share),
        row("mistral-7b-v0.1", 0.05 * grows, input_len=8192, share=share),
    ]
    if other_grows:
        rows.append(row("llama-3-8b", 0.05, input_len=4096, share=share))
        rows.append(row("llama-3-8b", 0.05 * other_grows, input_len=8192, share=share))
    return rows


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (windowed(1.01), ClaimVerdict.SUPPORTED),
        (windowed(1.40), ClaimVerdict.CONTRADICTED),
        (windowed(1.08, share=0.03), ClaimVerdict.INCONCLUSIVE),
        (windowed(1.01, other_grows=1.02), ClaimVerdict.INCONCLUSIVE),
        (windowed(1.01, other_grows=None), ClaimVerdict.INCONCLUSIVE),
        (windowed(1.01)[2:], ClaimVerdict.NOT_MEASURED),
        ([row("mistral-7b-v0.1", input_len=n) for n in (512, 2048)], ClaimVerdict.NOT_MEASURED),
    ],
    ids=["flat", "grows", "straddles", "nothing to save", "no control", "no window", "in window"],
)
def test_a_window_keeps_a_token_flat(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("selective-reads", *rows).verdict is verdict


def test_two_windows_may_differ() -> None:
    grows = windowed(1.5)[:2]
    batch = [
        row("mistral-7b-v0.1", 0.05, input_len=4096, batch_size=8),
        row("mistral-7b-v0.1", 0.05, input_len=8192, batch_size=8),
        row("llama-3-8b", 0.05, input_len=4096, batch_size=8),
        row("llama-3-8b", 0.09, input_len=8192, batch_size=8),
    ]

    answer = asked("selective-reads", *grows, *windowed(1.5)[2:], *batch)

    assert answer.verdict is ClaimVerdict.MIXED


# -- a level down ---------------------------------------------------------------------------------------


def tiers(
    price: float,
    rates: tuple[float, ...] = (1e9, 1e9, 1e9),
    share: float = 0.01,
    above_s: float = 0.010,
) -> list[Any]:
    """Return a cell in memory, 10 ms a token, and the same one level down; its weights are 40 MB."""
    weights = {"weights_bytes": 40e6}
    facts = {"offload_read_bytes_s": rates} if rates else {}
    down = {"device_map": "disk_offload"}
    return [
        row("llama-7b", above_s, counted=weights),
        row(
            "llama-7b",
            0.010 * price,
            options=down,
            by_session=facts,
            counted=weights,
            share=share,
        ),
    ]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (tiers(5.0), ClaimVerdict.SUPPORTED),  # 50 ms against 40 MB at 1 GB/s
        (tiers(30.0), ClaimVerdict.CONTRADICTED),
        (tiers(6.0, share=0.02), ClaimVerdict.INCONCLUSIVE),
        (tiers(5.0, rates=(0.7e9, 1e9, 1.4e9)), ClaimVerdict.INCONCLUSIVE),
        (tiers(5.0, rates=()), ClaimVerdict.NOT_MEASURED),
        (tiers(5.0, rates=(1e9, 1e9)), ClaimVerdict.NOT_MEASURED),
        (tiers(5.0)[:1], ClaimVerdict.NOT_MEASURED),
        (tiers(3.0), ClaimVerdict.INCONCLUSIVE),  # 30 ms cannot read what takes 40
        (tiers(11.0, above_s=0.100), ClaimVerdict.SUPPORTED),  # 110 ms against 100 in memory
        (tiers(20.0, above_s=0.100), ClaimVerdict.CONTRADICTED),
    ],
    ids=[
        "bandwidth",
        "dearer",
        "straddles",
        "rate varies",
        "rate not known",
        "a rate is missing",
        "one level",
        "faster than reading",
        "memory is slower",
        "dearer than memory",
    ],
)
def test_a_level_down_costs_the_time_of_reading_it(rows: list[Any], verdict: ClaimVerdict) -> None:
    answer = asked("tiered-memory", *rows)

    assert answer.verdict is verdict
    if len(rows) > 1:
        assert "a token takes" in answer.notes[0]


def test_a_step_faster_than_reading_its_weights_is_no_finding() -> None:
    part = only(asked("tiered-memory", *tiers(3.0)))

    assert part.said.startswith("implausible, faster than the 40.0 ms")
    assert part.figure is not None
    assert part.figure.high < 1


def test_levels_of_two_models_may_differ() -> None:
    other = [row("mpt-7b", 0.01, counted={"weights_bytes": 40e6})]
    other += [
        row(
            "mpt-7b", 0.5, options={"device_map": "disk_offload"},
            by_session={"offload_read_bytes_s": (1e9, 1e9, 1e9)}, counted={"weights_bytes": 40e6},
        )
    ]  # fmt: skip

    assert asked("tiered-memory", *tiers(5.0), *other).verdict is ClaimVerdict.MIXED


# -- devices --------------------------------------------------------------------------------------------


def on_device(name: str, tokens_s: float, gb: float, share: float = 0.01) -> Any:
    return row(name, 1 / tokens_s, share=share, counted={"host_peak_rss_bytes": gb * 1e9})


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([on_device("pythia-1b", 15, 3)], ClaimVerdict.SUPPORTED),
        ([on_device("pythia-1b", 5, 3)], ClaimVerdict.CONTRADICTED),
        ([on_device("pythia-1b", 30, 17)], ClaimVerdict.CONTRADICTED),
        ([on_device("pythia-1b", 10.05, 3)], ClaimVerdict.INCONCLUSIVE),
        ([on_device("pythia-1b@small", 30, 3)], ClaimVerdict.NOT_MEASURED),
        ([on_device("pythia-1b", 15, 3), on_device("llama-7b", 1.5, 14)], ClaimVerdict.MIXED),
    ],
    ids=["runs", "slow", "large", "straddles", "a copy", "one of two"],
)
def test_a_small_model_runs_at_reading_speed(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("edge-models", *rows).verdict is verdict


def test_the_spread_of_the_helper_has_the_interval_it_says() -> None:
    found = around(spread(1.0))

    assert found.high == pytest.approx(1.025, abs=0.001)


def on_phone(tokens_s: float, **more: Any) -> Any:
    """Return LLaMA-2 in four bits as llama-bench timed it on a phone; its weights are 3.8 GB."""
    facts: dict[str, Any] = {
        "machine": Machine("snapdragon-8-gen-2", "snapdragon-8-gen-2", 1),
        "options": {"model_type": "llama 7B Q4_0"},
        "values": {"forward_decode_tok_s": tokens_s, "decode_tok_s": 1e-3},
        **more,
    }
    return row("llama-2-7b", **facts)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([on_phone(12)], ClaimVerdict.SUPPORTED),
        (
            [on_phone(12, options={"quantization": "q4_k_m"}, values={"decode_tok_s": 12})],
            ClaimVerdict.SUPPORTED,
        ),
        ([on_phone(5)], ClaimVerdict.CONTRADICTED),
        ([on_phone(10.1)], ClaimVerdict.INCONCLUSIVE),
        ([on_phone(12, counted={"host_peak_rss_bytes": 9e9})], ClaimVerdict.CONTRADICTED),
        ([on_phone(12, machine=Machine("h200", "h200", 1))], ClaimVerdict.NOT_MEASURED),
        ([on_phone(12, options={"model_type": "llama 7B F16"})], ClaimVerdict.NOT_MEASURED),
    ],
    ids=["runs", "our own llama.cpp", "slow", "straddles", "large", "no phone", "16 bits"],
)
def test_llama_2_on_a_phone(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("phone-runs-llama-2", *rows).verdict is verdict


def sized(gb: dict[str, float], **more: Any) -> list[Any]:
    return [row(name, counted={"weights_bytes": size * 1e9}, **more) for name, size in gb.items()]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (sized({"llama-13b": 13, "llama-30b": 32.5}), ClaimVerdict.SUPPORTED),
        (sized({"llama-13b": 26, "llama-30b": 65}), ClaimVerdict.MIXED),
        (sized({"llama-13b": 6.5, "llama-30b": 16.3}), ClaimVerdict.MIXED),
        (sized({"llama-13b": 26, "llama-30b": 16}), ClaimVerdict.CONTRADICTED),
        (sized({"llama-13b": 13}), ClaimVerdict.NOT_MEASURED),
    ],
    ids=["8 bits", "16 bits", "4 bits", "neither", "one size"],
)
def test_what_a_consumer_card_holds(rows: list[Any], verdict: ClaimVerdict) -> None:
    assert asked("thirteen-b-is-enough", *rows).verdict is verdict


def test_the_cost_of_each_size_is_told() -> None:
    rows = sized({"llama-7b": 7, "llama-13b": 13, "llama-30b": 32.5})

    assert [note[:35] for note in asked("thirteen-b-is-enough", *rows).notes] == [
        "A token of llama-7b costs 1.00 (0.9",
        "A token of llama-30b costs 1.00 (0.",
    ]
