"""llama.cpp itself, on tiny models written as GGUF: the same function as transformers, counted and refused exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from jobs import at, family, job, mixed, prompts
from lazily import Lazy
from llmbench import backends
from llmbench.errors import LoadFailed, Unsupported
from llmbench.measure import checks
from llmbench.measure import prompts as measure_prompts
from llmbench.measure.checks import Ceilings
from llmbench.measure.loop import Loop, Measurement
from llmbench.measure.telemetry import NoCounters
from llmbench.models import gguf
from llmbench.parity import check
from llmbench.results.record import Status
from llmbench.spec.sweep import Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.models.resolve import Model
    from llmbench.results.record import Job, Parity

pytestmark = pytest.mark.llamacpp

library: Any = Lazy("llmbench.backends.llamacpp.library")
model_file: Any = Lazy("llmbench.backends.llamacpp.model_file")
reference: Any = Lazy("llmbench.backends.reference_model")

QUICK = Protocol(iterations=2, min_time_s=0, warmup=1, warmup_budget_s=0)
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4}
"""Sizes that are multiples of 256, the block of most quantised types."""


def wanted(model: Model | None = None, **shape: Any) -> Job:
    return job(model or family("llama"), backend="llamacpp", protocol=QUICK, **shape)


def loaded(asked: Job) -> Any:
    engine: Any = backends.load(asked)
    engine.prepare(asked.cells[0])
    return engine


def verdicts(model: Model, dtype: str = "float32", **options: Any) -> list[Parity]:
    """Return the verdicts of the parity check on transformers and llama.cpp, with the same random weights."""
    cells = [
        job(model, backend="transformers", dtype=dtype).cells[0],
        job(model, backend="llamacpp", dtype=dtype, **options).cells[0],
    ]
    return list(check.check(cells, {model.name: model}, Protocol(), lambda _: None))


def test_attention_that_rounds_to_16_bits_is_no_float32() -> None:
    _, theirs = verdicts(family("llama"), flash_attn="on")

    assert theirs.verdict == "failed"
    assert "log-probabilities are off by" in theirs.why


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_it_computes_the_same_function_as_the_reference(name: str) -> None:
    model = family(name) if name != "qwen3" else qwen3()

    ours, theirs = verdicts(model)

    assert (ours.verdict, theirs.verdict) == ("passed", "passed"), theirs.why
    assert theirs.positions == 96


def qwen3() -> Model:
    like = family("qwen2")
    return msgspec.structs.replace(
        like, name="tiny-qwen3", model_type="qwen3", config={**like.config, "head_dim": 16}
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_are_as_close_as_in_transformers(dtype: str) -> None:
    _, theirs = verdicts(family("llama"), dtype)

    assert theirs.verdict == "passed", theirs.why


def test_a_quantised_type_is_set_beside_the_reference() -> None:
    model = family("llama", **WIDE)
    (_, eight), (_, four) = (verdicts(model, quantization=scheme) for scheme in ("q8_0", "q4_0"))

    assert (eight.verdict, four.verdict) == ("quantised", "quantised")
    assert eight.error_nats is not None
    assert four.error_nats is not None
    assert 0 < eight.error_nats < four.error_nats


def test_random_weights_are_those_of_transformers() -> None:
    tokens = {}
    for backend in ("transformers", "llamacpp"):
        asked = job(family("llama"), backend=backend)
        tokens[backend] = loaded(asked).generate(prompts(asked), 8)

    assert tokens["llamacpp"] == tokens["transformers"]


def test_a_batch_gives_what_its_sequences_give_alone() -> None:
    batch, alone = wanted(batch_size=3), wanted(batch_size=1)
    together = loaded(batch).generate(prompts(batch), 8)
    engine = loaded(alone)

    assert together == [engine.generate([prompt], 8)[0] for prompt in prompts(batch)]


@pytest.mark.parametrize("calls", [{}, {"n_batch": 7, "n_ubatch": 5}])
def test_prompts_of_different_lengths_give_what_they_give_alone(calls: dict[str, Any]) -> None:
    batch, alone = mixed(wanted(**calls), 5, 17, 1, 9), wanted(batch_size=1, input_len=17)
    engine, single = loaded(batch), loaded(alone)

    together = engine.generate(prompts(batch), 8)

    assert together == [single.generate([prompt], 8)[0] for prompt in prompts(batch)]
    assert engine.counters() == {"not_computed_hits": 0}  # and none of padding


def test_a_batch_of_different_lengths_passes_every_check() -> None:
    asked = mixed(wanted(), 5, 17, 1, 9)

    (status, problems, _), outcome = measured(asked, loaded(asked))

    assert (status, problems) == (Status.OK, [])
    assert outcome.memory.kv_cache_theoretical_bytes == 4 * 2 * 2 * 32 * sum((12, 24, 8, 16))


def test_prompts_that_take_several_calls_give_the_same() -> None:
    whole, parts = wanted(batch_size=3), wanted(batch_size=3, n_batch=7, n_ubatch=5)
    engine = loaded(parts)

    assert engine.generate(prompts(parts), 8) == loaded(whole).generate(prompts(whole), 8)
    assert (engine.facts["n_batch"], engine.counters()["not_computed_hits"]) == (7, 0)


def measured(asked: Job, engine: Any) -> Any:
    cell = asked.cells[0]
    taken = Measurement(cell)
    workload = measure_prompts.synthetic(cell, engine, 0, 0)
    Loop(engine, QUICK, workload, taken, NoCounters(), lambda *_: None).run()
    outcome = taken.outcome(engine=dict(engine.facts), load_s=1.0, cell_s=1.0)
    return checks.check_outcome(cell, outcome, Ceilings()), outcome


@pytest.mark.parametrize(
    "shape",
    [
        {}, {"batch_size": 1}, {"batch_size": 1, "input_len": 1}, {"batch_size": 1, "output_len": 1},
        {"batch_size": 4, "input_len": 1, "output_len": 1}, {"batch_size": 1, "input_len": 1, "output_len": 1},
    ],
)  # fmt: skip
def test_a_cell_is_measured_and_passes_every_check(shape: dict[str, Any]) -> None:
    asked = wanted(**shape)

    (status, problems, _), outcome = measured(asked, loaded(asked))

    assert (status, problems) == (Status.OK, [])
    cell = asked.cells[0]
    assert outcome.returned == {str(cell.output_len): 2 * cell.batch_size}
    assert outcome.counters == {"not_computed_hits": 0}


def test_a_token_that_was_not_computed_makes_the_record_invalid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = wanted()
    engine = loaded(asked)
    decode, calls = library.Context._decode, iter(range(1000))
    monkeypatch.setattr(
        library.Context,
        "_decode",
        # the last step of each call
        lambda self, batch: next(calls) % 8 == 7 or decode(self, batch),
    )

    (status, problems, _), _ = measured(asked, engine)

    assert status is Status.INVALID
    assert [problem.code for problem in problems] == ["prefix_hit"]


def test_its_memory_is_what_the_library_says() -> None:
    asked = wanted(batch_size=2)
    engine = loaded(asked)

    memory = engine.memory(prompts(asked), 8)

    # Rooms of 256 tokens for 2 sequences; 2 layers x (keys and values) x 32 numbers x 4 bytes a token.
    assert memory.kv_cache_bytes == pytest.approx(
        2 * 256 * 512, rel=0.05
    )  # said in hundredths of a MiB
    assert memory.kv_cache_theoretical_bytes == 2 * (12 + 8 - 1) * 512
    assert memory.weights_bytes == engine.facts["weights_bytes"] == 4 * engine.facts["parameters"]
    assert memory.host_peak_rss_bytes > memory.weights_bytes


def test_quantised_weights_are_counted_in_the_bytes_that_are_held() -> None:
    plain, four = (
        loaded(wanted(family("llama", **WIDE), quantization=scheme)) for scheme in ("none", "q4_0")
    )

    assert four.facts["quantization"] == "q4_0"
    assert four.facts["parameters"] == plain.facts["parameters"]
    assert four.facts["weights_bytes"] < 0.3 * plain.facts["weights_bytes"]
    assert "Q4_0" in four.facts["tensor_types"]


def test_a_file_is_made_once_and_again_when_the_weights_change(tmp_path: Path) -> None:
    reference.save(job(family("llama")), str(tmp_path), disturbed=False)
    asked = at(wanted(load_format="safetensors"), tmp_path)

    first, second = (backends.load(asked).facts.get("gguf_made_s") for _ in range(2))
    reference.save(job(family("llama")), str(tmp_path), disturbed=True)
    third = backends.load(asked).facts.get("gguf_made_s")

    assert first is not None
    assert second is None
    assert third is not None


def test_the_file_that_is_made_can_be_a_model_itself() -> None:
    made = model_file.of(wanted(), "none").path
    asked = job(made, backend="llamacpp", load_format="safetensors")

    assert loaded(asked).generate(prompts(asked), 8) == loaded(wanted()).generate(
        prompts(wanted()), 8
    )
    assert gguf.read(made).type_of_weights() == "F32"


def test_files_beyond_the_limit_are_removed_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = model_file.of(wanted(dtype="float32"), "none").path
    monkeypatch.setattr("llmbench.backends.llamacpp.model_file.MOST_KEPT_BYTES", 0)

    second = model_file.of(wanted(dtype="float16"), "none").path

    assert not first.exists()
    assert second.exists()


@pytest.mark.parametrize(
    ("model", "options", "line"),
    [
        (family("gpt2"), {}, "gpt2 is not among the families written as GGUF here"),
        (
            family("llama", rope_scaling={"rope_type": "linear", "factor": 2.0}),
            {},
            "rotary positions of type linear",
        ),
        (family("llama"), {"device": "cuda"}, "computes on the CPU alone, not on cuda"),
        (
            family("mistral", sliding_window=16),
            {},
            "ignores the sliding window of tiny-mistral: 16 tokens, and 20",
        ),
    ],
)
def test_what_it_does_not_run_is_refused_in_one_line(
    model: Model, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(Unsupported, match=line) as refused:
        loaded(wanted(model, **options))

    assert "\n" not in str(refused.value)


def test_another_dtype_than_the_file_has_is_refused() -> None:
    made = model_file.of(wanted(), "none").path

    with pytest.raises(Unsupported, match="holds float32, not float16; ask for dtype: float32"):
        loaded(job(made, backend="llamacpp", dtype="float16", load_format="safetensors"))


def test_weights_that_are_missing_are_one_line(tmp_path: Path) -> None:
    reference.save(job(family("llama")), str(tmp_path), disturbed=False)
    (tmp_path / "model.safetensors").unlink()

    with pytest.raises(LoadFailed) as refused:
        loaded(at(wanted(load_format="safetensors"), tmp_path))

    assert "\n" not in str(refused.value)


def test_text_needs_a_tokenizer() -> None:
    with pytest.raises(LoadFailed, match=r"tiny-llama has no tokenizer\.json"):
        loaded(wanted()).tokenize("a text")


def test_what_a_killed_worker_left_is_removed() -> None:
    folder = model_file.folder()
    folder.mkdir(parents=True)
    left = folder / "tiny-none-0.999999999.unfinished.plain"
    left.touch()

    model_file.of(wanted(), "none")

    assert not left.exists()
