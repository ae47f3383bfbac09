"""The vLLM backend's own logic, over a stand-in for the engine: times, counts, refusals, memory."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import standin_vllm
from jobs import family, job, mixed, prompts
from llmbench import backends
from llmbench.errors import LoadFailed, Unsupported
from llmbench.measure import checks
from llmbench.measure import prompts as measure_prompts
from llmbench.measure.loop import Loop, Measurement
from llmbench.measure.telemetry import NoCounters
from llmbench.results.record import Job, Outcome, Status
from llmbench.spec.sweep import Protocol


@pytest.fixture(autouse=True)
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the stand-in where the backend finds vLLM, and take out what has imported it afterwards."""
    standin_vllm.forget()
    for name, module in standin_vllm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "set by the backend")
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "1")
    yield
    while OPENED:
        OPENED.pop().close()  # an engine has a folder, which the collector would warn of
    standin_vllm.forget()


def wanted(model: Any = None, **shape: Any) -> Job:
    return job(model or family("llama"), backend="vllm", **shape)


def loaded(**shape: Any) -> Any:
    return opened(wanted(**shape))


def opened(asked: Job) -> Any:
    engine = backends.load(asked)
    OPENED.append(engine)
    return engine


OPENED: list[Any] = []


def arguments(engine: Any) -> Any:
    return engine._engine.arguments


def test_a_batch_comes_back_in_order_and_at_its_length() -> None:
    engine = loaded(batch_size=3)

    tokens = engine.generate(prompts(wanted(batch_size=3)), 8)

    assert tokens == [[7] * 8] * 3


def test_a_batch_that_fits_into_one_step_has_one_row_of_times() -> None:
    engine = loaded(batch_size=2, input_len=12)

    engine.generate(prompts(wanted(batch_size=2, input_len=12)), 8)

    (row,) = engine.token_ns()
    assert len(row) == 8
    assert row == sorted(row)
    assert row[0] > 0


def test_sequences_whose_prompts_fill_several_steps_have_rows_of_their_own() -> None:
    # 4 x 24 prompt tokens and 64 a step: two sequences begin in the first step, two in the second.
    engine = loaded(batch_size=4, input_len=24)

    engine.generate(prompts(wanted(batch_size=4, input_len=24)), 8)

    rows = engine.token_ns()
    assert [len(row) for row in rows] == [8] * 4
    assert rows[0] == rows[1]
    assert rows[1][0] < rows[2][0] == rows[1][1]
    assert rows[0][-1] < rows[-1][-1]


def test_a_batch_of_different_lengths_is_measured_and_holds_what_its_sequences_need() -> None:
    asked = mixed(wanted(protocol=Protocol(iterations=3, min_time_s=0)), 3, 24, 9)
    engine = opened(asked)
    cell, taken = asked.cells[0], Measurement(asked.cells[0])
    drawn = measure_prompts.synthetic(cell, engine, 0, 1)
    Loop(engine, asked.protocol, drawn, taken, NoCounters(), lambda *_: None).run()

    outcome = taken.outcome(engine=dict(engine.facts))

    assert verdict(asked, outcome) == (Status.OK, [])
    assert outcome.memory is not None
    of_one_length = [measured(batch_size=1, input_len=length)[1].memory for length in (3, 24, 9)]
    assert outcome.memory.kv_cache_theoretical_bytes == sum(
        each.kv_cache_theoretical_bytes or 0 for each in of_one_length if each
    )


def test_the_times_of_a_call_forget_the_call_before() -> None:
    engine = loaded()
    for _ in range(3):
        engine.generate(prompts(wanted()), 4)

    (row,) = engine.token_ns()

    assert len(row) == 4


def measured(**shape: Any) -> tuple[Job, Outcome]:
    asked = wanted(protocol=Protocol(iterations=3, min_time_s=0), **shape)
    engine = opened(asked)
    cell = asked.cells[0]
    taken = Measurement(cell)
    drawn = measure_prompts.synthetic(cell, engine, 0, 1)
    Loop(engine, asked.protocol, drawn, taken, NoCounters(), lambda *_: None).run()
    return asked, taken.outcome(engine=dict(engine.facts))


def verdict(asked: Job, outcome: Outcome) -> tuple[Status, list[str]]:
    status, problems, _ = checks.check_outcome(asked.cells[0], outcome, checks.Ceilings())
    return status, [problem.code for problem in problems]


@pytest.mark.parametrize("input_len", [12, 24])
def test_what_is_measured_is_valid(input_len: int) -> None:
    assert verdict(*measured(batch_size=4, input_len=input_len)) == (Status.OK, [])


def test_prompts_served_from_a_cache_make_the_record_invalid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standin_vllm.LLMEngine, "cached_tokens", 16)

    assert verdict(*measured()) == (Status.INVALID, ["prefix_hit"])


