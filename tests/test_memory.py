"""Memory before it is used: weights and cache to the byte, the rest near what a profiler saw alive."""

import inspect
from typing import Any

import msgspec
import pytest

from jobs import job
from lazily import Lazy, torch, transformers
from llmbench import backends
from llmbench.models import resolve
from llmbench.models.by_row import counts_of
from llmbench.models.counts import Counts
from llmbench.models.shape import FAMILIES as ROWS
from llmbench.predict import memory
from llmbench.spec.sweep import Cell

loops: Any = Lazy("llmbench.backends.transformers.loops")

FAMILIES = (
    "llama-7b", "llama-2-70b", "mistral-7b-v0.1", "mixtral-8x7b-v0.1", "qwen2.5-7b", "qwen3-8b", "pythia-70m",
    "gpt-j-6b", "gpt2", "opt-125m", "bloom-7b1", "mpt-7b", "falcon-7b", "falcon-40b", "flan-t5-xl",
)  # fmt: skip

NEAR = 0.2
"""Activations are predicted within this share of the tensors alive at the peak."""


def shape(name: str) -> Counts:
    found = resolve.resolve(name)
    known = counts_of(found.model_type, found.config)
    assert known is not None
    return known


def predicted(cell: Cell) -> memory.Footprint:
    found = resolve.resolve(cell.model)
    return memory.footprint(shape(cell.model), str(found.model_type), cell)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_and_cache_are_exact(name: str) -> None:
    # 24 tokens pass the window of 16 that a tiny model slides
    work = job(f"{name}@tiny", batch_size=3, input_len=20, output_len=5)
    engine = backends.load(work)
    (cell,) = work.cells
    engine.prepare(cell)

    held = engine.memory([[5] * 20] * 3, 5)

    known = predicted(cell)
    assert (known.weights_bytes, known.kv_cache_bytes) == (held.weights_bytes, held.kv_cache_bytes)


def test_a_static_cache_has_room_for_the_last_token() -> None:
    work = job(
        "llama-7b@tiny", batch_size=2, input_len=8, output_len=4, options={"cache": "static"}
    )
    engine = backends.load(work)
    (cell,) = work.cells
    engine.prepare(cell)

    held = engine.memory([[5] * 8] * 2, 4)

    assert predicted(cell).kv_cache_bytes == held.kv_cache_bytes


def alive_bytes(name: str, batch_size: int, input_len: int) -> int:
    """Return the most bytes of tensors alive in a prompt's pass, as torch's profiler counts allocations."""
    found = resolve.resolve(name)
    config = transformers.AutoConfig.for_model(found.model_type, **found.config)
    built: Any = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.full((batch_size, input_len), 5)
    last = inspect.signature(built.forward).parameters.keys() & {"logits_to_keep"}
    keep = dict.fromkeys(last, 1)
    with (
        torch.inference_mode(),
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as seen,
    ):
        built(
            input_ids=ids,
            use_cache=True,
            **{loops.word_for_cache(built): transformers.DynamicCache(config=config)},
            **keep,
        )
    events = seen.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    alive = most = 0
    for _, change in changes:
        alive += change
        most = max(most, alive)
    return most


@pytest.mark.parametrize(
    "name",
    ["llama-7b", "mixtral-8x7b-v0.1", "qwen2.5-7b", "pythia-70m", "gpt-j-6b", "gpt2", "opt-125m", "bloom-7b1",
     "mpt-7b", "falcon-7b", "falcon-40b"],
)  # fmt: skip
def test_activations_are_near_the_tensors_alive(name: str) -> None:
    (cell,) = job(f"{name}@tiny", batch_size=4, input_len=256, output_len=1).cells

    seen = alive_bytes(f"{name}@tiny", 4, 256)

    known = predicted(cell)
    assert known.kv_cache_bytes + known.activation_bytes == pytest.approx(seen, rel=NEAR)


def on_gpu(**changes: Any) -> Cell:
    (cell,) = job("llama-7b", dtype="bfloat16", device="cuda").cells
    return msgspec.structs.replace(
        cell, **{"batch_size": 64, "input_len": 4096, "output_len": 128, **changes}
    )


def test_the_parts_are_those_of_arithmetic() -> None:
    known = predicted(on_gpu())

    assert known.weights_bytes == 6_738_415_616 * 2
    # keys and values x 32 layers x 4,096 numbers x 2 bytes = 524,288 a token; the last one is never fed
    assert known.kv_cache_bytes == 64 * (4096 + 127) * 524_288
    assert known.need_bytes == sum(known)


def test_a_longer_answer_joins_more_of_the_cache() -> None:
    # With a short prompt the peak is a step: one layer's keys, old and new, and the logits of the batch.
    known = predicted(on_gpu(batch_size=1, input_len=1, output_len=4096))

    assert known.activation_bytes == 4096 * 524_288 // 64 + 32_000 * 2


def test_attention_that_writes_its_scores_out_needs_a_square() -> None:
    fused, eager = predicted(on_gpu()), predicted(on_gpu(options={"attn_implementation": "eager"}))

    assert fused.activation_bytes < eager.activation_bytes
    assert eager.activation_bytes > 12 * 64 * 32 * 4096**2 - eager.kv_cache_bytes


@pytest.mark.parametrize(
    ("need", "have", "word"),
    [(90, 100, "fits"), (91, 100, "tight"), (100, 100, "tight"), (101, 100, "no"), (1, None, "unknown")],
)  # fmt: skip
def test_what_fits_has_a_tenth_to_spare(need: int, have: int | None, word: str) -> None:
    assert memory.fits(need, have) == word


def test_families_that_write_scores_out_are_those_without_fused_attention() -> None:
    listed = {
        str(known.model_type)
        for known in map(resolve.entry, resolve.catalogue())
        if known.model_type in ROWS  # the others say themselves whether they write them out
        and known.engines.transformers
        and "sdpa" not in known.engines.transformers.attention
    }

    assert listed == {*memory.PAIR_BYTES} - {memory.SHARED_KEY_ONLY}
