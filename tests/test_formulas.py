"""What the formulas say is what is built: parameters, tensors of a cache, and multiplications counted."""

from functools import cache
from typing import Any

import pytest

from jobs import job
from lazily import Lazy, torch, transformers
from llmbench import backends
from llmbench.models import formulas, resolve
from llmbench.models.by_row import counts_of
from llmbench.models.counts import Counts
from llmbench.models.shape import FAMILIES

CATALOGUE = resolve.catalogue()
ROWED = [name for name in CATALOGUE if resolve.counts_of(resolve.resolve(name)) is not None]
BUILT = [name for name in ROWED if resolve.entry(name).engines.transformers]
"""Entries whose family has a row; the others say their counts themselves (`test_asked_models`)."""
loops: Any = Lazy("llmbench.backends.transformers.loops")
backends_config: Any = Lazy("llmbench.backends.config")
memory: Any = Lazy("llmbench.backends.memory")
random_weights: Any = Lazy("llmbench.backends.random_weights")
flop_counter: Any = Lazy("torch.utils.flop_counter")
initialization: Any = Lazy("transformers.initialization")

ONE_OF_EACH_KIND = (
    "bloom-7b1", "cerebras-gpt-6.7b", "falcon-7b", "falcon-40b", "gpt-j-6b", "llama-7b", "llama-3-70b",
    "mistral-7b-v0.1", "mixtral-8x7b-v0.1", "mpt-7b", "opt-6.7b", "pythia-6.9b", "qwen2.5-7b", "qwen3-8b",
    "redpajama-incite-7b",
)  # fmt: skip
"""Every family with a decoder only, multi-query and grouped, sliding and with experts."""
BATCH, PROMPT = 2, 21
"""The prompt is longer than a tiny model's window."""


def shaped(name: str) -> Counts:
    found = resolve.resolve(name)
    shape = counts_of(found.model_type, found.config)
    assert shape is not None
    return shape


