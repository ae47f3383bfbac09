"""Checkpoints as people have them: without weights, quantised, adapters, in other formats, with other caches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from jobs import job, prompts
from lazily import Lazy, torch
from llmbench import backends
from llmbench.errors import LoadFailed, NothingToRun, SpecError, Unsupported
from llmbench.models import checkpoint, resolve
from llmbench.models.shape import shape_of
from llmbench.run.plan import plan
from llmbench.spec.sweep import Axes, Protocol, Sweep

if TYPE_CHECKING:
    from pathlib import Path

safetensors: Any = Lazy("safetensors.torch")

SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "vocab_size": 1000, "max_position_embeddings": 512,
}  # fmt: skip
LLAMA = {"model_type": "llama", **SMALL, "tie_word_embeddings": False}
AWQ = {"quantization_config": {"bits": 4, "quant_method": "awq"}}


def folder(place: Path, config: dict[str, Any], **files: Any) -> Path:
    """Write a checkpoint's folder: its configuration, and other files as JSON."""
    place.mkdir(exist_ok=True)
    for name, content in {"config": config, **files}.items():
        (place / f"{name}.json").write_text(json.dumps(content))
    return place


def planned(place: Path, **axes: Any) -> Any:
    """Plan a small sweep of a folder."""
    wanted = {
        "batch_size": 1,
        "input_len": 8,
        "output_len": 2,
        "device": "cpu",
        "dtype": "bfloat16",
        **axes,
    }
    return plan(Sweep(name="x", axes=Axes(model=str(place), **wanted)))


# -- a configuration without a tokenizer -----------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "t5"])
def test_without_a_tokenizer_the_rows_of_the_embedding_are_the_vocabulary(
    family: str, tmp_path: Path
) -> None:
    t5 = {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 96,
        "num_heads": 4,
        "num_layers": 2,
        "vocab_size": 1000,
        "decoder_start_token_id": 0,
    }
    config = {"model_type": family, **(t5 if family == "t5" else {**SMALL, "head_dim": 16})}

    engine: Any = backends.load(job(folder(tmp_path / "model", config)))

    assert engine.vocab_size == 1000


# -- quantised weights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "files", "scheme"),
    [
        (AWQ, {}, "awq-int4"),
        ({"quantization_config": {"quant_method": "fp8"}}, {}, "fp8"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            {},
            "bnb-fp4",
        ),
        ({}, {"hf_quant_config": {"quantization": {"quant_algo": "FP8"}}}, "modelopt-fp8"),
        ({}, {}, None),
    ],
)
def test_a_folder_says_how_its_weights_are_quantised(
    config: dict[str, Any], files: dict[str, Any], scheme: str | None, tmp_path: Path
) -> None:
    model = resolve.resolve(str(folder(tmp_path / "model", {**LLAMA, **config}, **files)))

    assert checkpoint.quantisation(model.config) == scheme
    assert (shape_of("llama", model.config) is None) is bool(scheme)  # nothing is predicted of it


def test_random_weights_of_a_quantised_model_are_refused(tmp_path: Path) -> None:
    quantised = folder(tmp_path / "model", {**LLAMA, **AWQ})

    with pytest.raises(
        NothingToRun, match=r"are quantised \(awq-int4\), and random ones would not be"
    ):
        planned(quantised, load_format="dummy")
    assert planned(
        quantised, load_format="dummy", backend="vllm"
    ).cells  # which quantises random ones, too


