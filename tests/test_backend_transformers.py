"""The transformers backend on a CPU: the same tokens by every way, true facts, true memory."""

import gc
import importlib
import os
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs import FAMILIES, VOCABULARY, family, job, knowing, prompts
from lazily import Lazy, torch, transformers
from llmbench import backends
from llmbench.errors import LoadFailed, Unsupported
from llmbench.machine import nvidia
from llmbench.results.record import Job

loops: Any = Lazy("llmbench.backends.transformers.loops")
load_errors: Any = Lazy("llmbench.backends.load_errors")
offload: Any = Lazy("llmbench.backends.transformers.offload")
clocks: Any = Lazy("llmbench.backends.transformers.clocks")

DEEP = {
    name: {key: 10 for key in ("num_hidden_layers", "n_layer", "n_layers") if key in config}
    for name, config in FAMILIES.items()
}
"""More layers than torch compiles one by one."""

every_family = pytest.mark.parametrize("model_type", FAMILIES)


def loaded(wanted: Job) -> Any:
    """Return an engine prepared for the job's only cell."""
    engine = backends.load(wanted)
    engine.prepare(wanted.cells[0])
    return engine


def outspoken(engine: Any) -> Any:
    """Return the engine with matrices ten times as large: tiny ones at 0.02 give every prompt one answer."""
    with torch.no_grad():
        for parameter in engine._model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return engine


def recomputed(model: Any, ids: list[list[int]], output_len: int) -> list[list[int]]:
    """Return greedy tokens without any cache: the whole sequence again at every step."""
    sequences = torch.tensor(ids)
    with torch.no_grad():
        for _ in range(output_len):
            logits = model(input_ids=sequences, use_cache=False).logits[:, -1]
            sequences = torch.cat([sequences, logits.argmax(-1, keepdim=True)], dim=1)
    new: list[list[int]] = sequences[:, len(ids[0]) :].tolist()
    return new