def built(name: str, device: str, **options: Any) -> Any:
    """Return the model as the backend builds it, without weights."""
    found = resolve.resolve(name)
    config = backends_config.configuration(job(found), "")
    auto = (
        transformers.AutoModelForSeq2SeqLM
        if config.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    with torch.device(device), initialization.no_init_weights():
        made = auto.from_config(config, **options)
    made.tie_weights()
    return made.eval()


@cache
def running(name: str) -> Any:
    """Return a tiny model with weights; attention and experts are eager, which multiply where torch counts."""
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    made = built(f"{name}@tiny", "cpu", **eager)
    random_weights.fill(made.named_parameters(), seed=0)
    return made


def counted(call: Any) -> tuple[Any, int]:
    """Return what a call returns, and the operations of the matrix products in it."""
    with flop_counter.FlopCounterMode(display=False) as counter, torch.inference_mode():
        result = call()
    return result, counter.get_total_flops()


@pytest.mark.parametrize("small", ["", "@tiny"], ids=["full", "tiny"])
@pytest.mark.parametrize("name", BUILT)
def test_parameters_are_those_of_the_built_model(name: str, small: str) -> None:
    made = built(name + small, "meta")

    assert shaped(name + small).parameters == sum(p.numel() for p in made.parameters())


def test_parameters_of_a_model_without_a_class_are_those_that_its_authors_published() -> None:
    others = {name: resolve.entry(name) for name in ROWED if name not in BUILT}

    assert set(others) == {"baichuan-13b"}
    # 2 x 64,000 x 5,120 + 40 x (4 x 5,120^2 + 3 x 5,120 x 13,696 + 2 x 5,120) + 5,120
    assert shaped("baichuan-13b").parameters == 13_264_901_120
    assert others["baichuan-13b"].published_parameters == 13_264_901_120


def test_every_family_is_in_the_catalogue() -> None:
    assert {resolve.entry(name).model_type for name in ROWED} == set(FAMILIES)


def test_what_the_catalogue_leaves_out_is_counted_too() -> None:
    changes: dict[str, dict[str, Any]] = {
        "opt": {"word_embed_proj_dim": 32, "enable_bias": True, "do_layer_norm_before": False},
        "falcon": {"bias": True, "parallel_attn": False},
        "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        "gpt_neox": {"attention_bias": False, "tie_word_embeddings": True},
        "qwen3": {"attention_bias": True},
        "gpt2": {"n_inner": 96, "tie_word_embeddings": False},
    }
    names = {"opt": "opt-6.7b", "falcon": "falcon-7b", "llama": "llama-7b", "gpt_neox": "pythia-70m",
             "qwen3": "qwen3-8b", "gpt2": "gpt2"}  # fmt: skip

    for family, change in changes.items():
        config = {**resolve.resolve(f"{names[family]}@tiny").config, **change}
        with torch.device("meta"):
            made = transformers.AutoModelForCausalLM.from_config(
                transformers.CONFIG_MAPPING[family].from_dict(config)
            )
        made.tie_weights()

        shape = counts_of(family, config)

        assert shape is not None
        assert shape.parameters == sum(p.numel() for p in made.parameters()), family


def test_a_token_passes_two_of_eight_experts() -> None:
    mixtral, llama = shaped("mixtral-8x7b-v0.1"), shaped("llama-7b")

    assert mixtral.active_parameters == 12_879_925_248
    assert llama.active_parameters == llama.parameters == 6_738_415_616


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weight_bytes_are_those_of_the_parameters(dtype: str) -> None:
    made = built("llama-7b@tiny", "meta", dtype=getattr(torch, dtype))

    held = sum(p.nbytes for p in made.parameters())

    assert formulas.weight_bytes(shaped("llama-7b@tiny"), dtype) == held


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_t5_keeps_in_float32_is_counted_so(dtype: str) -> None:
    wanted = job("flan-t5-base@tiny", dtype=dtype)

    engine: Any = backends.load(wanted)

    wide = {name for name, p in engine._model.named_parameters() if p.itemsize == 4}
    kept = {name for name in wide if ".wo." in name}
    assert (wide == kept) == (dtype != "float32")
    assert bool(kept) == (dtype != "bfloat16")
    assert engine.facts["weights_bytes"] == formulas.weight_bytes(
        shaped("flan-t5-base@tiny"), dtype
    )
    assert engine.facts["param_dtypes"] == dtype


QWEN = resolve.resolve("qwen2.5-7b@tiny").config
LAYERS = ["full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"use_sliding_window": False, "sliding_window": 16}, (None, 0)),
        ({"use_sliding_window": False, "sliding_window": 16, "layer_types": LAYERS}, (None, 0)),
        ({"use_sliding_window": True, "sliding_window": None, "layer_types": LAYERS}, (None, 0)),
        ({"use_sliding_window": True, "sliding_window": 16, "layer_types": LAYERS}, (16, 1)),
        (
            {"use_sliding_window": True, "sliding_window": 16, "layer_types": LAYERS[1:] * 2},
            (16, 2),
        ),
        ({"sliding_window": 16}, (None, 0)),
    ],
)
def test_qwens_window_counts_only_where_its_switch_is_on(
    changes: dict[str, Any], expected: tuple[int | None, int]
) -> None:
    bare = {
        key: value
        for key, value in QWEN.items()
        if key not in {"use_sliding_window", "layer_types"}
    }

    shape = counts_of("qwen2", {**bare, **changes})

    assert shape is not None
    sliding = sum(each.layers for each in shape.cached if each.limit)
    assert (shape.window, sliding) == expected


