"""What models say of themselves, built without weights: as the real ones are built and hold, for forty families."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from jobs import job, knowing, prompts
from lazily import Lazy, torch, transformers
from llmbench import backends
from llmbench.measure import ask
from llmbench.models import by_row, formulas, resolve
from llmbench.models.counts import ModelAnswer
from llmbench.models.resolve import Model
from llmbench.predict import memory

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.models.counts import Counts

loops: Any = Lazy("llmbench.backends.transformers.loops")
backends_config: Any = Lazy("llmbench.backends.config")
flop_counter: Any = Lazy("torch.utils.flop_counter")
meta_model: Any = Lazy("llmbench.backends.meta_model")

S: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 128, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
MHA = {**S, "num_key_value_heads": 4}
MAMBA = {
    "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_n_groups": 1, "mamba_chunk_size": 8,
}  # fmt: skip
WINDOWS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
}  # fmt: skip
SEQ2SEQ = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "vocab_size": 128,
    "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": S,
    "arcee": S,
    "bamba": {**S, **MAMBA, "attn_layer_indices": [1], "num_hidden_layers": 2},
    "bart": SEQ2SEQ,
    "codegen": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": 128, "rotary_dim": 8},
    "cohere": S,
    "cohere2": {**S, **WINDOWS},
    "cwm": {**S, **WINDOWS},
    "doge": S,
    "ernie4_5": {**S, "head_dim": 16},
    "exaone4": {**S, **WINDOWS},
    "falcon_h1": {**S, **MAMBA, "mamba_d_ssm": 128, "head_dim": 16},
    "flex_olmo": {**S, "num_experts": 4, "num_experts_per_tok": 2},
    "gemma": {**S, "head_dim": 16},
    "gemma3n_text": {
        **S, "num_hidden_layers": 6, "head_dim": 16, "intermediate_size": [96] * 6, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 3, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
        "activation_sparsity_pattern": [0.9] * 3 + [0.0] * 3,
    },
    "glm": {**S, "head_dim": 16},
    "glm4": {**S, "head_dim": 16},
    "gpt_neo": {
        "hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "window_size": 8, "max_position_embeddings": 256, "vocab_size": 128, "intermediate_size": 96,
    },
    "granite": S,
    "granitemoe": {**S, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoehybrid": {
        **S, **MAMBA, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 48,
        "layer_types": ["mamba", "attention"],
    },
    "helium": {**S, "head_dim": 16},
    "hunyuan_v1_dense": {**S, "head_dim": 16},
    "jamba": {
        **S, "num_hidden_layers": 4, "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 4,
        "attn_layer_offset": 2, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8,
        "mamba_dt_rank": 8, "use_mamba_kernels": False,
    },
    "lfm2": {**S, "layer_types": ["conv", "full_attention"], "block_ff_dim": 96},
    "llama4_text": {
        **S, "num_hidden_layers": 4, "head_dim": 16, "intermediate_size_mlp": 96, "num_local_experts": 4,
        "num_experts_per_tok": 1, "attention_chunk_size": 8, "no_rope_layers": [1, 1, 1, 0],
        "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
    },
    "m2m_100": SEQ2SEQ,
    "mbart": SEQ2SEQ,
    "ministral": {**S, "head_dim": 16, **WINDOWS},
    "nemotron": {**S, "head_dim": 16},
    "olmo": S,
    "olmoe": {**S, "num_experts": 4, "num_experts_per_tok": 2},
    "persimmon": MHA,
    "phi": S,
    "qwen2_moe": {**S, **MOE, "shared_expert_intermediate_size": 48},
    "qwen3_5_text": {**S, "num_hidden_layers": 4, "head_dim": 16, **LINEAR},
    "seed_oss": {**S, "head_dim": 16},
    "stablelm": S,
    "starcoder2": {**S, "sliding_window": None},
    "zamba2": {
        **MHA, "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8,
        "mamba_headdim": 16, "n_mamba_heads": 8, "mamba_ngroups": 1, "chunk_size": 8, "adapter_rank": 8,
        "num_mem_blocks": 1, "use_shared_attention_adapter": False, "hybrid_layer_ids": [1, 3],
    },
}  # fmt: skip
"""Small configurations after the structure of real ones, of families that are not in the catalogue or have no row."""

EVERY_TIME = (
    "bart", "cohere2", "falcon_h1", "gemma3n_text", "granitemoehybrid", "jamba", "lfm2", "llama4_text", "olmoe",
    "qwen3_5_text", "stablelm", "zamba2",
)  # fmt: skip
"""One of each kind of cache, attention and mixture; the others take a minute."""


def model(family: str, config: dict[str, Any]) -> Model:
    """Return a model of a family, as a folder's configuration gives it."""
    return Model(
        name=f"a-{family}", source="catalogue", location=None, model_type=family, config=config,
        vocab_size=128, max_positions=256, digest="0",
    )  # fmt: skip