@every_family
@pytest.mark.parametrize("loop", ["forward", "generate"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_tokens_are_those_of_a_model_without_a_cache(
    model_type: str, loop: str, cache: str
) -> None:
    if cache == "static" and model_type in load_errors.NO_STATIC_CACHE:
        pytest.skip(load_errors.NO_STATIC_CACHE[model_type])
    wanted = job(family(model_type), loop=loop, cache=cache)
    engine = outspoken(loaded(wanted))

    first = engine.generate(prompts(wanted), 8)
    again = engine.generate(prompts(wanted), 8)

    assert first == recomputed(engine._model, prompts(wanted), 8)
    assert again == first
    assert len({tuple(row) for row in first}) == 2, "two prompts, two answers"


@every_family
def test_a_dynamic_cache_holds_what_the_configuration_says(model_type: str) -> None:
    wanted = job(knowing(family(model_type)))
    engine = loaded(wanted)

    memory = engine.memory(prompts(wanted), 8)

    assert memory.kv_cache_bytes == memory.kv_cache_theoretical_bytes
    assert memory.kv_cache_bytes == cached_bytes(FAMILIES[model_type], tokens=12 + 8 - 1)


def cached_bytes(config: dict[str, Any], tokens: int) -> int:
    """Return the bytes of 2 sequences by hand: 2 layers x keys and values x heads x 8 numbers x 4 bytes."""
    heads = 1 if config.get("multi_query") else config.get("num_key_value_heads", 4)
    return 2 * tokens * 2 * 2 * int(heads) * 8 * 4


def test_a_sliding_window_needs_no_more_than_its_window() -> None:
    wanted = job(family("mistral", sliding_window=6))
    engine = loaded(wanted)

    memory = engine.memory(prompts(wanted), 8)

    assert memory.kv_cache_theoretical_bytes == cached_bytes(FAMILIES["mistral"], tokens=6)


def test_a_static_cache_holds_room_for_the_whole_length_from_the_start() -> None:
    wanted = job(family("llama"), cache="static")
    engine = loaded(wanted)
    before = engine._loop._cache

    memory = engine.memory(prompts(wanted), 8)

    assert engine._loop._cache is before, "reset, not made again"
    assert memory.kv_cache_bytes == cached_bytes(FAMILIES["llama"], tokens=12 + 8)


def test_a_static_cache_is_made_anew_for_another_shape() -> None:
    wanted = job(family("llama"), cache="static")
    wider = job(family("llama"), cache="static", batch_size=3, input_len=20)
    engine = loaded(wanted)

    engine.prepare(wider.cells[0])
    tokens = engine.generate(prompts(wider), 8)

    assert tokens == recomputed(engine._model, prompts(wider), 8)


@pytest.mark.parametrize("loop", ["forward", "generate"])
@pytest.mark.parametrize("output_len", [1, 2, 9])
def test_every_token_has_a_time_and_they_rise_within_the_call(loop: str, output_len: int) -> None:
    wanted = job(family("llama"), loop=loop, output_len=output_len)
    engine = loaded(wanted)

    began = time.monotonic_ns()
    tokens = engine.generate(prompts(wanted), output_len)
    took_ns = time.monotonic_ns() - began

    (row,) = engine.token_ns()
    assert [len(answer) for answer in tokens] == [output_len, output_len]
    assert len(row) == output_len
    assert row == sorted(row)
    assert 0 < row[0] <= row[-1] <= took_ns


@every_family
def test_facts_are_what_was_loaded(model_type: str) -> None:
    engine = loaded(job(family(model_type), dtype="bfloat16", threads=1))

    facts = engine.facts

    counted = sum(p.numel() for p in set(engine._model.parameters()))
    assert facts["parameters"] == counted
    assert facts["weights_bytes"] == 2 * counted
    assert (facts["param_devices"], facts["param_dtypes"]) == ("cpu", "bfloat16")
    assert facts["attn_implementation"] == ("eager" if model_type in EAGER else "sdpa")
    experts = "grouped_mm" if model_type == "mixtral" else None
    assert facts.get("experts_implementation") == experts
    assert facts["threads"] == torch.get_num_threads() == 1
    assert facts["torch"] == torch.__version__
    assert facts["load_weights_s"] > 0
    assert not engine._model.training


EAGER = ("bloom", "mpt")
"""Families without scaled dot product attention in transformers 5.24."""


@every_family
def test_random_weights_are_never_zero_and_never_the_same(model_type: str) -> None:
    model = loaded(job(family(model_type)))._model

    for name, parameter in model.named_parameters():
        values = parameter.detach().float().flatten()
        assert values.isfinite().all(), name
        assert values.count_nonzero() == values.numel(), name
        assert values.unique().numel() > values.numel() * 0.9, name
        centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        assert abs(values.mean() - centre) < 0.02, name


def test_random_weights_follow_the_seed_and_nothing_else() -> None:
    torch.manual_seed(1)
    one = loaded(job(family("llama")))._model.state_dict()
    torch.manual_seed(2)
    two = loaded(job(family("llama")))._model.state_dict()

    assert all(torch.equal(one[name], two[name]) for name in one)


def test_half_precision_weights_have_no_zeros_either() -> None:
    model = loaded(job(family("llama", vocab_size=50_000), dtype="float16"))._model

    assert all(p.count_nonzero() == p.numel() for p in model.parameters())


def test_no_rows_of_a_random_matrix_are_the_same() -> None:
    model = loaded(job(family("llama", hidden_size=1024, intermediate_size=4096)))._model

    matrix = model.model.layers[0].mlp.up_proj.weight  # 4096 x 1024: four blocks long

    assert matrix.unique(dim=0).shape == matrix.shape


def test_buffers_are_the_librarys_own() -> None:
    model = loaded(job(family("llama"), dtype="bfloat16"))._model

    frequencies = model.model.rotary_emb.inv_freq

    assert frequencies.dtype == torch.float32
    assert torch.allclose(frequencies, 10_000 ** -(torch.arange(0, 8, 2) / 8))


def test_tied_weights_are_one_and_counted_once() -> None:
    engine = loaded(job(family("mpt", tie_word_embeddings=True)))

    model = engine._model

    assert model.lm_head.weight is model.transformer.wte.weight
    stored = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()
    }
    assert engine.facts["weights_bytes"] == sum(stored.values())


def test_untied_weights_are_two() -> None:
    engine = loaded(job(family("llama")))

    storages = [p.untyped_storage().data_ptr() for p in engine._model.parameters()]

    assert len(set(storages)) == len(storages)


def test_loading_never_holds_a_second_copy() -> None:
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4}
    loaded(job(family("llama")))  # what the first load of a process allocates for good
    gc.collect()
    before = resident_bytes()

    engine = loaded(job(family("llama", vocab_size=16_000, **wide)))

    grown = engine.memory([[1, 2]], 1).host_peak_rss_load_bytes - before
    weights = engine.facts["weights_bytes"]
    assert weights > 300e6
    assert grown < 1.25 * weights


