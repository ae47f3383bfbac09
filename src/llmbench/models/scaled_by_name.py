"""A tiny copy of a model whose family has no row: its own settings, each made small by its name.

The copy keeps the structure: one layer of every kind, grouped keys, experts, windows, states. Whether it builds is the
model's own to say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.models.checkpoint import PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

HEADS, GROUPS, HEAD_DIM = 4, 2, 32
"""As in the copies of families with a row (`scaled`)."""
VOCABULARY, WINDOW, NARROW = 2048, 16, 16
EXPERTS, SENT = 8, 2
"""Experts of a layer, and how many of them a token is sent to."""
MOST_SHARING = 8
"""Query heads that share a key."""
PERIODS = re.compile(r"period|interval|_step$|pattern$")
"""The names of settings that say after how many layers another kind of layer comes."""


class Copied(NamedTuple):
    """The sizes of a copy, and the share of the model's width that it has."""

    hidden: int
    heads: int
    kv_heads: int
    share: float
    expand: int

    def width(self, value: int) -> int:
        """Return a width that follows the model's."""
        return max(NARROW, -(-int(value * self.share) // NARROW) * NARROW)


def _at_most(limit: int) -> Callable[[Copied, int], int]:
    return lambda _, value: min(value, limit)


RULES: tuple[tuple[str, Callable[[Copied, int], int]], ...] = (
    (r"hidden_size|d_model", lambda to, _: to.hidden),
    (r"num_attention_heads", lambda to, _: to.heads),
    (r"num_(key_value|kv)_heads", lambda to, _: to.kv_heads),
    (r"num_global_key_value_heads", lambda _, __: 1),
    (r"head_dim|attention_head_dim|qk_nope_head_dim|v_head_dim", lambda _, __: HEAD_DIM),
    (r"global_head_dim", lambda _, __: 2 * HEAD_DIM),
    (r"qk_rope_head_dim", lambda _, __: HEAD_DIM // 2),
    (r"(kv|q)_lora_rank", lambda _, __: HEAD_DIM),
    (r"rotary_dim", lambda _, __: HEAD_DIM // 2),
    (r"vocab_size|vocab_size_per_layer_input", lambda _, __: VOCABULARY),
    (r"(sliding|local|attention)_(window|chunk)(_size)?|sliding_window_size", _at_most(WINDOW)),
    (r"num_local_experts|num_experts|n_routed_experts", _at_most(EXPERTS)),
    (r"num_experts_per_tok", _at_most(SENT)),
    (r"n_group|mamba_n_groups|mamba_ngroups|n_groups", _at_most(GROUPS)),
    (r"topk_group|first_k_dense_replace|num_nextn_predict_layers", _at_most(1)),
    (r"mamba_(d_head|headdim|head_dim)|mamba_headdim", lambda _, __: HEAD_DIM),
    (r"mamba_n_heads|n_mamba_heads", lambda to, _: to.expand * to.hidden // HEAD_DIM),
    (r"mamba_d_ssm", lambda to, _: to.expand * to.hidden),
    (r"mamba_num_heads|linear_num_value_heads", lambda _, __: 2 * HEADS),
    (r"linear_num_key_heads", lambda _, __: HEADS),
    (r"linear_(key|value)_head_dim|mamba_d_state|ssm_state_size|mamba_dt_rank", _at_most(NARROW)),
    (r"hidden_size_per_layer_input|laurel_rank", _at_most(NARROW)),
    (r".*(intermediate|ffn|shared|latent).*(size|dim|mlp)", lambda to, value: to.width(value)),
    (r".*_token_id", _at_most(VOCABULARY - 1)),
)
"""How a setting of a copy follows from the model's, by the setting's whole name; others stay."""


def tiny(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a tiny configuration of the same structure; None if this one does not name its sizes."""
    if part := next((name for name in PARTS if isinstance(config.get(name), dict)), None):
        inner = tiny(config[part])
        return None if inner is None else {**config, part: inner}
    sizes = [
        config.get(name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    ]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    hidden, layers, heads = (int(size or 0) for size in sizes)
    to = _copied(config, hidden, heads)
    chosen = _layers(config, layers)
    shared = config.get("num_kv_shared_layers") or 0
    small = {
        name: _small(name, _of_layers(value, layers, chosen), to) for name, value in config.items()
    }
    if shared:
        small["num_kv_shared_layers"] = sum(number >= layers - shared for number in chosen)
    return {**small, "num_hidden_layers": len(chosen)}


def _copied(config: Mapping[str, Any], hidden: int, heads: int) -> Copied:
    kv_heads = config.get("num_key_value_heads") or heads
    sharing = min(MOST_SHARING, max(1, heads // kv_heads))
    few = HEADS if sharing == 1 else sharing * (1 if kv_heads == 1 else GROUPS)
    small = few * HEAD_DIM
    return Copied(
        hidden=small,
        heads=few,
        kv_heads=few // sharing,
        share=small / hidden,
        expand=config.get("mamba_expand") or 2,
    )


def _layers(config: Mapping[str, Any], layers: int) -> Sequence[int]:
    """Return the numbers of the layers that a copy has: the first of each kind, two at least, or one period."""
    listed = [
        value for value in config.values() if isinstance(value, list | str) and len(value) == layers
    ]
    shared = config.get("num_kv_shared_layers") or 0
    first: dict[object, int] = {}
    for number in range(layers):
        kind = (number >= layers - shared, *(str(each[number]) for each in listed))
        first.setdefault(kind, number)
    periods = [
        value
        for name, value in config.items()
        if PERIODS.search(name) and isinstance(value, int) and not listed
    ]
    whole = range(min(layers, max([2, *periods])))
    return sorted({*first.values(), *whole}) if len(first) < 2 else sorted(first.values())


def _of_layers(value: Any, layers: int, chosen: Sequence[int]) -> Any:
    """Return a setting that has an item for each layer with the items of the chosen ones."""
    if not isinstance(value, list | str) or len(value) != layers:
        return value
    items = [value[number] for number in chosen]
    return "".join(items) if isinstance(value, str) else items


def _small(name: str, value: Any, to: Copied) -> Any:
    if isinstance(value, list):
        return [_small(name, each, to) for each in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    rule = next((rule for pattern, rule in RULES if re.fullmatch(pattern, name)), None)
    return rule(to, value) if rule else value