@pytest.mark.parametrize("switch", [True, False])
def test_a_cache_of_qwen_holds_what_its_switch_says(switch: bool) -> None:
    config = {**QWEN, "use_sliding_window": switch, "sliding_window": 16}
    config["layer_types"] = ["sliding_attention" if switch else "full_attention"] * 2
    made = transformers.AutoModelForCausalLM.from_config(
        transformers.CONFIG_MAPPING["qwen2"].from_dict(config)
    )
    ids = torch.arange(BATCH * PROMPT).view(BATCH, PROMPT)
    shape = counts_of("qwen2", config)

    with torch.inference_mode():
        past = made(input_ids=ids, use_cache=True)[loops.word_for_cache(made)]
        past = made(input_ids=ids[:, :1], **{loops.word_for_cache(made): past}, use_cache=True)[
            loops.word_for_cache(made)
        ]

    assert shape is not None
    held = memory.cache_bytes(past)
    assert held == BATCH * formulas.held_kv_bytes(shape, "float32", PROMPT + 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-7b", 524_288),  # 2 x 32 layers x 32 heads x 128 x 2 bytes
        ("llama-2-70b", 327_680),  # 2 x 80 x 8 x 128 x 2
        ("falcon-7b", 8_192),  # 2 x 32 x 1 x 64 x 2
        ("falcon-40b", 122_880),  # 2 x 60 x 8 x 64 x 2
        ("flan-t5-xl", 196_608),  # 2 x 24 x 32 x 64 x 2
        ("qwen2.5-7b", 57_344),  # 2 x 28 x 4 x 128 x 2
    ],
)
def test_a_token_takes_its_keys_and_values(name: str, expected: int) -> None:
    assert formulas.kv_bytes_per_token(shaped(name), "bfloat16") == expected


def test_a_full_window_grows_no_more() -> None:
    shape = shaped("mistral-7b-v0.1")
    per_token = formulas.kv_bytes_per_token(shape, "bfloat16")

    assert formulas.kv_bytes(shape, "bfloat16", 100) == 100 * per_token
    assert formulas.kv_bytes(shape, "bfloat16", 5000) == 4096 * per_token
    assert formulas.decode_flops(shape, 4095) == formulas.decode_flops(shape, 9000)
    assert formulas.decode_flops(shape, 4094) < formulas.decode_flops(shape, 4095)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_cache_holds_what_the_formula_says(name: str) -> None:
    ids = torch.arange(BATCH * PROMPT).view(BATCH, PROMPT)
    made = running(name)

    with torch.inference_mode():
        past = made(input_ids=ids, use_cache=True)[loops.word_for_cache(made)]
        past = made(input_ids=ids[:, :1], **{loops.word_for_cache(made): past}, use_cache=True)[
            loops.word_for_cache(made)
        ]

    held = formulas.held_kv_bytes(shaped(f"{name}@tiny"), "float32", PROMPT + 1)
    assert memory.cache_bytes(past) == BATCH * held


def test_a_decoder_keeps_its_encoders_tokens_once() -> None:
    ids = torch.arange(BATCH * PROMPT).view(BATCH, PROMPT)
    shape = shaped("flan-t5-xl@tiny")
    per_token = formulas.kv_bytes_per_token(shape, "float32")

    with torch.inference_mode():
        made = running("flan-t5-xl")
        output = made(input_ids=ids, decoder_input_ids=ids[:, :3], use_cache=True)
        past = output[loops.word_for_cache(made)]

    assert memory.cache_bytes(past.self_attention_cache) == BATCH * 3 * per_token
    assert memory.cache_bytes(past.cross_attention_cache) == BATCH * PROMPT * per_token
    assert formulas.held_kv_bytes(shape, "float32", 3, PROMPT) == (3 + PROMPT) * per_token


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    shape, made = shaped(f"{name}@tiny"), running(name)
    ids = torch.arange(BATCH * PROMPT).view(BATCH, PROMPT)

    output, prefill = counted(lambda: made(input_ids=ids, use_cache=True, logits_to_keep=1))
    _, step = counted(
        lambda: made(
            input_ids=ids[:, :1],
            **{loops.word_for_cache(made): output[loops.word_for_cache(made)]},
            use_cache=True,
        )
    )

    assert prefill == BATCH * formulas.prefill_flops(shape, PROMPT, square=True)
    assert step == BATCH * formulas.decode_flops(shape, PROMPT)