@pytest.mark.parametrize(
    ("found", "code"),
    [({"param_devices": "meta"}, "placement"), ({"param_dtypes": "bfloat16"}, "dtype")],
)
def test_weights_that_are_not_as_asked_make_the_record_invalid(
    found: dict[str, str], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standin_vllm.LLMEngine, "seen", standin_vllm.LLMEngine.seen | found)

    assert verdict(*measured()) == (Status.INVALID, [code])


def test_memory_is_what_the_sequences_held_and_the_facts_say_what_room_there_is() -> None:
    engine = loaded(batch_size=2, input_len=12)

    memory = engine.memory(prompts(wanted(batch_size=2, input_len=12)), 8)

    # 12 + 8 - 1 = 19 tokens a sequence take 2 blocks of 16 tokens and 1,000 bytes.
    assert memory.kv_cache_bytes == 2 * 2 * standin_vllm.BLOCK_BYTES
    # 2 x 2 layers x 4 heads x 8 numbers x 2 sequences x 19 tokens x 4 bytes
    assert memory.kv_cache_theoretical_bytes == 19_456
    assert memory.device_used_bytes is memory.peak_reserved_bytes is None
    assert engine.facts["preallocates"] is True
    assert engine.facts["kv_capacity_tokens"] == 65 * 16
    assert engine.facts["kv_capacity_sequences"] == 65 * 16 // 32
    assert engine._engine.engine_core.scheduler.schedule.__name__ == "schedule", "unwatched again"


def test_options_reach_the_engine_by_its_own_names_and_others_are_left_to_it() -> None:
    engine = loaded(
        max_num_seqs=4,
        enforce_eager=True,
        cudagraph_capture_sizes="1,2",
        enable_chunked_prefill=False,
    )

    given = vars(arguments(engine))
    assert given["max_num_seqs"] == 4
    assert given["enforce_eager"] is True
    assert given["enable_chunked_prefill"] is False
    assert given["enable_prefix_caching"] is False
    assert given["compilation_config"] == {"cudagraph_capture_sizes": [1, 2]}
    assert not {"max_model_len", "block_size", "quantization", "async_scheduling"} & set(given)
    assert not {"multiprocessing", "cudagraph_mode"} & set(given)


def test_every_option_that_is_passed_on_is_declared_with_a_default() -> None:
    assert set(import_module("llmbench.backends.vllm.arguments").OURS) < set(
        backends.options("vllm")
    )


def test_a_cpu_gets_a_cache_of_a_known_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert arguments(loaded()).kv_cache_memory_bytes == 2 * 2**30

    assert arguments(loaded(kv_cache_memory_bytes=2**20)).kv_cache_memory_bytes == 2**20

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert "kv_cache_memory_bytes" not in vars(arguments(loaded()))


def test_random_weights_are_made_from_a_configuration_that_names_its_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: dict[str, Any] = {}
    start = standin_vllm.LLMEngine.from_engine_args

    def reading(args: Any, usage: Any) -> Any:
        written.update(json.loads((Path(args.model) / "config.json").read_text()))
        return start(args, usage)

    monkeypatch.setattr(standin_vllm.LLMEngine, "from_engine_args", reading)

    engine = loaded(model=family("mpt"))

    assert written["architectures"] == ["MptForCausalLM"]
    assert written["d_model"] == 32
    assert arguments(engine).load_format == "dummy"
    assert not Path(arguments(engine).model).exists(), "nothing is left of it"


def test_real_weights_are_read_from_their_folder(trained_checkpoint: Path) -> None:
    engine = loaded(model=trained_checkpoint, load_format="safetensors")

    assert arguments(engine).model == str(trained_checkpoint)
    assert arguments(engine).load_format == "safetensors"
    assert engine.tokenize("if x:")
    assert engine.special_ids


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"input_len": 125}, "133 tokens exceed the engine's max_model_len of 128."),
        ({"batch_size": 9}, "vLLM runs 8 sequences at once and would queue the rest of 9;"),
        (
            {"batch_size": 8, "input_len": 120},
            "needs room for 1,024 tokens in blocks of 16, and the engine's cache holds 1,024",
        ),
        (
            {"batch_size": 8, "input_len": 121},
            "needs room for 1,152 tokens in blocks of 16, and the engine's cache holds 1,024;",
        ),
    ],
)
def test_a_shape_that_would_be_queued_or_preempted_is_refused(
    shape: dict[str, int], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standin_vllm, "LONGEST", 128 if shape.get("input_len") == 125 else 2048)
    asked = wanted(model=family("llama", max_position_embeddings=4096), **shape)
    engine = opened(asked)
    if shape == {"batch_size": 8, "input_len": 120}:  # it fits exactly, one block aside
        engine.prepare(asked.cells[0])
        return

    with pytest.raises(Unsupported) as refused:
        engine.prepare(asked.cells[0])

    assert sentence in str(refused.value)


