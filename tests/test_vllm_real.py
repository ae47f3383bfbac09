"""The backend on the real vLLM, on a CPU: every family, and that the stand-in behaves as what it stands for."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

import standin_vllm
from boxes import agent, boxes
from jobs import at, family, job, mixed, prompts
from lazily import Lazy
from llmbench import backends
from llmbench.errors import Unsupported
from llmbench.measure import checks
from llmbench.measure import prompts as measure_prompts
from llmbench.measure.loop import Loop, Measurement
from llmbench.measure.telemetry import NoCounters
from llmbench.results.record import Outcome, Status
from llmbench.spec.sweep import Protocol

if TYPE_CHECKING:
    from llmbench.results.record import Job
    from sweeps import Bench

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

reference: Any = Lazy("llmbench.backends.reference_model")

HEADS = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
"""Heads of 32, the smallest that a CPU has a kernel for."""
FAMILIES = {
    "LLaMA": "llama-7b", "MPT": "mpt-7b", "GPT-NeoX": "pythia-70m", "GPT-J": "gpt-j-6b", "GPT-2": "gpt2",
    "OPT": "opt-125m", "BLOOM": "bloom-7b1", "Falcon": "falcon-7b", "Mistral": "mistral-7b-v0.1",
    "Mixtral": "mixtral-8x7b-v0.1", "Qwen2": "qwen2.5-7b", "Qwen3": "qwen3-8b",
}  # fmt: skip
SMALL = {"enforce_eager": True, "kv_cache_memory_bytes": 2**26, "max_model_len": 256}


def tiny(name: str, **shape: Any) -> Job:
    return job(f"{name}@tiny", backend="vllm", **{**SMALL, **shape})


def measured(asked: Job) -> tuple[Status, list[str], Outcome, Any]:
    """Measure a job's only cell in this process; return the verdict, what was measured, and the engine."""
    engine: Any = backends.load(asked)
    cell = asked.cells[0]
    taken = Measurement(cell)
    drawn = measure_prompts.synthetic(cell, engine, 0, 1)
    Loop(engine, asked.protocol, drawn, taken, NoCounters(), lambda *_: None).run()
    outcome = taken.outcome(engine=dict(engine.facts))
    status, problems, _ = checks.check_outcome(cell, outcome, checks.Ceilings())
    return status, [problem.code for problem in problems], outcome, engine


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_runs_and_is_valid(name: str) -> None:
    quick = Protocol(iterations=3, min_time_s=0, warmup_budget_s=1)
    asked = tiny(FAMILIES[name], batch_size=3, input_len=40, output_len=6, protocol=quick)

    status, problems, outcome, engine = measured(asked)
    engine.close()

    assert (status, problems) == (Status.OK, [])
    assert outcome.engine["parameters"] > 1000
    assert outcome.engine["attn_implementation"] == "CPU_ATTN"
    assert outcome.memory is not None
    held, theory = outcome.memory.kv_cache_bytes, outcome.memory.kv_cache_theoretical_bytes
    assert held is not None
    assert theory is not None
    # 40 + 6 - 1 = 45 tokens in whole blocks; a window of 16 needs no more than 16.
    block = outcome.engine["block_size"]
    needed = min(45, asked.model.config.get("sliding_window") or 45)
    assert held / theory == pytest.approx(-(-45 // block) * block / needed)


def test_prompts_of_different_lengths_give_what_they_give_alone(saved: Path) -> None:
    one = of_folder(saved)
    quick = msgspec.structs.replace(one.protocol, iterations=2)
    asked = mixed(msgspec.structs.replace(one, protocol=quick), 5, 40, 1, 17)
    plain: Any = backends.load(one)
    alone = [plain.generate([prompt], 16)[0] for prompt in prompts(asked)]
    plain.close()

    status, problems, outcome, engine = measured(asked)
    together = engine.generate(prompts(asked), 16)
    engine.close()

    assert (status, problems) == (Status.OK, [])
    assert together == alone
    assert outcome.memory is not None
    held, theory = outcome.memory.kv_cache_bytes, outcome.memory.kv_cache_theoretical_bytes
    assert held is not None
    assert theory is not None
    block = outcome.engine["block_size"]
    tokens = [length + 15 for length in (5, 40, 1, 17)]
    assert held / theory == pytest.approx(
        sum(-(-each // block) * block for each in tokens) / sum(tokens)
    )


def test_an_encoder_decoder_is_refused_with_what_runs_it() -> None:
    with pytest.raises(Unsupported) as refused:
        backends.load(tiny("flan-t5-base"))

    assert "does not run T5ForConditionalGeneration" in str(refused.value)


def test_the_head_size_that_a_cpu_has_no_kernel_for_is_named() -> None:
    with pytest.raises(Unsupported) as refused:
        backends.load(job(family("llama"), backend="vllm", enforce_eager=True, max_model_len=64))

    assert "CPU_ATTN has no kernel for heads of 8 in vLLM" in str(refused.value)


def test_repeated_prompts_hit_the_prefix_cache_and_are_counted_when_it_is_on() -> None:
    asked = tiny("llama-7b", batch_size=2, input_len=140, enable_prefix_caching=True)
    engine: Any = backends.load(asked)
    for _ in range(2):
        engine.generate(prompts(asked), 4)

    assert engine.counters() == {"prefix_cache_hits": 2 * 128}
    engine.close()


def test_repeated_prompts_hit_nothing_when_it_is_off() -> None:
    asked = tiny("llama-7b", batch_size=2, input_len=140)
    engine: Any = backends.load(asked)
    for _ in range(2):
        engine.generate(prompts(asked), 4)

    assert engine.counters() == {"prefix_cache_hits": 0}
    engine.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model whose heads have a size that a CPU has a kernel for."""
    folder = tmp_path_factory.mktemp("model")
    reference.save(job(family("llama", **HEADS)), str(folder), disturbed=False)
    return folder


def of_folder(saved: Path, **options: Any) -> Job:
    quick = Protocol(iterations=2, min_time_s=0, warmup=1, warmup_budget_s=0)
    like = job(family("llama", **HEADS), backend="vllm", load_format="safetensors", protocol=quick,
               **{**SMALL, "max_model_len": 64, "output_len": 16, **options})  # fmt: skip
    return at(like, saved)


@pytest.mark.parametrize("kind", ["ngram", "draft"])
def test_drafts_leave_the_text_as_it_is(kind: str, saved: Path) -> None:
    draft = {"draft_model": str(saved)} if kind == "draft" else {}
    asked = of_folder(saved, speculative=kind, speculative_tokens=3, **draft)
    plain: Any = backends.load(of_folder(saved))
    wanted = plain.generate(prompts(asked), 16)
    plain.close()

    status, problems, outcome, engine = measured(asked)
    tokens = engine.generate(prompts(asked), 16)
    engine.close()

    assert (status, problems) == (Status.OK, [])
    assert tokens == wanted
    counted = outcome.counters
    assert counted["new_tokens"] == 2 * 2 * 16
    assert counted["not_greedy_tokens"] == 0
    if kind == "draft":  # the model drafts for itself, and every draft is accepted
        assert counted["accepted_tokens"] == counted["drafted_tokens"] > 0
        assert counted["target_passes"] < counted["new_tokens"] / 3


def test_each_sequence_has_its_adapter(saved: Path, tmp_path: Path) -> None:
    """Two adapters over a batch give what two models give into which they were merged by hand."""
    texts = []
    for seed in (1, 2):
        write_adapter(saved, tmp_path / f"adapter{seed}", tmp_path / f"merged{seed}", seed)
        merged: Any = backends.load(of_folder(tmp_path / f"merged{seed}"))
        texts.append(merged.generate(prompts(of_folder(saved)), 8)[seed - 1])
        merged.close()

    both = f"{tmp_path / 'adapter1'},{tmp_path / 'adapter2'}"
    plain: Any = backends.load(of_folder(saved))
    without = plain.generate(prompts(of_folder(saved)), 8)
    plain.close()
    engine: Any = backends.load(of_folder(saved, lora=both))
    tokens = engine.generate(prompts(of_folder(saved)), 8)
    held = engine.facts["adapter_bytes"]
    engine.close()

    assert tokens == texts
    assert all(row != other for row, other in zip(tokens, without, strict=True))
    assert held > 0


def write_adapter(saved: Path, folder: Path, merged: Path, seed: int) -> None:
    """Write an adapter of the queries as peft would, and the model with it in its weights."""
    torch, safetensors = import_module("torch"), import_module("safetensors.torch")
    rank, scale, size = 4, 16, HEADS["hidden_size"]
    weights = safetensors.load_file(saved / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, Any] = {}
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj"
        down, up = (
            torch.randn(shape, generator=generator) * 0.5 for shape in ((rank, size), (size, rank))
        )
        parts |= {
            f"base_model.model.{name}.lora_{side}.weight": one
            for side, one in (("A", down), ("B", up))
        }
        weights[f"{name}.weight"] += scale / rank * up @ down
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": scale,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    for place in (folder, merged):
        place.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    safetensors.save_file(parts, folder / "adapter_model.safetensors")
    shutil.copytree(saved, merged, dirs_exist_ok=True)
    safetensors.save_file(weights, merged / "model.safetensors", {"format": "pt"})


def test_the_stand_in_steps_as_the_engine_does() -> None:
    """Four prompts of 24 tokens at 64 a step: how many tokens each step gives to whom."""
    asked = tiny(
        "llama-7b", batch_size=4, input_len=24, max_num_batched_tokens=64, max_num_seqs=8,
        enable_chunked_prefill=True, max_model_len=64,
    )  # fmt: skip
    engine: Any = backends.load(asked)
    engine.generate(prompts(asked), 5)
    real = steps(engine)
    rows = engine.token_ns()
    engine.close()

    core = standin_vllm.Core()
    stand_in: Any = standin_vllm.LLMEngine(standin_vllm.EngineArgs(enable_prefix_caching=False))
    stand_in.engine_core = core
    from llmbench.backends.vllm.steps import Steps  # noqa: PLC0415 - imports no vLLM

    listening = Steps(core)
    wanted = standin_vllm.SamplingParams(max_tokens=5)
    for row, prompt in enumerate(prompts(asked)):
        stand_in.add_request(str(row), {"prompt_token_ids": prompt}, wanted)
    while stand_in.has_unfinished_requests():
        stand_in.step()

    assert real == given(listening._taken)
    assert [len(row) for row in rows] == [5] * 4


def steps(engine: Any) -> list[dict[str, int]]:
    return given(engine._steps._taken)


def given(taken: list[Any]) -> list[dict[str, int]]:
    """Return for each step how many new tokens each request got."""
    return [
        {output.request_id.split("-")[0]: len(output.new_token_ids) for output in step.outputs}
        for step in taken
        if step.outputs
    ]


@pytest.mark.parametrize(
    "name", [name for name in standin_vllm.MODULES if standin_vllm.MODULES[name]]
)
def test_every_name_of_the_stand_in_is_a_name_of_vllm(name: str) -> None:
    real = import_module(name)

    for word, stands_for in standin_vllm.MODULES[name].items():
        assert hasattr(real, word)
        if inspect.isclass(stands_for) and word not in {"EngineArgs", "SamplingParams"}:
            own = [each for each in vars(stands_for) if not each.startswith("_")]
            values = {"cached_tokens", "seen", "arguments"}
            missing = [
                each
                for each in own
                if each not in values and not hasattr(getattr(real, word), each)
            ]
            assert not missing


def test_every_argument_that_the_backend_passes_is_one_of_vllm() -> None:
    real = import_module("vllm.engine.arg_utils").EngineArgs
    arguments = import_module("llmbench.backends.vllm.arguments")
    defaults = import_module("llmbench.backends.vllm")._defaults()

    passed = arguments.engine_arguments(tiny("llama-7b"), defaults, "somewhere")
    named = set(backends.options("vllm")) - set(arguments.OURS)

    assert set(passed) | named <= set(inspect.signature(real).parameters)


AXES = {
    "model": "llama-7b@tiny", "dtype": "float32", "batch_size": [1, 2], "input_len": 16, "output_len": 4,
}  # fmt: skip
PATIENT = {
    "sessions": 1, "max_sessions": 1, "warmup_budget_s": 1, "min_time_s": 8,
    "deadlines": {"start_s": 300, "load_s": 300, "warmup_s": 120, "iteration_s": 120, "memory_s": 120},
}  # fmt: skip


def written(bench: Bench, **options: Any) -> None:
    bench.write(axes={**AXES, "backend": {"vllm": {**SMALL, **options}}}, protocol=PATIENT)


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}  # noqa: S108 - the system's own


@pytest.mark.parametrize("multiprocessing", [False, True])
def test_a_worker_that_is_killed_leaves_nothing_and_the_next_session_is_clean(
    multiprocessing: bool, bench: Bench
) -> None:
    written(bench, multiprocessing=multiprocessing)
    before = shared_memory()
    process = bench.start()
    bench.wait_for('"kind":"begin"', process, 300)
    worker = json.loads(
        next(line for line in bench.raw().splitlines() if b'"kind":"begin"' in line)
    )["pid"]
    seen = until_it_generates(bench, worker)
    os.kill(worker, signal.SIGKILL)
    bench.wait_for('"kind":"end"', process, 300)

    left = [child for child in seen if child.is_running() and child.status() != "zombie"]
    assert not left
    process.wait(300)
    statuses = [(record.status, record.cell.batch_size) for record in bench.records()]
    assert [status for status, _ in statuses] == [Status.CRASH, Status.OK], bench.err.read_text()
    assert bench.gone()
    assert shared_memory() <= before


OVER_TWO = {"tensor_parallel_size": 2, "nnodes": [1, 2]}


def test_an_engine_over_two_boxes_loads_and_measures_as_one_on_a_single_box(bench: Bench) -> None:
    axes = {**AXES, "batch_size": 2, "backend": {"vllm": {**SMALL, **OVER_TWO}}}
    bench.write(axes=axes, protocol=PATIENT)

    done = bench.sweep(*boxes(bench, "b1", "b2", gpus=0), patience_s=600)

    one, two = sorted(done.records, key=lambda record: len(record.worker["box"]))
    assert (one.status, two.status) == (Status.OK, Status.OK), done.out
    assert two.worker["box"] == "b1+b2"
    assert [each.outcome.engine["workers"] for each in (one, two)] == [2, 2]
    for fact in ("parameters", "weights_bytes"):
        assert one.outcome.engine[fact] == two.outcome.engine[fact]
    assert two.worker["strays"] == []
    assert bench.gone()


def test_a_box_that_dies_under_an_engine_over_two_leaves_nothing_on_the_other(bench: Bench) -> None:
    axes = {**AXES, "batch_size": 1, "backend": {"vllm": {**SMALL, **OVER_TWO, "nnodes": 2}}}
    bench.write(axes=axes, protocol={**PATIENT, "min_time_s": 60})
    before = shared_memory()
    sweep = bench.start(*boxes(bench, "b1", "b2", gpus=0))
    bench.wait_for('"kind":"begin"', sweep, 300)
    time.sleep(25)
    agent(bench, "b2").kill()

    done = bench.ended(sweep, 60)

    assert [record.status for record in done.records] == [Status.INTERRUPTED]
    assert bench.gone(10), bench.alive()
    assert shared_memory() <= before


def until_it_generates(bench: Bench, worker: int) -> list[psutil.Process]:
    """Wait until the engine says that it is up, and return the worker with all that it has started."""
    deadline = time.monotonic() + 240
    while not any("init engine" in log.read_text() for log in bench.run.glob("logs/*.log")):
        assert time.monotonic() < deadline, "the engine did not come up"
        time.sleep(0.1)
    time.sleep(2)
    process = psutil.Process(worker)
    return [process, *process.children(recursive=True)]