def test_operations_of_an_encoder_decoder_are_those_that_torch_counts() -> None:
    shape, made = shaped("flan-t5-xl@tiny"), running("flan-t5-xl")
    ids = torch.arange(BATCH * PROMPT).view(BATCH, PROMPT)
    start = ids[:, :1]

    output, prefill = counted(lambda: made(input_ids=ids, decoder_input_ids=start, use_cache=True))
    _, step = counted(
        lambda: made(
            encoder_outputs=(output.encoder_last_hidden_state,),
            decoder_input_ids=start,
            **{loops.word_for_cache(made): output[loops.word_for_cache(made)]},
            use_cache=True,
        )
    )

    assert prefill == BATCH * formulas.prefill_flops(shape, PROMPT)
    assert step == BATCH * formulas.decode_flops(shape, 1, PROMPT)


def test_causal_attention_needs_half_a_square() -> None:
    shape = shaped("llama-7b")

    causal = formulas.prefill_flops(shape, 2048)
    square = formulas.prefill_flops(shape, 2048, square=True)

    # 4 x 32 layers x 4,096 x (2048^2 - 2048 x 2049 / 2) operations apart
    assert square - causal == 4 * 32 * 4096 * (2048 * 2047 // 2)


def test_a_prompt_is_as_many_steps() -> None:
    shape = shaped("mistral-7b-v0.1@tiny")
    head = 2 * shape.vocabulary * shape.hidden

    steps = sum(formulas.decode_flops(shape, past) for past in range(PROMPT))

    assert steps == formulas.prefill_flops(shape, PROMPT) + (PROMPT - 1) * head


@pytest.mark.parametrize(
    ("name", "unread"),
    [
        ("llama-7b", 32_000 * 4096),  # the embedding is looked up
        ("gpt2", 1024 * 768),  # tied: the embedding is the head; positions are looked up
        ("mpt-7b", 0),
    ],
)
def test_a_step_reads_all_weights_but_the_tables(name: str, unread: int) -> None:
    shape = shaped(name)

    assert formulas.step_weight_bytes(shape, "bfloat16") == 2 * (shape.parameters - unread)


def test_a_step_of_an_encoder_decoder_reads_the_decoder() -> None:
    shape, made = shaped("flan-t5-xl@tiny"), running("flan-t5-xl")
    kept = [
        p
        for name, p in made.decoder.named_parameters()
        if not name.startswith("embed") and "EncDecAttention.k" not in name
        and "EncDecAttention.v" not in name
    ]  # fmt: skip
    head = shape.vocabulary * shape.hidden

    floor = formulas.step_weight_bytes(shape, "float32")

    assert floor == 4 * (head + sum(p.numel() for p in kept))


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("unheard-of", {"hidden_size": 64}),
        (None, {}),
        ("llama", {"hidden_size": 64}),
        ("llama", {**resolve.resolve("llama-7b").config, "quantization_config": {"bits": 4}}),
        ("t5", {**resolve.resolve("flan-t5-xl").config, "feed_forward_proj": "relu"}),
    ],
)
def test_what_is_not_known_has_no_shape(model_type: str | None, config: dict[str, Any]) -> None:
    assert counts_of(model_type, config) is None


def test_t5s_head_is_tied_whatever_its_configuration_says() -> None:
    made = built("flan-t5-base@tiny", "meta")

    assert resolve.resolve("flan-t5-base@tiny").config["tie_word_embeddings"] is False
    assert made.lm_head.weight is made.shared.weight


def test_falcons_old_names_are_passed_over_in_silence() -> None:
    old = {"n_layer": 3, "n_head": 5, "hidden_size": 80}

    config = transformers.CONFIG_MAPPING["falcon"].from_dict(old)

    assert (config.num_hidden_layers, config.num_attention_heads) == (32, 71)