def counts(family: str, config: dict[str, Any]) -> Counts:
    """Return what a model says of itself."""
    answer = meta_model.ask(model(family, config))
    assert answer.counts is not None, answer.why
    found: Counts = answer.counts
    return found


@pytest.mark.parametrize(
    "family",
    [pytest.param(each, marks=() if each in EVERY_TIME else pytest.mark.slow) for each in FAMILIES],
)
def test_a_model_has_the_parameters_and_holds_the_cache_that_it_says(family: str) -> None:
    wanted = job(knowing(model(family, FAMILIES[family])), input_len=20, dtype="bfloat16")
    said = wanted.model.counts
    assert said is not None

    engine: Any = backends.load(wanted)
    engine.prepare(wanted.cells[0])
    engine.generate(prompts(wanted), 8)
    memory = engine.memory(prompts(wanted), 8)

    assert said.parameters == engine.facts["parameters"]
    assert formulas.weight_bytes(said, "bfloat16") == memory.weights_bytes
    assert memory.kv_cache_bytes == memory.kv_cache_theoretical_bytes


# -- the figures of real ones ----------------------------------------------------------------------

NEMOTRON_56B = "M-M-M-M*" + 9 * "-M-M-M-M-M*" + "-M-M-M-M-"
LAYERS = {"M": "mamba", "-": "mlp", "*": "attention"}
FULL: dict[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    # 2 x 10 layers x 8 heads x 128 x 2 bytes
    "nemotron-h-56b": ("nemotron_h", {
        "hidden_size": 8192, "intermediate_size": 32768, "layers_block_type": [LAYERS[each] for each in NEMOTRON_56B],
        "num_hidden_layers": len(NEMOTRON_56B), "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
        "mamba_num_heads": 256, "mamba_head_dim": 64, "ssm_state_size": 256, "n_groups": 8, "conv_kernel": 4,
        "vocab_size": 131072, "mlp_hidden_act": "relu2",
    }, (40_960, 40_960, 0)),
    # 2 x 4 layers x 8 heads x 128 x 2 bytes, of 32
    "jamba-1.5-mini": ("jamba", {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "num_experts": 16, "num_experts_per_tok": 2, "attn_layer_period": 8,
        "attn_layer_offset": 4, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 16,
        "mamba_dt_rank": 256, "vocab_size": 65536, "use_mamba_kernels": False,
    }, (16_384, 16_384, 0)),
    # 2 x 16 of 20 layers that share no cache x 2 heads x 256 x 2 bytes and the same of 4; 10 more layers share theirs
    "gemma-3n-e2b": ("gemma3n_text", {
        "hidden_size": 2048, "num_hidden_layers": 30, "intermediate_size": [8192] * 30, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 256, "num_kv_shared_layers": 10, "sliding_window": 512,
        "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 6, "vocab_size": 262400,
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
    }, (40_960, 8_192, 512)),
    # 2 x 9 of 54 layers x 32 heads x 160 x 2 bytes
    "zamba2-2.7b": ("zamba2", {
        "hidden_size": 2560, "num_hidden_layers": 54, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 10240, "mamba_d_state": 64, "mamba_headdim": 64, "n_mamba_heads": 80,
        "mamba_ngroups": 1, "num_mem_blocks": 2, "vocab_size": 32000, "adapter_rank": 128,
        "hybrid_layer_ids": [6, 12, 18, 24, 30, 36, 42, 47, 51],
        "layers_block_type": ["hybrid" if n in (6, 12, 18, 24, 30, 36, 42, 47, 51) else "mamba" for n in range(54)],
    }, (184_320, 184_320, 0)),
}  # fmt: skip
"""Bytes of keys and values per token in bfloat16, the same beyond every window, and the window."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_the_cache_of_a_real_structure_is_known(name: str) -> None:
    family, config, (per_token, lasting, window) = FULL[name]

    said = counts(family, config)

    assert formulas.kv_bytes_per_token(said, "bfloat16") == per_token
    assert formulas.lasting_kv_bytes_per_token(said, "bfloat16") == lasting
    assert (said.window or 0) == window


CACHES = {
    "qwen3.5-27b": (65_536, 65_536),  # 2 x 16 layers of 64 x 4 heads x 256 x 2 bytes
    "nemotron-3-nano-30b-a3b": (6_144, 6_144),  # 2 x 6 of 52 x 2 x 128 x 2
    "granite-4.0-h-small": (16_384, 16_384),  # 2 x 4 of 40 x 8 x 128 x 2
    "llama-4-scout-17b-16e": (196_608, 49_152),  # 2 x 48 x 8 x 128 x 2; 12 of 48 see beyond a chunk
    "gpt-oss-20b": (49_152, 24_576),  # 2 x 24 x 8 x 64 x 2; half of them beyond a window
    "deepseek-v3": (70_272, 70_272),  # 61 x (512 + 64) x 2
    "gemma-3-1b": (26_624, 4_096),  # 2 x 26 x 1 x 256 x 2; 4 of 26 beyond a window
}
"""Bytes of keys and values per token, and of those that stay beyond every window and chunk, in bfloat16."""


@pytest.mark.slow  # small models of the same families are asked in every run
@pytest.mark.parametrize("name", CACHES)
def test_the_cache_of_an_entry_is_known(name: str) -> None:
    entry, (per_token, lasting) = resolve.entry(name), CACHES[name]

    said = counts(entry.model_type, entry.config)

    assert formulas.kv_bytes_per_token(said, "bfloat16") == per_token
    assert formulas.lasting_kv_bytes_per_token(said, "bfloat16") == lasting


@pytest.mark.parametrize(
    "family",
    [
        "cohere2",
        "falcon_h1",
        "glm4",
        "granitemoehybrid",
        "jamba",
        "lfm2",
        "olmoe",
        "qwen2_moe",
        "zamba2",
    ],
)
def test_operations_are_those_that_torch_counts(family: str) -> None:
    wanted = model(family, FAMILIES[family])
    said = counts(family, FAMILIES[family])
    config = backends_config.of_model(wanted, own=True)
    made = backends_config.builder(config).from_config(config, attn_implementation="eager").eval()
    if hasattr(made, "set_experts_implementation"):
        made.set_experts_implementation("batched_mm")
    cache = transformers.DynamicCache(config=made.config)
    counted = []

    for tokens in (7, 1):
        ids = torch.ones((1, tokens), dtype=torch.long)
        with flop_counter.FlopCounterMode(display=False) as counter, torch.inference_mode():
            made(
                input_ids=ids,
                **{loops.word_for_cache(made): cache},
                use_cache=True,
                logits_to_keep=1,
            )
        counted.append(counter.get_total_flops())

    prefill, step = counted
    assert step == formulas.decode_flops(said, 7)
    floor = formulas.prefill_flops(said, 7, square=True)
    recurrent = any(each.state_numbers or each.state_bytes for each in said.cached)
    assert floor <= prefill if recurrent else floor == prefill


@pytest.mark.parametrize(
    ("name", "written"), [("gpt-oss-20b@tiny", 12), ("gemma-2-2b@tiny", 12), ("gemma-3-1b@tiny", 0)]
)
def test_a_family_without_fused_attention_writes_its_scores_out(name: str, written: int) -> None:
    found = resolve.resolve(name)

    said = counts(str(found.model_type), found.config)

    assert memory.pair_bytes(said, str(found.model_type), job(found).cells[0]) == written


@pytest.mark.parametrize(
    ("name", "active"),
    [
        (
            "llama-4-scout-17b-16e",
            17_172_894_720,
        ),  # transformers multiplies with all 16 experts, a token needs one
        pytest.param("gpt-oss-20b", 4_187_440_704, marks=pytest.mark.slow),
        pytest.param("qwen3-30b-a3b", 3_353_032_704, marks=pytest.mark.slow),
    ],
)
def test_a_token_uses_its_experts_alone(name: str, active: int) -> None:
    entry = resolve.entry(name)

    assert counts(entry.model_type, entry.config).active_parameters == active


def test_a_chunk_begins_anew() -> None:
    said = counts("llama4_text", FAMILIES["llama4_text"])
    own = 2 * 2 * 16 * 2  # keys and values x heads x width x bytes

    assert formulas.held_kv_bytes(said, "bfloat16", 17) == own * (3 * 8 + 17)
    assert formulas.kv_bytes(said, "bfloat16", 17) == own * (3 * 1 + 17)
    steps = sum(formulas.decode_flops(said, past) for past in range(40))
    assert formulas.decode_flops_of_steps(said, 0, 40) == steps


ROWED = [
    name
    for name in resolve.catalogue()
    if resolve.entry(name).engines.transformers
    and resolve.counts_of(resolve.resolve(name)) is not None
]
SOON = ("llama-7b", "flan-t5-base")
BEYOND_A_ROW = {"products", "relative_biases", "step_numbers", "table_numbers"}
"""What a T5 counts otherwise: its relative biases are looked up, and its decoder's products include the encoder's."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=() if each in SOON else pytest.mark.slow) for each in ROWED],
)
def test_a_model_says_what_the_row_of_its_family_says(name: str) -> None:
    entry = resolve.entry(name)
    row = by_row.counts_of(entry.model_type, entry.config)
    assert row is not None

    said = counts(entry.model_type, entry.config)

    apart = {
        field for field in row.__struct_fields__ if getattr(row, field) != getattr(said, field)
    }
    falcon = {"kv_heads", "cached"} if entry.model_type == "falcon" else set()
    assert apart <= {"products"} | falcon | (BEYOND_A_ROW if row.encoder_layers else set())
    assert sum(each.count * each.inner * each.columns for each in said.products) >= sum(
        each.count * each.inner * each.columns for each in row.products
    )


