"""Facts about the models of the catalogue, from their entries and their counts. Reads files, needs no engine."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench.models import formulas, resolve

if TYPE_CHECKING:
    from llmbench.models.counts import Counts
    from llmbench.models.resolve import Engines

KV_DTYPE = "bfloat16"
"""The dtype in which KV cache sizes are shown: halve them for 8 bits, double them for float32."""


def facts(name: str, counts: Counts | None) -> dict[str, Any]:
    """Return the facts about a model that a list of models shows, by key; None = unknown."""
    entry = resolve.entry(name)
    return {
        "name": name,
        "family": entry.family or entry.model_type,
        "parameters": counts.parameters if counts else _published(entry.published_parameters),
        "active_parameters": counts and counts.active_parameters,
        f"kv_bytes_per_token_{KV_DTYPE}": counts and formulas.kv_bytes_per_token(counts, KV_DTYPE),
        "context": entry.context or resolve.resolve(name).max_positions,
        "release_date": entry.release_date,
        "engines": engines(entry.engines),
        "license": entry.license,
    }


def _published(figure: int | str | None) -> int | None:
    """Return an exact published count of parameters."""
    return figure if isinstance(figure, int) else None


def engines(known: Engines) -> list[str]:
    """Return the engines that run a model; for vllm, the versions that were checked."""
    native = ["transformers"] if known.transformers else []
    runs = [version for version, how in known.vllm.items() if not how.startswith("not ")]
    return [*native, *([f"vllm {' '.join(runs)}"] if runs else [])]


def whole(name: str, counts: Counts | None) -> dict[str, Any]:
    """Return everything known about one model, computed facts first."""
    entry = resolve.entry(name)
    written = msgspec.to_builtins(entry)
    return {
        **facts(name, counts),
        **(of_counts(counts) if counts else {}),
        "title": written.pop("name"),
        **{key: value for key, value in written.items() if key not in {"engines", "context"}},
        "engines": written["engines"],
    }


def of_counts(counts: Counts) -> dict[str, Any]:
    """Return the facts about a model that its counts decide; None = does not apply."""
    limited = any(each.limit for each in counts.cached)
    return {
        "weight_bytes": {dtype: formulas.weight_bytes(counts, dtype) for dtype in formulas.ITEMSIZE},
        f"kv_bytes_per_token_beyond_windows_{KV_DTYPE}": formulas.lasting_kv_bytes_per_token(counts, KV_DTYPE)
        if limited
        else None,
        f"state_bytes_per_sequence_{KV_DTYPE}": formulas.state_bytes(counts, KV_DTYPE) or None,
        f"cross_kv_bytes_per_token_{KV_DTYPE}": formulas.cross_kv_bytes_per_token(counts, KV_DTYPE) or None,
        "sliding_window": counts.window,
        "layers_with_a_cache": _layers(counts),
    }  # fmt: skip


def _layers(counts: Counts) -> dict[str, int]:
    """Return how many layers there are of each kind of cache."""
    layers: Counter[str] = Counter()
    for each in counts.cached:
        layers[each.kind] += each.layers
    return dict(layers)
