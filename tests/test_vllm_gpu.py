"""The vLLM backend on CUDA: graphs recorded at the start, times that account for the call, memory told as room."""

import gc
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from jobs import job, prompts
from lazily import torch
from llmbench import backends
from llmbench.results.record import Job, Memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this machine"),
]

ROOM = {"gpu_memory_utilization": 0.3, "max_model_len": 1024}
GRAPHS = {
    "compilation_mode": "NONE",
    "cudagraph_mode": "FULL_DECODE_ONLY",
    "cudagraph_capture_sizes": "1,2,4,8",
}


@pytest.fixture(autouse=True)
def _emptied() -> Iterator[None]:
    """Give an engine's room back: vLLM counts what torch keeps as taken, and four engines want more than there is."""
    yield
    gc.collect()
    torch.cuda.empty_cache()


def wanted(name: str = "llama-7b@small", **shape: Any) -> Job:
    return job(name, backend="vllm", device="cuda", **{"dtype": "bfloat16", **ROOM, **shape})


def loaded(asked: Job) -> Any:
    """Return an engine prepared for the job's only cell, and warm."""
    engine: Any = backends.load(asked)
    cell = asked.cells[0]
    engine.prepare(cell)
    for _ in range(3):
        engine.generate(prompts(asked), cell.output_len)
    return engine


@pytest.mark.parametrize("options", [{"enforce_eager": True}, GRAPHS])
def test_the_engine_s_stamps_account_for_the_whole_call(options: dict[str, Any]) -> None:
    asked = wanted(batch_size=8, input_len=512, output_len=64, **options)
    engine = loaded(asked)

    engine.synchronize()
    began = time.monotonic_ns()
    tokens = engine.generate(prompts(asked), 64)
    engine.synchronize()
    took_ns = time.monotonic_ns() - began

    rows = engine.token_ns()
    assert [len(row) for row in tokens] == [64] * 8
    assert all(len(row) == 64 and row == sorted(row) and row[0] > 0 for row in rows)
    assert 0.95 * took_ns < max(row[-1] for row in rows) <= took_ns
    engine.close()


def test_recording_graphs_is_a_part_of_the_start() -> None:
    engine = loaded(wanted(**GRAPHS))

    assert engine.facts["cudagraph_mode"] == "FULL_DECODE_ONLY"
    assert engine.facts["cudagraph_capture_sizes"] == "1, 2, 4, 8"
    assert engine.facts["capture_s"] > 0
    engine.close()


def test_memory_is_told_as_room_and_never_as_need() -> None:
    asked = wanted(batch_size=4, input_len=100, output_len=10, enforce_eager=True)
    engine = loaded(asked)

    memory: Memory = engine.memory(prompts(asked), 10)

    assert memory.device_used_bytes is memory.peak_reserved_bytes is None
    assert memory.kv_cache_bytes is not None
    assert memory.kv_cache_theoretical_bytes is not None
    assert 1 <= memory.kv_cache_bytes / memory.kv_cache_theoretical_bytes < 2
    assert engine.facts["kv_pool_bytes"] > 100 * memory.kv_cache_bytes
    assert engine.facts["kv_capacity_sequences"] > 4
    assert engine.facts["param_devices"] == "cuda:0"
    assert engine.facts["param_dtypes"] == "bfloat16"
    engine.close()


@pytest.mark.parametrize("name", ["llama-7b@tiny", "pythia-70m@tiny", "gpt-j-6b@tiny"])
def test_an_engine_says_how_sure_it_is(name: str) -> None:
    asked = wanted(name, dtype="float32", enforce_eager=True, max_model_len=256)
    engine = loaded(asked)

    tokens, sure = engine.speak(prompts(asked), 8)

    assert [len(row) for row in tokens] == [len(row) for row in sure] == [8, 8]
    assert all(value <= 0 for row in sure for value in row)
    engine.close()