ASKED = [name for name in resolve.catalogue() if name not in ROWED and name != "baichuan-13b"]
ASKED_SOON = ("gpt-oss-20b", "granite-4.0-h-tiny")


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=() if each in ASKED_SOON else pytest.mark.slow) for each in ASKED],
)
def test_an_entry_has_the_parameters_that_were_published(name: str) -> None:
    entry = resolve.entry(name)
    built = meta_model.build(backends_config.of_model(resolve.resolve(name), own=True))
    biases = [each.numel() for key, each in built.named_buffers() if "correction_bias" in key]

    parameters = sum(each.numel() for each in built.parameters())

    difference = entry.published_difference or ""
    assert f"{parameters:,}" in difference
    if difference.startswith("None"):
        assert entry.published_parameters == parameters
    else:  # the routers' biases are parameters of the checkpoint, and buffers of the model
        assert f"{sum(biases):,}" in difference
        assert entry.published_parameters == parameters + sum(biases)


# -- asking ------------------------------------------------------------------------------------------

LLAMA4 = model("llama4_text", FAMILIES["llama4_text"])
NOTHING = ("/bin/false",)


def test_an_answer_is_kept_and_nobody_is_asked_again() -> None:
    first = ask.ask([LLAMA4])[LLAMA4.name]

    again = ask.ask([LLAMA4], program=NOTHING)[LLAMA4.name]

    assert isinstance(first, ModelAnswer)
    assert again == first