def resident_bytes() -> int:
    """Return this process's resident memory."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a pseudo file
        return int(file.read().split()[1]) * 4096


def test_host_memory_has_a_peak_for_each_phase() -> None:
    engine = loaded(job(family("llama")))

    memory = engine.memory([[1, 2]], 1)

    phases = (memory.host_peak_rss_load_bytes, memory.host_peak_rss_generate_bytes)
    assert memory.host_peak_rss_bytes == max(phases)
    assert memory.peak_allocated_bytes is None, "not measured on a CPU"


def test_without_a_mark_to_reset_only_the_whole_lifes_peak_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("llmbench.backends.host_peak.PROC", tmp_path / "missing")
    engine = loaded(job(family("llama")))

    memory = engine.memory([[1, 2]], 1)

    assert memory.host_peak_rss_bytes > 0
    assert memory.host_peak_rss_load_bytes is None
    assert memory.host_peak_rss_generate_bytes is None


def test_a_configuration_that_forbids_the_cache_is_overruled() -> None:
    wanted = job(family("mpt", use_cache=False))
    engine = loaded(wanted)

    memory = engine.memory(prompts(wanted), 8)

    assert memory.kv_cache_bytes == memory.kv_cache_theoretical_bytes


def test_mpts_dropout_may_be_written_as_a_float() -> None:
    wanted = job(family("mpt", attn_config={"attn_pdrop": 0.0, "alibi": True}))

    assert loaded(wanted).generate(prompts(wanted), 2)


@pytest.mark.parametrize("choice", ["eager", "sdpa"])
def test_the_attention_asked_for_is_the_one_that_runs(choice: str) -> None:
    engine = loaded(job(family("llama"), attn_implementation=choice))

    assert engine.facts["attn_implementation"] == choice


@pytest.mark.parametrize("choice", ["sdpa", "flash_attention_2", "flex_attention"])
def test_an_attention_that_a_family_lacks_is_refused_with_what_works(choice: str) -> None:
    with pytest.raises(
        Unsupported, match=rf"Mpt\w+ has no {choice} .* attn_implementation=eager works"
    ):
        backends.load(job(family("mpt"), attn_implementation=choice))


@pytest.mark.parametrize("model_type", EAGER)
def test_a_family_without_sdpa_says_so(model_type: str) -> None:
    with pytest.raises(Unsupported, match=r"ForCausalLM has no sdpa .* attn_implementation=eager"):
        backends.load(job(family(model_type), attn_implementation="sdpa"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"compile": True}, "compile=True needs cache=static"),
        ({"compile": True, "cache": "static", "loop": "generate"}, "use loop=forward to compile"),
        ({"device_map": "auto"}, "on cpu only none and disk_offload work"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(Unsupported, match=says):
        backends.load(job(family("llama"), **options))


@pytest.mark.parametrize("model_type", ["mpt", "opt"])
def test_a_family_whose_layers_would_each_be_compiled_is_refused(model_type: str) -> None:
    deep = job(family(model_type, **DEEP[model_type]), cache="static", compile=True)

    with pytest.raises(Unsupported, match=f"{model_type} cannot be compiled: .* use compile=false"):
        backends.load(deep)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("model_type", DEEP)
def test_a_family_compiles_beyond_the_layers_that_torch_compiles_one_by_one(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch refuses a ninth compilation of one function; what it makes of each graph does not matter here."""
    plain, stand_in = (
        torch.compile,
        lambda step, **_: plain(step, backend=lambda graph, _: graph.forward),
    )
    monkeypatch.setattr(torch, "compile", stand_in)
    deep = job(family(model_type, **DEEP[model_type]), cache="static", compile=True)
    try:
        engine: Any = loaded(deep)
    except Unsupported:
        return  # said in one line before anything is compiled

    engine.generate(prompts(deep), 4)
    before = engine.counters()
    engine.generate(prompts(deep), 4)

    assert engine.counters() == before


