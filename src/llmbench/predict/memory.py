"""What a cell holds in memory at most: weights and cache exactly, the rest from how a forward pass goes.

Weights, keys and values are counted tensors. Activations follow the moment of a pass that holds most:
a feed-forward block, attention scores where they are written out, or a layer of the cache while it grows.
Tests hold them against the tensors that a profiler saw alive. transformers' own loops are meant; of an
engine that sets memory aside for itself, nothing is known from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from llmbench.models import formulas
from llmbench.models.formulas import ITEMSIZE

if TYPE_CHECKING:
    from llmbench.models.shape import Shape
    from llmbench.spec.sweep import Cell

TIGHT_OVER = 0.9
"""Above this share of what there is, an allocator's fragments may decide: told as tight, and tried."""

PAIR_BYTES = {"mpt": 12, "gptj": 12, "bloom": 16, "falcon": 8}
"""Bytes for each pair of tokens in a layer's heads, by families whose attention writes its scores out.

The first three know no fused attention: scores, their masked copy and a softmax in float32. Falcon shares one
key among all heads, which torch's fused kernels refuse. Counted with torch's profiler, transformers 5.19."""
EAGER_PAIR_BYTES = 12
"""The same where `attn_implementation: eager` asks for it."""
SHARED_KEY_ONLY = "falcon"

SLOW_GELU = frozenset({"gptj", "gpt2", "t5"})
"""Families whose activation is made of single operations, each with a copy of its own."""

WIDE, SLOW_WIDE, GATED_WIDE = 2, 4, 3
"""Copies as wide as the feed-forward layer that live at once: in and out; four; gate, up and their product."""
NARROW, EAGER_NARROW = 4, 9
"""Copies as wide as the model beside them: the residual stream, its norm, and two on their way."""

CUDA_CONTEXT_BYTES = 2**29
"""A CUDA context with torch's kernels, loaded as needed; an assumption: no GPU has measured it here yet."""
CUDA_WORKSPACE_BYTES = 2**25
"""cuBLAS's workspace on Hopper, 32 MiB (CUBLAS_WORKSPACE_CONFIG in torch's documentation); less on older chips."""
PROCESS_BYTES = 345 * 2**20
"""A worker with torch 2.13 and transformers 5.19 imported, after a model of 1 MiB: results/*-quickstart."""
HOST_WORKSPACE_SHARE = 2.0
"""What a CPU's libraries and its malloc hold beside the activations, as a multiple of them: oneDNN's reordered
copies and pieces not given back. 1.7 to 2.7 in the largest cells of results/*-cpu-small."""


class Footprint(NamedTuple):
    """Bytes of the whole batch; `activation_bytes` is what the peak holds beyond weights and the final cache."""

    weights_bytes: int
    kv_cache_bytes: int
    activation_bytes: int
    workspace_bytes: int
    context_bytes: int

    @property
    def need_bytes(self) -> int:
        """Return all of it."""
        return sum(self)


def footprint(shape: Shape, model_type: str, cell: Cell) -> Footprint:
    """Return what a cell needs at its peak."""
    kv_end = kv_cache_bytes(shape, cell)
    prompt = _kv(
        shape, cell, *((1, cell.input_len) if shape.encoder_layers else (cell.input_len, 0))
    )
    prefill = min(prompt, kv_end) + _prefill_bytes(shape, model_type, cell)
    decode = kv_end + _step_bytes(shape, cell, kv_end)
    activations = max(prefill, decode) - kv_end
    on_cpu = cell.device == "cpu"
    share = int(HOST_WORKSPACE_SHARE * max(0, activations))
    return Footprint(
        weights_bytes=formulas.weight_bytes(shape, cell.dtype),
        kv_cache_bytes=kv_end,
        activation_bytes=max(0, activations),
        workspace_bytes=share if on_cpu else CUDA_WORKSPACE_BYTES,
        context_bytes=PROCESS_BYTES if on_cpu else CUDA_CONTEXT_BYTES,
    )


def kv_cache_bytes(shape: Shape, cell: Cell) -> int:
    """Return the keys and values held at the end: the last new token is never fed, so it has none.

    A static cache has room for it all the same. Beside an encoder's tokens a decoder holds the start token.
    """
    new = cell.output_len - (cell.options.get("cache") != "static")
    if shape.encoder_layers:
        return _kv(shape, cell, 1 + new, cell.input_len)
    return _kv(shape, cell, cell.input_len + new)


def fits(need_bytes: int, have_bytes: int | None) -> Literal["fits", "tight", "no", "unknown"]:
    """Return how a need goes into what there is: fits, tight, no; unknown if nobody says what there is."""
    if have_bytes is None:
        return "unknown"
    if need_bytes > have_bytes:
        return "no"
    return "tight" if need_bytes > TIGHT_OVER * have_bytes else "fits"


def pair_bytes(shape: Shape, model_type: str, cell: Cell) -> int:
    """Return the bytes that one token attending to another takes in one head; 0 for a fused attention."""
    if model_type == SHARED_KEY_ONLY and shape.kv_heads > 1:
        return 0
    eager = cell.options.get("attn_implementation") == "eager"
    return PAIR_BYTES.get(model_type, EAGER_PAIR_BYTES if eager else 0)


def _kv(shape: Shape, cell: Cell, tokens: int, encoder_tokens: int = 0) -> int:
    return cell.batch_size * formulas.held_kv_bytes(shape, cell.dtype, tokens, encoder_tokens)


def _prefill_bytes(shape: Shape, model_type: str, cell: Cell) -> int:
    """Return the most that the prompts' pass holds beside its cache, in whichever block that is."""
    tokens, itemsize = cell.batch_size * cell.input_len, ITEMSIZE[cell.dtype]
    slow = SLOW_WIDE if model_type in SLOW_GELU else WIDE
    wide = GATED_WIDE if shape.gated and model_type not in SLOW_GELU else slow
    inner = wide * shape.inner
    if shape.experts > 1:  # the gate and the way up are one product, over the tokens of each expert
        inner = shape.experts_per_token * ((wide + 1) * shape.inner + shape.hidden)
    feed_forward = tokens * (inner + NARROW * shape.hidden) * itemsize
    pairs = pair_bytes(shape, model_type, cell) * shape.heads * tokens * cell.input_len
    attention = pairs + tokens * EAGER_NARROW * shape.hidden * itemsize if pairs else 0
    biases = shape.heads * cell.input_len**2 * itemsize if shape.relative_buckets else 0
    return max(feed_forward, attention) + biases


def _step_bytes(shape: Shape, cell: Cell, kv_bytes: int) -> int:
    """Return what a decode step holds: the logits, and old and new keys of one layer while they are joined."""
    logits = cell.batch_size * shape.vocabulary * ITEMSIZE[cell.dtype]
    static = cell.options.get("cache") == "static"
    return logits + (0 if static else kv_bytes // (2 * shape.layers))
