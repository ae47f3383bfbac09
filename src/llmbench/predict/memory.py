"""A cell's peak memory: weights and cache exactly, the rest from a model of the forward pass.

Weights, keys and values are counted tensors. Activations are those at the pass's peak: a feed-forward block,
attention scores if they are materialised, or a cache layer while it grows. Tests compare them with the live tensors
in a profiler. They describe transformers' own loops; an engine that pre-allocates memory is not modelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from llmbench.models import formulas
from llmbench.models.formulas import ITEMSIZE

if TYPE_CHECKING:
    from llmbench.models.counts import Counts
    from llmbench.spec.sweep import Cell

TIGHT_OVER = 0.9
"""Above this share of the memory, fragmentation may decide; the cell is called tight and tried."""

PAIR_BYTES = {"mpt": 12, "bloom": 16, "falcon": 8}
"""Bytes per pair of tokens and head, for families whose attention materialises its scores.

The first two have no fused attention: scores, their masked copy and a softmax in float32. Falcon shares one key
among all heads, which torch's fused kernels do not support. Counted with torch's profiler,
transformers 5.19."""
EAGER_PAIR_BYTES = 12
"""The same with `attn_implementation: eager`."""
SHARED_KEY_ONLY = "falcon"

SLOW_GELU = frozenset({"gptj", "gpt2", "t5"})
"""Families whose activation function consists of single operations, each with its own copy."""

WIDE, SLOW_WIDE, GATED_WIDE = 2, 4, 3
"""Live copies of the feed-forward width: in and out; four; gate, up and their product."""
NARROW, EAGER_NARROW = 4, 9
"""Live copies of the model's width at the same time: the residual stream, its norm, and two more."""

CUDA_CONTEXT_BYTES = 2**29
"""A CUDA context with torch's kernels, loaded lazily; an assumption, not yet measured on a GPU."""
CUDA_WORKSPACE_BYTES = 2**25
"""cuBLAS's workspace on Hopper, 32 MiB (CUBLAS_WORKSPACE_CONFIG in torch's documentation); less on older chips."""
PROCESS_BYTES = 345 * 2**20
"""A worker with torch 2.13 and transformers 5.19 imported, after a model of 1 MiB: results/*-quickstart."""
HOST_WORKSPACE_SHARE = 2.0
"""Memory of a CPU's libraries and malloc as a multiple of the activations: oneDNN's reordered copies and unreleased
blocks. 1.7 to 2.7 in the largest cells of results/*-cpu-small."""


class Footprint(NamedTuple):
    """Bytes of the whole batch; `activation_bytes` is the peak beyond weights and the final cache."""

    weights_bytes: int
    kv_cache_bytes: int
    activation_bytes: int
    workspace_bytes: int
    context_bytes: int

    @property
    def need_bytes(self) -> int:
        """Return the total."""
        return sum(self)


def footprint(counts: Counts, model_type: str, cell: Cell) -> Footprint:
    """Return a cell's peak memory."""
    kv_end = kv_cache_bytes(counts, cell)
    prompt = _kv(
        counts, cell, *((1, cell.input_len) if counts.encoder_layers else (cell.input_len, 0))
    )
    prefill = min(prompt, kv_end) + _prefill_bytes(counts, model_type, cell)
    decode = kv_end + _step_bytes(counts, cell, kv_end)
    activations = max(prefill, decode) - kv_end
    on_cpu = cell.device == "cpu"
    share = int(HOST_WORKSPACE_SHARE * max(0, activations))
    return Footprint(
        weights_bytes=formulas.weight_bytes(counts, cell.dtype),
        kv_cache_bytes=kv_end,
        activation_bytes=max(0, activations),
        workspace_bytes=share if on_cpu else CUDA_WORKSPACE_BYTES,
        context_bytes=PROCESS_BYTES if on_cpu else CUDA_CONTEXT_BYTES,
    )


def kv_cache_bytes(counts: Counts, cell: Cell) -> int:
    """Return the bytes of keys and values at the end, without the last new token, which is never fed.

    A static cache has room for it nevertheless. With an encoder, the decoder's cache also holds the start token.
    """
    new = cell.output_len - (cell.options.get("cache") != "static")
    if counts.encoder_layers:
        return _kv(counts, cell, 1 + new, cell.input_len)
    return _kv(counts, cell, cell.input_len + new)


def fits(need_bytes: int, have_bytes: int | None) -> Literal["fits", "tight", "no", "unknown"]:
    """Return whether a need fits: fits, tight or no; unknown if the memory size is unknown."""
    if have_bytes is None:
        return "unknown"
    if need_bytes > have_bytes:
        return "no"
    return "tight" if need_bytes > TIGHT_OVER * have_bytes else "fits"


def pair_bytes(counts: Counts, model_type: str, cell: Cell) -> int:
    """Return the bytes per pair of tokens and head; 0 for a fused attention."""
    if model_type == SHARED_KEY_ONLY and counts.kv_heads > 1:
        return 0
    chosen = cell.options.get("attn_implementation", "default")
    eager = chosen == "eager" or (chosen == "default" and counts.writes_scores)
    return PAIR_BYTES.get(model_type, EAGER_PAIR_BYTES if eager else 0)


def _kv(counts: Counts, cell: Cell, tokens: int, encoder_tokens: int = 0) -> int:
    return cell.batch_size * formulas.held_kv_bytes(counts, cell.dtype, tokens, encoder_tokens)


def _prefill_bytes(counts: Counts, model_type: str, cell: Cell) -> int:
    """Return the peak of the prefill beyond its cache, over all kinds of block."""
    tokens, itemsize = cell.batch_size * cell.input_len, ITEMSIZE[cell.dtype]
    slow = SLOW_WIDE if model_type in SLOW_GELU else WIDE
    wide = GATED_WIDE if counts.gated and model_type not in SLOW_GELU else slow
    inner = wide * counts.inner
    if counts.experts > 1:  # gate and up projection are one product, over the tokens of each expert
        inner = counts.experts_per_token * ((wide + 1) * counts.inner + counts.hidden)
    feed_forward = tokens * (inner + NARROW * counts.hidden) * itemsize
    pairs = pair_bytes(counts, model_type, cell) * counts.heads * tokens * cell.input_len
    attention = pairs + tokens * EAGER_NARROW * counts.hidden * itemsize if pairs else 0
    biases = counts.heads * cell.input_len**2 * itemsize if counts.relative_biases else 0
    return max(feed_forward, attention) + biases


def _step_bytes(counts: Counts, cell: Cell, kv_bytes: int) -> int:
    """Return the memory of a decode step: logits, and the old and new keys of one layer during concatenation."""
    logits = cell.batch_size * counts.vocabulary * ITEMSIZE[cell.dtype]
    static = cell.options.get("cache") == "static"
    return logits + (0 if static else kv_bytes // (2 * counts.layers))
