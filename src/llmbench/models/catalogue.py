"""Facts about the models of the catalogue, from their entries and their shapes. Reads files, needs no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench.models import formulas, resolve
from llmbench.models.shape import shape_of

if TYPE_CHECKING:
    from llmbench.models.resolve import Engines

KV_DTYPE = "bfloat16"
"""The dtype in which KV cache sizes are shown: halve them for 8 bits, double them for float32."""


def facts(name: str) -> dict[str, Any]:
    """Return the facts about a model that a list of models shows, by key; None = unknown."""
    entry = resolve.entry(name)
    shape = shape_of(entry.model_type, entry.config)
    return {
        "name": name,
        "family": entry.family or entry.model_type,
        "parameters": shape and formulas.parameters(shape),
        "active_parameters": shape and formulas.active_parameters(shape),
        f"kv_bytes_per_token_{KV_DTYPE}": shape and formulas.kv_bytes_per_token(shape, KV_DTYPE),
        "context": entry.context or resolve.resolve(name).max_positions,
        "release_date": entry.release_date,
        "engines": engines(entry.engines),
        "license": entry.license,
    }


def engines(known: Engines) -> list[str]:
    """Return the engines that run a model; for vllm, the versions that were checked."""
    native = ["transformers"] if known.transformers else []
    runs = [version for version, how in known.vllm.items() if not how.startswith("not ")]
    return [*native, *([f"vllm {' '.join(runs)}"] if runs else [])]


def whole(name: str) -> dict[str, Any]:
    """Return everything known about one model, computed facts first."""
    entry = resolve.entry(name)
    shape = shape_of(entry.model_type, entry.config)
    derived = {} if shape is None else {
        "weight_bytes": {dtype: formulas.weight_bytes(shape, dtype) for dtype in formulas.ITEMSIZE},
        f"cross_kv_bytes_per_token_{KV_DTYPE}": formulas.cross_kv_bytes_per_token(shape, KV_DTYPE) or None,
        "sliding_window": shape.window,
    }  # fmt: skip
    written = msgspec.to_builtins(entry)
    return {
        **facts(name),
        **derived,
        "title": written.pop("name"),
        **{key: value for key, value in written.items() if key not in {"engines", "context"}},
        "engines": written["engines"],
    }