def test_room_is_needed_for_each_prompt_of_its_own_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin_vllm, "LONGEST", 2048)
    asked = wanted(model=family("llama", max_position_embeddings=4096))
    engine = opened(asked)

    engine.prepare(mixed(asked, 400, 400, 100).cells[0])  # three of 400 would be too many
    with pytest.raises(Unsupported, match="needs room for 1,152 tokens in blocks of 16"):
        engine.prepare(mixed(asked, 400, 400, 300).cells[0])


def test_a_vllm_for_another_device_is_named() -> None:
    with pytest.raises(Unsupported) as refused:
        loaded(device="cuda")

    assert "runs on cpu, not on cuda; install the package vllm." in str(refused.value)


def test_an_encoder_decoder_is_refused_by_what_the_registry_says() -> None:
    with pytest.raises(Unsupported) as refused:
        loaded(model="flan-t5-base@tiny")

    assert "does not run T5ForConditionalGeneration, an encoder-decoder" in str(refused.value)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("_PREVIOUSLY_SUPPORTED_MODELS", "0.22.0 was the last version that did"),
        ("_OOT_SUPPORTED_MODELS", "only with a plugin: 0.22.0"),
    ],
)
def test_what_an_earlier_version_ran_is_told_with_that_version(
    table: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = sys.modules["vllm.model_executor.models.registry"]
    monkeypatch.setattr(known, table, {"OPTForCausalLM": "0.22.0"})

    with pytest.raises(Unsupported) as refused:
        loaded(model=family("opt"))

    assert sentence in str(refused.value)
    assert standin_vllm.VERSION in str(refused.value)


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (ValueError("No room for the KV cache: 1 GiB"), LoadFailed, "No room for the KV cache"),
        (ValueError("['X'] are not supported for now."), Unsupported, "does not support its arch"),
    ],
)
def test_what_the_engine_refuses_is_one_line(
    error: Exception, kind: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(standin_vllm.LLMEngine, "from_engine_args", refusing)

    with pytest.raises(kind) as refused:
        loaded()

    assert sentence in str(refused.value)


def test_closing_ends_the_engine_core() -> None:
    engine = loaded()

    engine.close()

    assert not engine._engine.engine_core.open


def test_drafts_are_counted_and_the_text_is_proved() -> None:
    shape = {"batch_size": 2, "speculative": "ngram", "speculative_tokens": 4, "ngram_max": 3}
    engine = loaded(**shape)

    tokens = engine.generate(prompts(wanted(batch_size=2)), 8)
    rows = engine.token_ns()

    assert arguments(engine).speculative_config == {
        "method": "ngram", "prompt_lookup_max": 3, "prompt_lookup_min": 1, "num_speculative_tokens": 4,
    }  # fmt: skip
    assert [len(row) for row in rows] == [8]
    # the prompt brings one token, then passes of two, and the last of one: 1 + 2 + 2 + 2 + 1
    assert engine.counters() == {
        "prefix_cache_hits": 0, "target_passes": 10, "new_tokens": 16, "drafted_tokens": 32, "accepted_tokens": 8,
    }  # fmt: skip
    assert engine.below_likeliest([[1, 2], [3, 4]], tokens) == [[0.0] * 8] * 2
    assert engine.below_likeliest([[1, 2], [3, 4]], [[7, 5], [7, 7]]) == [[0.0, 1.0], [0.0, 0.0]]


def adapter(folder: Path, rank: int) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"r": rank, "target_modules": ["q_proj"]})
    )
    return folder


def test_the_sequences_of_a_batch_take_adapters_in_turn(tmp_path: Path) -> None:
    both = f"{adapter(tmp_path / 'one', 4)}, {adapter(tmp_path / 'two', 12)}"
    engine = loaded(batch_size=3, lora=both)

    engine.generate(prompts(wanted(batch_size=3)), 8)

    assert (
        arguments(engine).enable_lora,
        arguments(engine).max_loras,
        arguments(engine).max_lora_rank,
    ) == (True, 2, 16)
    assert [each.lora_name for each in engine._engine.adapters] == ["one", "two", "one"]
    assert (engine.facts["lora_adapters"], engine.facts["lora_rank"]) == (2, 12)


def test_without_adapters_a_request_names_none() -> None:
    engine = loaded(batch_size=2)
    engine.generate(prompts(wanted(batch_size=2)), 8)

    assert engine._engine.adapters == [None, None]
    assert not hasattr(arguments(engine), "enable_lora")
