"""Encoder-decoders in the transformers backend: a decoder's tokens, exact in number, and both caches counted."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import VOCABULARY, job, knowing, prompts
from lazily import safetensors, torch
from llmbench import backends
from llmbench.errors import Unsupported
from llmbench.models import formulas, resolve
from llmbench.models.by_row import counts_of
from llmbench.models.resolve import Model
from llmbench.run import plan
from llmbench.spec.sweep import Axes, Sweep
from test_backend_transformers import loaded, other, outspoken

T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "max_position_embeddings": 64, "decoder_start_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {"t5": T5, "mt5": T5, "bart": BART}
"""Two layers each, four heads of eight."""

every_family = pytest.mark.parametrize("model_type", FAMILIES)
both_loops = pytest.mark.parametrize("loop", ["forward", "generate"])


def family(model_type: str, **changes: Any) -> Model:
    """Return a tiny encoder-decoder of a family."""
    config = {"vocab_size": VOCABULARY, **FAMILIES[model_type], **changes}
    found: Model = other(model_type, config)
    return found


def recomputed(built: Any, ids: list[list[int]], output_len: int) -> list[list[int]]:
    """Return greedy tokens without any cache: encoder and decoder whole again at every step."""
    answers = torch.full((len(ids), 1), built.config.decoder_start_token_id)
    with torch.no_grad():
        for _ in range(output_len):
            logits = built(
                input_ids=torch.tensor(ids), decoder_input_ids=answers, use_cache=False
            ).logits[:, -1]
            answers = torch.cat([answers, logits.argmax(-1, keepdim=True)], dim=1)
    new: list[list[int]] = answers[:, 1:].tolist()
    return new


@every_family
@both_loops
def test_tokens_are_those_of_a_model_without_a_cache(model_type: str, loop: str) -> None:
    wanted = job(family(model_type), loop=loop)
    engine = outspoken(loaded(wanted))

    first = engine.generate(prompts(wanted), 8)
    again = engine.generate(prompts(wanted), 8)

    assert first == recomputed(engine._model, prompts(wanted), 8)
    assert again == first
    assert len({tuple(row) for row in first}) == 2, "two prompts, two answers"


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@every_family
@both_loops
def test_tokens_on_a_gpu_are_those_of_a_cpu(model_type: str, loop: str) -> None:
    here, there = job(family(model_type)), job(family(model_type), device="cuda", loop=loop)

    tokens = outspoken(loaded(there)).generate(prompts(there), 8)

    assert tokens == outspoken(loaded(here)).generate(prompts(here), 8)


@every_family
@both_loops
def test_both_caches_are_counted(model_type: str, loop: str) -> None:
    wanted = job(knowing(family(model_type)), loop=loop)
    engine = loaded(wanted)

    memory = engine.memory(prompts(wanted), 8)

    # 2 sequences × keys and values × 2 layers × 4 heads × 8 numbers × 4 bytes, of 12 prompt tokens and of
    # the start token with 7 new ones
    assert memory.kv_cache_bytes == 2 * 2 * 2 * 4 * 8 * 4 * (12 + 8)
    assert memory.kv_cache_theoretical_bytes == memory.kv_cache_bytes


@both_loops
@pytest.mark.parametrize("depth", [1, 3])
def test_a_decoder_may_be_as_deep_as_it_likes(depth: int, loop: str) -> None:
    wanted = job(knowing(family("t5", num_decoder_layers=depth)), loop=loop)
    engine = outspoken(loaded(wanted))

    tokens = engine.generate(prompts(wanted), 8)
    memory = engine.memory(prompts(wanted), 8)

    assert tokens == recomputed(engine._model, prompts(wanted), 8)
    assert memory.kv_cache_bytes == 2 * 2 * depth * 4 * 8 * 4 * (12 + 8)
    assert memory.kv_cache_theoretical_bytes == memory.kv_cache_bytes


def silent(engine: Any) -> Any:
    """Return the engine with embeddings of zeros: all logits are equal, and the first, id 0, is taken."""
    with torch.no_grad():
        engine._model.shared.weight.zero_()
    return engine


@both_loops
@pytest.mark.parametrize("output_len", [1, 8])
def test_a_model_that_wants_to_stop_is_not_let(loop: str, output_len: int) -> None:
    wanted = job(family("t5", eos_token_id=0), loop=loop, output_len=output_len)
    engine = silent(loaded(wanted))

    tokens = engine.generate(prompts(wanted), output_len)

    assert tokens == [[0] * output_len] * 2, "the end of sequence, as often as asked"
    assert len(engine.token_ns()[0]) == output_len


def test_generate_of_its_own_would_have_let_it() -> None:
    wanted = job(family("t5", eos_token_id=0))
    built = silent(loaded(wanted))._model

    tokens = built.generate(torch.tensor(prompts(wanted)), max_new_tokens=8, do_sample=False)

    assert tokens.shape[1] - 1 == 1, "one token of eight, after the start token"


class Slow:
    """A call that takes a while longer, and is counted."""

    def __init__(self, call: Callable[..., Any], takes_s: float) -> None:
        self.call, self.takes_s, self.calls = call, takes_s, 0

    def __call__(self, **inputs: Any) -> Any:
        self.calls += 1
        time.sleep(self.takes_s)
        return self.call(**inputs)


def test_the_first_token_has_come_after_the_encoder_and_one_step() -> None:
    wanted = job(family("t5"), output_len=6)
    engine = loaded(wanted)
    encoder, step = Slow(engine._loop._encoder, 0.04), Slow(engine._loop._model, 0.02)
    engine._loop._encoder, engine._loop._model = encoder, step

    engine.generate(prompts(wanted), 6)

    first, *others = engine.token_ns()[0]
    assert (encoder.calls, step.calls) == (1, 6)
    assert first >= 60e6
    assert all(
        after - before >= 20e6 for before, after in zip([first, *others], others, strict=False)
    )


@pytest.mark.parametrize("name", ["flan-t5-base", "flan-t5-xl", "flan-t5-xxl"])
def test_facts_are_what_was_loaded(name: str) -> None:
    engine = loaded(job(f"{name}@tiny", dtype="bfloat16"))
    found = resolve.resolve(f"{name}@tiny")
    shape = counts_of(found.model_type, found.config)
    assert shape is not None

    facts = engine.facts

    assert facts["parameters"] == shape.parameters
    assert facts["weights_bytes"] == formulas.weight_bytes(shape, "bfloat16")
    assert (facts["param_devices"], facts["param_dtypes"]) == ("cpu", "bfloat16")
    assert facts["attn_implementation"] == "sdpa"
    assert facts["model_class"] == "T5ForConditionalGeneration"
    assert engine.special_ids >= {0, 1}
    assert not engine._model.training


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cache": "static"}, "t5 cannot use a static cache: .* cache=dynamic works"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation=eager or sdpa"),
    ],
)
def test_what_it_cannot_do_is_refused_with_what_works(options: dict[str, Any], says: str) -> None:
    with pytest.raises(Unsupported, match=says):
        backends.load(job(family("t5"), **options))


@both_loops
def test_without_a_start_token_no_answer_can_begin(loop: str) -> None:
    config = {**FAMILIES["t5"], "vocab_size": VOCABULARY}
    del config["decoder_start_token_id"]

    with pytest.raises(Unsupported, match="has no decoder_start_token_id"):
        backends.load(job(other("t5", config), loop=loop))


def test_offloaded_weights_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmbench.backends.transformers._refuse_impossible", lambda *_: None)
    plain, wanted = job(family("t5")), job(family("t5"), device_map="cpu_offload")

    engine = loaded(wanted)

    assert engine.generate(prompts(wanted), 8) == loaded(plain).generate(prompts(plain), 8)
    assert engine.facts["param_devices"] == "cpu"
    assert engine.facts["offloaded_parameters"] == engine.facts["parameters"]


def saved(folder: Path, **tensors: Any) -> Path:
    """Save a tiny T5, with some tensors of its own, as a hub would hold it."""
    outspoken(loaded(job(family("t5"))))._model.save_pretrained(folder)
    file, settings = folder / "model.safetensors", folder / "config.json"
    safetensors.save_file(
        {**safetensors.load_file(file), **tensors}, file, metadata={"format": "pt"}
    )
    config = {**json.loads(settings.read_text()), "tie_word_embeddings": False, "n_positions": 16}
    settings.write_text(json.dumps(config))
    return folder


def test_what_loads_is_what_was_saved(tmp_path: Path) -> None:
    wanted = job(saved(tmp_path), load_format="safetensors")

    engine = loaded(wanted)

    tokens = outspoken(loaded(job(family("t5")))).generate(prompts(wanted), 8)
    assert engine.generate(prompts(wanted), 8) == tokens
    assert engine._model.lm_head.weight is engine._model.shared.weight


def test_a_checkpoints_own_head_stays_its_own(tmp_path: Path) -> None:
    head = torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(0))
    folder = saved(tmp_path, **{"lm_head.weight": head})

    engine = loaded(job(folder, load_format="safetensors"))

    tied = loaded(job(folder)).facts["parameters"]
    assert torch.equal(engine._model.lm_head.weight, head)
    assert engine.facts["parameters"] == tied + VOCABULARY * 32


def test_half_precision_keeps_a_part_in_full(tmp_path: Path) -> None:
    folder = saved(tmp_path)

    engine = loaded(job(folder, load_format="safetensors", dtype="float16"))

    # 2 + 2 layers of 32 x 64 numbers
    assert engine.facts["param_dtypes"] == "float16", "all that could be chosen"
    assert engine.facts["kept_float32_parameters"] == 4 * 32 * 64


def planned(folder: Path, *, input_len: int, output_len: int) -> int:
    """Return how many cells of a sweep can run."""
    axes = Axes(
        model=str(folder), backend="fake", device="cpu", input_len=[1, input_len], output_len=output_len
    )  # fmt: skip
    made = plan.plan(Sweep(name="x", why="y", axes=axes))
    return len(made.cells) - len(made.refused)


def written(folder: Path, config: dict[str, Any]) -> Path:
    """Write a configuration as a hub would hold it."""
    whole = {"is_encoder_decoder": True, "vocab_size": VOCABULARY, **config}
    (folder / "config.json").write_text(json.dumps(whole))
    return folder


def test_relative_positions_set_no_limit(tmp_path: Path) -> None:
    folder = written(tmp_path, {"model_type": "t5", "n_positions": 512, **T5})

    assert resolve.resolve(str(folder)).max_positions is None
    assert planned(folder, input_len=2048, output_len=512) == 2


def test_an_encoder_and_its_decoder_count_their_positions_apart(tmp_path: Path) -> None:
    folder = written(tmp_path, {"model_type": "bart", **BART})

    assert planned(folder, input_len=64, output_len=64) == 2
    assert planned(folder, input_len=65, output_len=64) == 1


def test_a_speech_model_is_refused() -> None:
    whisper = other("whisper", {"d_model": 32})

    with pytest.raises(Unsupported, match="no text-generating model of the family whisper"):
        backends.load(job(whisper))