def weights(config: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return the tensors of a model of this configuration, some replaced."""
    engine: Any = backends.load(job(resolved(config), dtype="bfloat16"))
    return {**engine._model.state_dict(), **others}


def resolved(config: dict[str, Any]) -> resolve.Model:
    return resolve.Model(
        name="made", source="catalogue", location=None, model_type=config["model_type"], config=config,
        vocab_size=1000, max_positions=512, digest="0",
    )  # fmt: skip


def test_weights_without_a_place_are_named(tmp_path: Path) -> None:
    scale = {"model.layers.0.mlp.up_proj.weight_scale": torch.ones(1)}
    place = folder(tmp_path / "model", LLAMA)
    safetensors.save_file(weights(LLAMA, **scale), place / "model.safetensors")

    with pytest.raises(
        LoadFailed,
        match=r"1 tensors for which LlamaForCausalLM has no place: .*up_proj\.weight_scale",
    ):
        backends.load(job(place, load_format="safetensors"))


def test_a_scheme_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    place = folder(
        tmp_path / "model", LLAMA, hf_quant_config={"quantization": {"quant_algo": "FP8"}}
    )
    safetensors.save_file(weights(LLAMA), place / "model.safetensors")

    with pytest.raises(LoadFailed, match=r"is quantised \(modelopt-fp8\), and transformers turned"):
        backends.load(job(place, load_format="safetensors"))


def test_weights_that_lose_their_scheme_while_loading_are_refused(tmp_path: Path) -> None:
    fp8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}
    config = {**LLAMA, "hidden_size": 64, **fp8}
    tensors = weights(LLAMA)
    for name, tensor in list(tensors.items()):
        if ".mlp." in name or ".self_attn." in name:
            rows, columns = tensor.shape
            tensors[name] = tensor.to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = torch.ones(-(-rows // 32), -(-columns // 32))
    place = folder(tmp_path / "model", config)
    safetensors.save_file(tensors, place / "model.safetensors")

    with pytest.raises(
        LoadFailed, match=r"is quantised \(fp8\), and transformers turned its weights into bfloat16"
    ):
        backends.load(job(place, load_format="safetensors", dtype="bfloat16"))


# -- what is no checkpoint, or more than one ---------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"adapter_config": {"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}},
         "holds an adapter .LoRA. of meta-llama/Llama-3.1-8B, not a model; merge it"),
        ({"params": {"dim": 4096}}, "in its maker's own format .params.json."),
        ({}, "is a folder without config.json"),
        ({"config": LLAMA, "adapter_config": {}}, "has an adapter .adapter_config.json. beside config.json"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_model_says_what_it_is(
    files: dict[str, Any], says: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    with pytest.raises(SpecError, match=says):
        resolve.resolve(str(tmp_path))


def test_a_gguf_file_is_known_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "llama-q4_k_m.gguf").write_bytes(b"GGUF")

    for name in (tmp_path / "llama-q4_k_m.gguf", tmp_path):
        with pytest.raises(SpecError, match="GGUF file"):
            resolve.resolve(str(name))


# -- code, pictures, positions -----------------------------------------------------------------------


def test_a_family_of_the_library_needs_no_code_of_the_folder(tmp_path: Path) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    place = folder(tmp_path / "model", {**LLAMA, "auto_map": auto_map})

    engine: Any = backends.load(job(place, protocol=Protocol(allow_remote_code=True)))

    assert engine.facts["model_class"] == "LlamaForCausalLM"


def test_the_language_model_of_a_model_with_pictures_runs(tmp_path: Path) -> None:
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    scaling = {"type": "mrope", "mrope_section": [2, 3, 3]}
    config = {"model_type": "qwen2_5_vl", **SMALL, "rope_scaling": scaling, "vision_config": vision}
    wanted = job(folder(tmp_path / "model", config))
    engine: Any = backends.load(wanted)
    engine.prepare(wanted.cells[0])

    tokens = engine.generate(prompts(wanted), 8)

    assert [len(row) for row in tokens] == [8, 8]


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({}, 512),
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 512,
                }
            },
            2048,
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                }
            },
            512,
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 1024),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 128,
                }
            },
            512,
        ),
        ({"rope_scaling": {"type": "yarn", "factor": "four"}}, 512),
    ],
)
def test_positions_count_with_their_scaling(
    config: dict[str, Any], longest: int, tmp_path: Path
) -> None:
    assert (
        resolve.resolve(str(folder(tmp_path / "model", {**LLAMA, **config}))).max_positions
        == longest
    )


def test_the_positions_of_a_language_model_inside_another_count(tmp_path: Path) -> None:
    nested = {"model_type": "qwen3_vl", "text_config": {"max_position_embeddings": 262144}}

    assert resolve.resolve(str(folder(tmp_path / "model", nested))).max_positions == 262144


@pytest.mark.parametrize(
    "odd", [{"layer_norm_elementwise_affine": False}, {"_remove_final_layer_norm": True}]
)
def test_an_opt_without_its_norms_has_no_known_shape(odd: dict[str, Any]) -> None:
    opt = {"model_type": "opt", **SMALL, "ffn_dim": 96, "word_embed_proj_dim": 64}

    assert shape_of("opt", opt) is not None
    assert shape_of("opt", {**opt, **odd}) is None


# -- other caches ------------------------------------------------------------------------------------

LINEAR = {
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
}  # fmt: skip
SHARED = {
    "model_type": "gemma3n_text", **SMALL, "num_hidden_layers": 6, "head_dim": 16, "intermediate_size": [96] * 6,
    "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 3, "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 1000, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
    "activation_sparsity_pattern": [0.0] * 6,
}  # fmt: skip
HYBRID = {
    "model_type": "qwen3_5_text", **SMALL, "num_hidden_layers": 4, "head_dim": 16, **LINEAR,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}  # fmt: skip
PER_LAYER = {
    "model_type": "gemma4_text", **SMALL, "num_hidden_layers": 6, "head_dim": 16, "global_head_dim": 32,
    "num_global_key_value_heads": 1, "sliding_window": 8, "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"], "num_kv_shared_layers": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "config", [SHARED, HYBRID, PER_LAYER], ids=lambda config: config["model_type"]
)
def test_bytes_of_a_cache_are_what_is_held_or_unknown(
    config: dict[str, Any], tmp_path: Path
) -> None:
    wanted = job(folder(tmp_path / "model", config), input_len=20)
    engine: Any = backends.load(wanted)
    engine.prepare(wanted.cells[0])
    engine.generate(prompts(wanted), 8)

    read = engine.memory(prompts(wanted), 8)

    assert read.kv_cache_bytes
    assert read.kv_cache_theoretical_bytes in (None, read.kv_cache_bytes)


def test_a_family_with_a_cache_of_its_own_says_what_runs_it(tmp_path: Path) -> None:
    kinds = ["full_attention", "linear_attention"]
    config = {
        "model_type": "minimax",
        **SMALL,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": kinds,
    }
    wanted = job(folder(tmp_path / "model", config))
    engine: Any = backends.load(wanted)

    with pytest.raises(
        Unsupported, match="keeps its past in a cache of its own; loop=generate runs it"
    ):
        engine.prepare(wanted.cells[0])
