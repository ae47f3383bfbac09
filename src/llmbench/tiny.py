"""`NAME@tiny`: a model of the catalogue scaled down by rule, so that a CPU runs it in a blink.

Structure is kept: how many queries share a key, gated or plain, experts, windows, tied heads, an encoder.
Sizes are not: two layers, a few heads of 16, a small vocabulary, and a window that a short prompt passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmbench.shape import FAMILIES, Setting, shape_of

if TYPE_CHECKING:
    from collections.abc import Mapping

LAYERS = 2
HEADS, GROUPS = 4, 2
"""Heads where each query has a key of its own or all share one; keys where some queries share one."""
HEAD_DIM = 16
VOCABULARY = 2048
WINDOW = 16
ROUNDED_TO = 16
"""Feed-forward widths are multiples of this, as engines like them."""

KV_HEADS = ("num_key_value_heads", "num_kv_heads")
ROTATED = "rotary_dim"
"""How families name what only some of them have."""


def scaled_down(model_type: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a small configuration of the same structure; None for a family that has no rule."""
    shape = shape_of(model_type, config)
    if shape is None:
        return None
    family = FAMILIES[model_type]
    shared = shape.heads // shape.kv_heads
    grouped = shape.kv_heads > 1 and shared > 1
    heads = GROUPS * shared if grouped else HEADS
    hidden = heads * HEAD_DIM
    small: dict[str | None, Any] = {
        family.hidden: hidden,
        family.layers: LAYERS,
        family.heads: heads,
        _name(family.inner): _rounded(hidden * shape.inner / shape.hidden),
        _name(family.head_dim): HEAD_DIM,
        _name(family.window): WINDOW,
        _name(family.embedding_width): hidden,
        family.encoder_layers: LAYERS,
        **dict.fromkeys(KV_HEADS, GROUPS if grouped else 1 if shape.kv_heads == 1 else heads),
        ROTATED: (config.get(ROTATED) or 0) * HEAD_DIM // shape.head_dim,
        "layer_types": (config.get("layer_types") or ())[:LAYERS],
    }
    written = {key: value for key, value in small.items() if key and config.get(key) is not None}
    return {**config, **written, "vocab_size": VOCABULARY}


def _name(wanted: Setting | str | None) -> str | None:
    return wanted.name if isinstance(wanted, Setting) else wanted


def _rounded(width: float) -> int:
    return -(-int(width) // ROUNDED_TO) * ROUNDED_TO