@pytest.mark.parametrize(
    ("cuda", "warned", "says"),
    [
        ("13.0", "The NVIDIA driver on your system is too old (found version 12040).",
         r"is too old \(found version 12040\)\.; it is built for CUDA 13.0, the driver is for 12.4\)"),
        (None, "", r"sees no CUDA device \(it is built without CUDA\)"),
    ],
)  # fmt: skip
def test_torch_s_own_reason_for_seeing_no_gpu_is_passed_on(
    cuda: str | None, warned: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable() -> bool:
        warnings.warn(warned, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(nvidia, "cuda_version", lambda: "12.4")

    with pytest.raises(LoadFailed, match=says):
        backends.load(job(family("llama"), device="cuda"))


def test_a_family_that_fails_on_a_static_cache_is_refused_with_what_works() -> None:
    with pytest.raises(
        Unsupported, match=r"bloom cannot use a static cache: .*; cache=dynamic works"
    ):
        backends.load(job(family("bloom"), cache="static"))


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("openai-gpt", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    ],
)
def test_a_model_that_would_forget_its_prompt_is_refused_with_what_works(
    model_type: str, config: dict[str, Any]
) -> None:
    model = other(model_type, {"vocab_size": VOCABULARY, **config})
    with pytest.raises(Unsupported, match="use loop=generate"):
        backends.load(job(model))

    wanted = job(model, loop="generate")
    engine = loaded(wanted)

    assert engine.generate(prompts(wanted), 8) == recomputed(engine._model, prompts(wanted), 8)


def test_an_encoder_is_refused() -> None:
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    with pytest.raises(Unsupported, match="bert is an encoder"):
        backends.load(job(other("bert", config)))


def other(model_type: str, config: dict[str, Any]) -> Any:
    """Return a tiny model of another family, or with nothing filled in."""
    llama = family("llama")
    return type(llama)(**{**structure(llama), "model_type": model_type, "config": config})


def structure(model: Any) -> dict[str, Any]:
    """Return the fields of a model."""
    return {name: getattr(model, name) for name in model.__struct_fields__}


def test_the_vocabulary_without_a_tokenizer_is_the_embeddings() -> None:
    engine = loaded(job(family("llama", eos_token_id=[2, 7], bos_token_id=1)))

    assert engine.vocab_size == VOCABULARY
    assert engine.special_ids == {1, 2, 7}
    assert not engine.counters()


class SlowSteps:
    """A model whose prefill takes 40 ms and whose steps take 10 ms, however it is called."""

    def __init__(self, model: Any) -> None:
        self.model, self.config, self.forward = model, model.config, model.forward

    def __call__(self, **inputs: Any) -> Any:
        time.sleep(0.04 if inputs["input_ids"].shape[1] > 1 else 0.01)
        return self.model(**inputs)


def test_the_clock_tells_prefill_from_steps() -> None:
    engine = loaded(job(family("llama")))
    engine._loop._model = engine._loop._step = SlowSteps(engine._model)
    firsts: list[int] = []
    steps: list[int] = []

    for _ in range(5):  # the first call of a process is slow, and others may use the machine
        engine.generate([[1, 2, 3], [4, 5, 6]], 6)
        times = engine.token_ns()[0]
        firsts.append(times[0])
        steps += [after - before for before, after in pairwise(times)]

    assert 40e6 <= min(firsts) < 80e6
    assert 10e6 <= min(steps) < 20e6


def test_a_clock_forgets_the_call_before() -> None:
    clock = clocks.CpuStamps()
    for marks in (3, 2):
        clock.start()
        for _ in range(marks):
            clock.mark()

    assert len(clock.offsets_ns()) == 2


def by_hand(model: Any, ids: list[list[int]], output_len: int) -> list[int]:
    """Return the stamps of the smallest loop that generates: what users write."""
    stamps = [time.monotonic_ns()]
    with torch.inference_mode():
        token, cache = torch.tensor(ids), transformers.DynamicCache(config=model.config)
        for _ in range(output_len):
            logits = model(
                input_ids=token,
                **{loops.word_for_cache(model): cache},
                use_cache=True,
                logits_to_keep=1,
            ).logits
            token = logits[:, -1].argmax(-1, keepdim=True)
            stamps.append(time.monotonic_ns())
    return [stamp - stamps[0] for stamp in stamps[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("hidden", [256, 1024])
def test_times_are_those_of_a_loop_written_by_hand(hidden: int, batch_size: int) -> None:
    width = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "max_position_embeddings": 512}
    wanted = job(
        family("llama", **width), batch_size=batch_size, input_len=128, output_len=16, threads=1
    )
    engine = loaded(wanted)
    ids = prompts(wanted)
    ours, theirs = [], []

    for _ in range(30_000 // hidden):
        engine.generate(ids, 16)
        ours.append(engine.token_ns()[0])
        theirs.append(by_hand(engine._model, ids, 16))

    fastest = [undisturbed(rows) for rows in (ours, theirs)]
    ttft = fastest[0][0] / fastest[1][0]
    tpot = sum(fastest[0][1:]) / sum(fastest[1][1:])
    print(
        f"hidden {hidden}, batch {batch_size}: ttft {ttft:.4f}, tpot {tpot:.4f} of a loop by hand"
    )
    assert ttft == pytest.approx(1, abs=0.02)
    assert tpot == pytest.approx(1, abs=0.02)


def undisturbed(rows: list[list[int]]) -> list[int]:
    """Return each gap's fastest time over all rounds: what other processes add is not the loop's."""
    gaps = [[after - before for before, after in zip([0, *row], row, strict=False)] for row in rows]
    return [min(gap) for gap in zip(*gaps, strict=True)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own compiler
@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "qwen2"])
def test_a_compiled_model_says_the_same(model_type: str) -> None:
    wanted = job(family(model_type), cache="static", compile=True)
    engine = outspoken(loaded(wanted))
    engine.generate(prompts(wanted), 8)
    before = engine.counters()

    tokens = engine.generate(prompts(wanted), 8)

    assert tokens == recomputed(engine._model, prompts(wanted), 8)
    assert engine.counters() == before, "nothing is compiled once it is warm"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_compiled_kernels_for_a_gpu_does_not_outlive_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
    engine: Any = backends.load(job(family("llama"), cache="static", compile=True))
    compiling = importlib.import_module("torch._inductor.async_compile")
    process = (
        compiling.AsyncCompile.process_pool().process
    )  # started only where Triton is installed
    assert psutil.Process(process.pid).ppid() == os.getpid()

    engine.close()

    assert not psutil.pid_exists(process.pid)


def test_weights_that_are_offloaded_are_said_to_lie_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmbench.backends.transformers._refuse_impossible", lambda *_: None)
    plain, wanted = job(family("llama")), job(family("llama"), device_map="cpu_offload")

    engine = loaded(wanted)

    assert engine.generate(prompts(wanted), 8) == loaded(plain).generate(prompts(plain), 8)
    assert engine.facts["param_devices"] == "cpu"
    assert engine.facts["offloaded_parameters"] == engine.facts["parameters"]
    assert engine.facts["weights_bytes"] == loaded(plain).facts["weights_bytes"]
    assert engine.facts["offload_read_bytes_s"] > 1e6


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral"])
def test_weights_on_disk_give_the_same_tokens_and_say_how_fast_they_are_read(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plain, wanted = job(family(model_type)), job(family(model_type), device_map="disk_offload")

    engine = loaded(wanted)

    assert engine.generate(prompts(wanted), 8) == loaded(plain).generate(prompts(plain), 8)
    assert all(parameter.device.type == "meta" for parameter in engine._model.parameters())
    assert engine.facts["offloaded_parameters"] == engine.facts["parameters"]
    assert engine.facts["weights_bytes"] == loaded(plain).facts["weights_bytes"]
    assert engine.facts["offload_read_bytes_s"] > 1e6
    assert not list(tmp_path.iterdir()), "the file has no name"


def test_a_model_is_spread_as_its_map_says_and_filled_where_it_lies() -> None:
    model = loaded(job(family("llama")))._model
    device_map = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "cpu"}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()

    spread = offload.spread(model, {**device_map, "model.rotary_emb": "cpu", "lm_head": "cpu"}, 0)

    assert all(parameter.count_nonzero() for parameter in spread.parameters())


def test_weights_on_disk_are_refused() -> None:
    with pytest.raises(LoadFailed, match="fits neither the devices nor the host's memory"):
        offload.refuse_disk({"model.layers.0": 0, "model.layers.1": "disk"})
