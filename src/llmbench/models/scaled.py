"""`NAME@tiny` and `NAME@small`: a model of the catalogue scaled down by rule.

The structure is preserved: queries per key, gated or plain layers, experts, windows, tied heads, an encoder.

- tiny: two layers, a few heads of 32, a small vocabulary, and a window shorter than a short prompt. A CPU runs it
  in an instant; its size is unrelated to that of the model.
- small: a quarter of the layers, of the heads and of every width, a sixteenth of the vocabulary, and heads of the
  original width. Every copy has about a 64th of its model's parameters: two copies relate to each other as their
  models do, and are large enough for reading weights to dominate the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.models import scaled_by_name
from llmbench.models.shape import FAMILIES, Setting, shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmbench.models.shape import Shape

LAYERS = 2
HEADS, GROUPS = 4, 2
"""Heads of a model with one key per query or one for all; key heads of a model where groups of queries share a
key."""
HEAD_DIM = 32
"""The smallest width that vLLM's CPU attention supports, which lets every engine run the copy."""
VOCABULARY = 2048
WINDOW = 16
ROUNDED_TO = 16
"""Widths are multiples of this, as engines like them."""

QUARTER = 4

KV_HEADS = ("num_key_value_heads", "num_kv_heads")
ROTATED = "rotary_dim"
"""Settings that only some families have."""


class Sizes(NamedTuple):
    """The sizes of a scaled copy; the rest of its configuration is the model's."""

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
    """Preserve the queries per key: if several share a key, quarter the keys and scale the queries with them."""
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
"""The sizes allowed after a model's name and `@`."""


def scaled_down(model_type: str, config: Mapping[str, Any], size: str) -> dict[str, Any] | None:
    """Return a smaller configuration of the same structure; None if no rule makes it this small."""
    shape = shape_of(model_type, config)
    if shape is None:
        return scaled_by_name.tiny(config) if size == "tiny" else None
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
