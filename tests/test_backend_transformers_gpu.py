"""The transformers backend on CUDA: the same tokens, times by events, and memory that adds up."""

import gc
import time
from typing import Any

import pytest

from jobs import family, job, prompts
from lazily import Lazy, torch
from llmbench import backends
from llmbench.results.record import Job, Memory

clocks: Any = Lazy("llmbench.backends.transformers.clocks")

pytestmark = [
    pytest.mark.gpu,
    # Inductor advises TF32, and the check for synchronisation calls itself a prototype: no failure is in that.
    pytest.mark.filterwarnings("default"),
]

WIDE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 8,
    "vocab_size": 32_000,
}
"""About 680 million parameters: a step that takes the device longer than the host needs to queue it."""
LONG = {"max_position_embeddings": 4096, "num_attention_heads": 16}


def loaded(wanted: Job) -> Any:
    """Return an engine prepared for the job's only cell, and warm."""
    engine = backends.load(wanted)
    cell = wanted.cells[0]
    engine.prepare(cell)
    for _ in range(3):  # the second call of a compiled step records its CUDA graph
        engine.generate(prompts(wanted), cell.output_len)
    return engine


def wide(**wanted: Any) -> Job:
    """Return a job whose steps keep the device busy."""
    shape = {"batch_size": 8, "input_len": 1024, "output_len": 32, **wanted}
    return job(family("llama", **WIDE, **LONG), device="cuda", dtype="bfloat16", **shape)


@pytest.mark.parametrize("model_type", ["llama", "mpt", "gpt_neox", "mixtral"])
@pytest.mark.parametrize("loop", ["forward", "generate"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_tokens_are_those_of_the_cpu(model_type: str, loop: str, cache: str) -> None:
    here = job(family(model_type))
    there = job(family(model_type), device="cuda", loop=loop, cache=cache)

    tokens = loaded(there).generate(prompts(there), 8)

    assert tokens == loaded(here).generate(prompts(here), 8)


@pytest.mark.parametrize("loop", ["forward", "generate"])
def test_a_compiled_model_says_the_same_and_compiles_nothing_when_warm(loop: str) -> None:
    here = job(family("llama"))
    there = job(family("llama"), device="cuda", cache="static", compile=True, loop=loop)
    engine = loaded(there)
    before = engine.counters()

    tokens = engine.generate(prompts(there), 8)

    assert tokens == loaded(here).generate(prompts(here), 8)
    assert engine.counters() == before


def test_weights_are_made_on_the_device_with_the_values_of_the_cpu() -> None:
    there: Any = backends.load(job(family("llama"), device="cuda"))
    here: Any = backends.load(job(family("llama")))

    own = there._model.state_dict()

    assert there.facts["param_devices"] == "cuda:0"
    assert all(torch.equal(own[name].cpu(), w) for name, w in here._model.state_dict().items())


def timed(engine: Any, wanted: Job) -> int:
    """Return nanoseconds from call to tokens on the host, the device idle before and after."""
    engine.synchronize()
    began = time.monotonic_ns()
    engine.generate(prompts(wanted), wanted.cells[0].output_len)
    engine.synchronize()
    return time.monotonic_ns() - began


@pytest.mark.parametrize(
    "options", [{}, {"loop": "generate"}, {"cache": "static", "compile": True}]
)
def test_events_account_for_the_whole_call(options: dict[str, Any]) -> None:
    wanted = wide(**options)
    engine = loaded(wanted)

    took_ns = timed(engine, wanted)

    (row,) = engine.token_ns()
    assert len(row) == 32
    assert row == sorted(row)
    assert row[0] > 0
    assert 0.95 * took_ns < row[-1] <= took_ns


def test_stamps_that_forget_to_synchronise_are_told_from_the_truth() -> None:
    # A prefill of 32,768 tokens takes the device some 50 ms and the host a few to queue.
    wanted = wide(batch_size=16, input_len=2048, output_len=2)
    engine = loaded(wanted)
    engine._loop._clock = forgetful = clocks.CpuStamps()
    ids = torch.tensor(prompts(wanted), device="cuda")
    took_ns = timed(engine, wanted)

    engine.synchronize()
    forgetful.start()
    with torch.inference_mode():
        engine._loop.run(ids, 2)

    engine.synchronize()
    assert forgetful.offsets_ns()[-1] < 0.5 * took_ns, "the host is done long before the device"


def test_the_bare_loop_never_waits_for_the_device() -> None:
    wanted = wide()
    engine = loaded(wanted)
    ids = torch.tensor(prompts(wanted), device="cuda")

    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            tokens, _ = engine._loop.run(ids, 32)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert tokens.shape == (8, 32)


def test_memory_adds_up() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    others = torch.cuda.memory_reserved()  # left by earlier tests, as their context is
    wanted = wide()
    engine = loaded(wanted)

    memory: Memory = engine.memory(prompts(wanted), 32)

    # 2 × 8 layers × 16 heads × 128 numbers × 8 sequences × 1,055 tokens × 2 bytes = 553,123,840
    assert memory.kv_cache_bytes == memory.kv_cache_theoretical_bytes == 553_123_840
    assert memory.weights_bytes is not None
    assert memory.peak_allocated_bytes is not None
    assert memory.peak_reserved_bytes is not None
    assert memory.device_used_bytes is not None
    held = memory.weights_bytes + memory.kv_cache_bytes
    assert held < memory.peak_allocated_bytes <= memory.peak_reserved_bytes
    reserved = memory.peak_reserved_bytes - others
    assert reserved <= memory.device_used_bytes < reserved + 2**31


def test_loading_never_holds_a_second_copy_on_the_device() -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()

    engine = backends.load(wide())

    grown = torch.cuda.max_memory_allocated() - before
    assert grown < 1.05 * engine.facts["weights_bytes"]


def test_weights_that_are_offloaded_are_said_to_lie_on_the_host() -> None:
    here = job(family("llama"))
    there = job(family("llama"), device="cuda", device_map="cpu_offload")
    engine = loaded(there)

    tokens = engine.generate(prompts(there), 8)

    assert tokens == loaded(here).generate(prompts(here), 8)
    assert engine.facts["param_devices"] == "cpu"
    assert engine.facts["offloaded_parameters"] == engine.facts["parameters"]


@pytest.mark.parametrize("device_map", ["auto", "balanced", "balanced_low_0", "sequential"])
def test_a_model_that_fits_is_placed_on_the_device(device_map: str) -> None:
    there = job(family("llama"), device="cuda", device_map=device_map)
    engine = loaded(there)

    tokens = engine.generate(prompts(there), 8)

    assert all(len(row) == 8 for row in tokens)
    assert "meta" not in engine.facts["param_devices"]


def test_running_out_of_memory_stays_what_it_is() -> None:
    engine = loaded(wide())
    too_many = [[1] * 4096 for _ in range(4096)]

    with pytest.raises(torch.OutOfMemoryError):
        engine.generate(too_many, 2)
