"""The shape of a model as numbers, read from its configuration with one row per family.

Nothing is guessed: a model of an unknown family or with a missing setting has no shape and no predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WIDENS = 4
"""The default ratio of the feed-forward width to the model's width."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that decide how many bytes and operations a model needs.

    Attributes:
        layers: of the decoder.
        encoder_layers: 0 in a decoder-only model; with an encoder, every decoder layer also attends to it.
        cached_heads: key-value heads that transformers caches; Falcon's newer decoder copies its 8 to all 128 first.
        experts: feed-forward blocks per layer; each token uses `experts_per_token` of them.
        norm_vectors: 1 for a scale, 2 for a scale and a shift.
        positions: rows of learned position embeddings; 0 if positions are computed.
        embedding_width: of a row of the vocabulary; OPT may project it to the hidden size.
        relative_buckets: learned position biases of each head, once in the encoder and once in the decoder.
        window: tokens that a sliding layer attends to, including the current one.
        mlp_out_wide: whether the feed-forward's output matrix stays in float32 under float16.
        tied: whether the output head shares the embedding, as built by transformers.

    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    cached_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    gated: bool
    experts: int
    experts_per_token: int
    norm_vectors: int
    layer_norms: int
    embedding_norms: int
    final_norms: int
    qk_norm: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    head_bias: bool
    tied: bool
    positions: int
    embedding_width: int
    encoder_layers: int
    relative_buckets: int
    mlp_out_wide: bool
    window: int | None
    sliding_layers: int


class Setting(NamedTuple):
    """A setting of a configuration, and the family's default if it is missing."""

    name: str
    default: Any


class Family(NamedTuple):
    """The settings in a family's configuration, and the structure of its layers.

    A string names a required setting; a Setting has a default; any other value is the same in every model.
    """

    tied: Setting | bool
    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    kv_heads: Callable[[Mapping[str, Any], int], int] = lambda _, heads: heads
    head_dim: Setting | str | None = None
    inner: Setting | str = Setting("intermediate_size", None)
    gated: bool = False
    experts: Setting | int = 1
    experts_per_token: Setting | int = 1
    norm_vectors: int = 2
    layer_norms: Callable[[Mapping[str, Any]], int] = lambda _: 2
    embedding_norms: int = 0
    final_norms: Setting | int = 1
    qk_norm: bool = False
    qkv_bias: Setting | bool = False
    out_bias: Setting | bool = False
    mlp_bias: Setting | bool = False
    head_bias: bool = False
    positions: str | None = None
    positions_offset: int = 0
    embedding_width: Setting | None = None
    encoder_layers: str | None = None
    relative_buckets: Setting | int = 0
    mlp_out_wide: bool = False
    window: Setting | None = None
    window_switch: str | None = None


def _grouped(config: Mapping[str, Any], heads: int) -> int:
    return int(config.get("num_key_value_heads") or heads)


def _falcon_heads(config: Mapping[str, Any], heads: int) -> int:
    if config.get("new_decoder_architecture"):
        return int(config.get("num_kv_heads") or heads)
    return 1 if config.get("multi_query", True) else heads


def _falcon_norms(config: Mapping[str, Any]) -> int:
    if config.get("new_decoder_architecture"):
        return int(config.get("num_ln_in_parallel_attn") or 2)
    return 1 if config.get("parallel_attn", True) else 2