@pytest.mark.slow
def test_another_configuration_is_asked_for_itself() -> None:
    ask.ask([LLAMA4])
    wider = model("llama4_text", {**FAMILIES["llama4_text"], "hidden_size": 128})

    said = ask.ask([wider], program=NOTHING)[wider.name]

    assert said == "the process that builds it failed: exit 1"


def test_what_cannot_be_built_says_why_is_not_asked_twice_and_has_no_prediction() -> None:
    odd = model("unheard-of", {"hidden_size": 64})

    said = ask.ask([odd])[odd.name]

    assert isinstance(said, str)
    assert "\n" not in said
    assert ask.ask([odd], program=NOTHING)[odd.name] == said
    known, notices = ask.with_counts({odd.name: odd})
    assert known[odd.name].counts is None
    assert len(notices) == 1
    assert notices[0].startswith("Nothing is predicted of a-unheard-of: ")


def test_a_model_that_does_not_answer_in_time_is_not_known() -> None:
    said = ask.ask([LLAMA4], program=("/bin/sleep", "9"), deadline_s=0.2)[LLAMA4.name]

    assert said == "the process that builds it failed: no answer within 0.2 s"


@pytest.mark.slow
def test_a_hub_id_in_the_local_cache_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "hub" / "models--some--one" / "snapshots" / "1"
    place.mkdir(parents=True)
    config = {"model_type": "llama4_text", **FAMILIES["llama4_text"]}
    (place / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    found = resolve.resolve("some/one")

    known, notices = ask.with_counts({found.name: found})

    assert notices == []
    assert known[found.name].counts == counts("llama4_text", FAMILIES["llama4_text"])
    assert known[found.name].config == {}, "what identifies its cells does not change"
