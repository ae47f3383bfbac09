"""`NAME@tiny` and `NAME@small`: a model of the catalogue scaled down by rule.

Structure is kept: how many queries share a key, gated or plain, experts, windows, tied heads, an encoder.

- tiny: two layers, a few heads of 32, a small vocabulary, and a window that a short prompt passes. A CPU
  runs it in a blink; its size says nothing about the size of the model.
- small: a quarter of the layers, of the heads and of every width, a sixteenth of the vocabulary, heads as
  wide as they were. So about a 64th of the parameters, of every model alike: two small copies stand to
  each other as their models do, and are large enough that reading weights is what takes time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.models.shape import FAMILIES, Setting, shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmbench.models.shape import Shape

LAYERS = 2
HEADS, GROUPS = 4, 2
"""Heads where each query has a key of its own or all share one; keys where some queries share one."""
HEAD_DIM = 32
"""The least that vLLM's attention on a CPU has a kernel for, so that every engine runs the copy."""
VOCABULARY = 2048
WINDOW = 16
ROUNDED_TO = 16
"""Widths are multiples of this, as engines like them."""

QUARTER = 4

KV_HEADS = ("num_key_value_heads", "num_kv_heads")
ROTATED = "rotary_dim"
"""How families name what only some of them have."""


class Sizes(NamedTuple):
    """What a copy is scaled to; the rest of its configuration is its model's."""

    layers: int
    encoder_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocabulary: int
    window: int


def _tiny(shape: Shape) -> Sizes:
    shared = shape.heads // shape.kv_heads
    grouped = shape.kv_heads > 1 and shared > 1
    heads = GROUPS * shared if grouped else HEADS
    return Sizes(
        layers=LAYERS,
        encoder_layers=LAYERS,
        heads=heads,
        kv_heads=GROUPS if grouped else 1 if shape.kv_heads == 1 else heads,
        head_dim=HEAD_DIM,
        hidden=heads * HEAD_DIM,
        vocabulary=VOCABULARY,
        window=WINDOW,
    )


def _small(shape: Shape) -> Sizes:
    """Keep how many queries share a key: where several do, the keys are quartered and the queries follow."""
    shared = shape.heads // shape.kv_heads
    grouped = shape.kv_heads > 1 and shared > 1
    kv_heads = 1 if shape.kv_heads == 1 else _quarter(shape.kv_heads)
    heads = kv_heads * shared if grouped else _quarter(shape.heads)
    return Sizes(
        layers=_quarter(shape.layers),
        encoder_layers=_quarter(shape.encoder_layers),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=shape.head_dim,
        hidden=_rounded(shape.hidden * heads / shape.heads),
        vocabulary=_rounded(shape.vocabulary / QUARTER**2),
        window=_quarter(shape.window or QUARTER),
    )


SIZES: Mapping[str, Callable[[Shape], Sizes]] = {"tiny": _tiny, "small": _small}
"""What may stand after a model's name and an `@`."""


def scaled_down(model_type: str, config: Mapping[str, Any], size: str) -> dict[str, Any] | None:
    """Return a smaller configuration of the same structure; None for a family that has no rule."""
    shape = shape_of(model_type, config)
    if shape is None:
        return None
    family, sizes = FAMILIES[model_type], SIZES[size](shape)
    smaller: dict[str | None, Any] = {
        family.hidden: sizes.hidden,
        family.layers: sizes.layers,
        family.heads: sizes.heads,
        _name(family.inner): _rounded(sizes.hidden * shape.inner / shape.hidden),
        _name(family.head_dim): sizes.head_dim,
        _name(family.window): sizes.window,
        _name(family.embedding_width): sizes.hidden,
        family.encoder_layers: sizes.encoder_layers,
        **dict.fromkeys(KV_HEADS, sizes.kv_heads),
        ROTATED: (config.get(ROTATED) or 0) * sizes.head_dim // shape.head_dim,
        "layer_types": (config.get("layer_types") or ())[: sizes.layers],
    }
    written = {key: value for key, value in smaller.items() if key and config.get(key) is not None}
    return {**config, **written, "vocab_size": sizes.vocabulary}


def _name(wanted: Setting | str | None) -> str | None:
    return wanted.name if isinstance(wanted, Setting) else wanted


def _quarter(number: int) -> int:
    return max(1, round(number / QUARTER))


def _rounded(width: float) -> int:
    return -(-int(width) // ROUNDED_TO) * ROUNDED_TO