_BIASED: Any = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
_GPT: Any = {
    "hidden": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "inner": Setting("n_inner", None),
}
_LLAMA: Any = {
    "tied": Setting("tie_word_embeddings", default=False),
    "kv_heads": _grouped,
    "head_dim": Setting("head_dim", None),
    "inner": "intermediate_size",
    "gated": True,
    "norm_vectors": 1,
}
_QWEN: Any = {
    **_LLAMA,
    "window": Setting("sliding_window", 4096),
    "window_switch": "use_sliding_window",
}
_ATTENTION_BIAS = Setting("attention_bias", default=False)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        **_LLAMA,
        qkv_bias=_ATTENTION_BIAS,
        out_bias=_ATTENTION_BIAS,
        mlp_bias=Setting("mlp_bias", default=False),
    ),
    "mistral": Family(**_LLAMA, window=Setting("sliding_window", 4096)),
    "mixtral": Family(
        **_LLAMA,
        experts=Setting("num_local_experts", 8),
        experts_per_token=Setting("num_experts_per_tok", 2),
        window=Setting("sliding_window", None),
    ),
    "qwen2": Family(**_QWEN, qkv_bias=True),
    "qwen3": Family(
        **{**_QWEN, "head_dim": Setting("head_dim", 128)},
        qk_norm=True,
        qkv_bias=_ATTENTION_BIAS,
        out_bias=_ATTENTION_BIAS,
    ),
    "baichuan": Family(
        **_LLAMA
    ),  # of 13B, with ALiBi; the 7B has rotary positions and the same parameters
    "gpt_neox": Family(
        tied=Setting("tie_word_embeddings", default=False),
        qkv_bias=Setting("attention_bias", default=True),
        out_bias=Setting("attention_bias", default=True),
        mlp_bias=True,
    ),
    "gptj": Family(
        **_GPT,
        tied=Setting("tie_word_embeddings", default=False),
        layer_norms=lambda _: 1,  # attention and feed-forward read the same normalised input
        mlp_bias=True,
        head_bias=True,
    ),
    "gpt2": Family(
        **_GPT,
        **_BIASED,
        tied=Setting("tie_word_embeddings", default=True),
        positions="n_positions",
    ),
    "opt": Family(
        tied=Setting("tie_word_embeddings", default=True),
        inner="ffn_dim",
        final_norms=Setting("do_layer_norm_before", default=True),
        qkv_bias=Setting("enable_bias", default=True),
        out_bias=Setting("enable_bias", default=True),
        mlp_bias=Setting("enable_bias", default=True),
        positions="max_position_embeddings",
        positions_offset=2,  # the rows begin at position 2
        embedding_width=Setting("word_embed_proj_dim", None),
    ),
    "bloom": Family(
        **_BIASED,
        tied=Setting("tie_word_embeddings", default=True),
        layers="n_layer",
        heads="n_head",
        embedding_norms=1,
    ),
    "mpt": Family(
        tied=Setting("tie_word_embeddings", default=True),
        hidden="d_model",
        layers="n_layers",
        heads="n_heads",
        norm_vectors=1,
    ),
    "falcon": Family(
        tied=Setting("tie_word_embeddings", default=True),
        kv_heads=_falcon_heads,
        inner=Setting("ffn_hidden_size", None),
        layer_norms=_falcon_norms,
        qkv_bias=Setting("bias", default=False),
        out_bias=Setting("bias", default=False),
        mlp_bias=Setting("bias", default=False),
    ),
    "t5": Family(
        tied=True,  # whatever the configuration says, since transformers 5
        hidden="d_model",
        layers="num_decoder_layers",
        heads="num_heads",
        head_dim="d_kv",
        inner="d_ff",
        gated=True,
        norm_vectors=1,
        encoder_layers="num_layers",
        relative_buckets=Setting("relative_attention_num_buckets", 32),
        mlp_out_wide=True,
    ),
}
"""The families of the catalogue. Other families run too, but without predictions."""


def shape_of(model_type: str | None, config: Mapping[str, Any]) -> Shape | None:
    """Return the shape of a model, or None if its family or one of its numbers is unknown."""
    family = FAMILIES.get(model_type or "")
    if family is None or not _plain(model_type, config):
        return None
    try:
        return msgspec.convert(msgspec.structs.asdict(_read(family, config)), Shape)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None  # a configuration from outside may contain anything


def _plain(model_type: str | None, config: Mapping[str, Any]) -> bool:
    """Return whether the family's row covers everything in the configuration."""
    gated = model_type != "t5" or str(config.get("feed_forward_proj")).startswith("gated")
    normed = model_type != "opt" or (
        config.get("layer_norm_elementwise_affine", True)
        and not config.get("_remove_final_layer_norm")
    )
    return gated and bool(normed) and not config.get("quantization_config")


def _read(family: Family, config: Mapping[str, Any]) -> Shape:
    hidden, heads = config[family.hidden], config[family.heads]
    layers, kv_heads = config[family.layers], family.kv_heads(config, heads)
    window, sliding = _window(family, config, layers)
    return Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        cached_heads=heads if config.get("new_decoder_architecture") else kv_heads,
        head_dim=_value(family.head_dim, config) or hidden // heads,
        inner=_value(family.inner, config) or int(config.get("expansion_ratio", WIDENS)) * hidden,
        vocabulary=config["vocab_size"],
        gated=family.gated,
        experts=_value(family.experts, config),
        experts_per_token=_value(family.experts_per_token, config),
        norm_vectors=family.norm_vectors,
        layer_norms=family.layer_norms(config),
        embedding_norms=family.embedding_norms,
        final_norms=int(_value(family.final_norms, config)),
        qk_norm=family.qk_norm,
        qkv_bias=_value(family.qkv_bias, config),
        out_bias=_value(family.out_bias, config),
        mlp_bias=_value(family.mlp_bias, config),
        head_bias=family.head_bias,
        tied=_value(family.tied, config),
        positions=config[family.positions] + family.positions_offset if family.positions else 0,
        embedding_width=_value(family.embedding_width, config) or hidden,
        encoder_layers=config[family.encoder_layers] if family.encoder_layers else 0,
        relative_buckets=_value(family.relative_buckets, config),
        mlp_out_wide=family.mlp_out_wide,
        window=window,
        sliding_layers=sliding,
    )


def _window(family: Family, config: Mapping[str, Any], layers: int) -> tuple[int | None, int]:
    """Return the window and the number of layers with it; Qwen enables its window separately, layer by layer."""
    window, switch = _value(family.window, config), family.window_switch
    if not window or (switch and not config.get(switch)):
        return None, 0
    kinds = config["layer_types"] if switch else config.get("layer_types")
    return window, layers if kinds is None else kinds.count("sliding_attention")


def _value(wanted: Setting | str | float | None, config: Mapping[str, Any]) -> Any:
    if isinstance(wanted, Setting):
        return config.get(wanted.name, wanted.default)
    return config[wanted] if isinstance(wanted, str) else wanted
