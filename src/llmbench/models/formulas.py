"""Exact formulas over a model's shape: parameters, bytes, operations.

An operation is one multiplication or addition of a matrix product; other operations (norms, activations, softmax)
are below one percent and not counted. Tests compare each formula with real tensors and torch's own counter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbench.models.shape import Shape

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number."""

QUANTISED = {
    "bnb-nf4": (1 / 2 + 4 / 64, 0, 0, 64),
    "bnb-int8": (1, 0, 4, 0),
    "torchao-int8": (1, 0, 5, 0),
    "torchao-int4": (1 / 2, 2 / 32, 0, 0),
    "ct-int8": (1, 0, 4, 0),
    "ct-int4": (1 / 2, 1 / 32, 0, 0),
}
"""Bytes of a weight with float32 scales; scales a weight in the dtype; bytes a row and a matrix: of linear layers."""
WEIGHT_ONLY = frozenset({"bnb-nf4", "torchao-int8", "torchao-int4", "ct-int4"})
"""The schemes whose products are computed in the cell's dtype."""


def parameters(shape: Shape) -> int:
    """Return the number of parameters, counting tied ones once."""
    decoder = shape.layers * _decoder_layer(shape) + _ends(shape)
    return _embeddings(shape) + _encoder(shape) + decoder + _head(shape)


def active_parameters(shape: Shape) -> int:
    """Return the number of parameters that one token uses: in a mixture, only its experts."""
    idle = shape.experts - shape.experts_per_token
    return parameters(shape) - shape.layers * idle * _mlp(shape)


def weight_bytes(shape: Shape, dtype: str) -> int:
    """Return the bytes of all parameters; under float16 a family may keep some in float32."""
    blocks = shape.layers + shape.encoder_layers
    wide = blocks * shape.inner * shape.hidden if shape.mlp_out_wide and dtype == "float16" else 0
    return parameters(shape) * ITEMSIZE[dtype] + wide * (ITEMSIZE["float32"] - ITEMSIZE["float16"])


def step_weight_bytes(shape: Shape, dtype: str) -> int:
    """Return the least bytes of weights that one decode step must read at any batch size.

    An embedding table is not read as a whole unless it is also the output head; a mixture reads at least the
    experts of one token; an encoder is not read any more.
    """
    read = active_parameters(shape) - _encoder(shape)
    if shape.encoder_layers:
        read -= shape.layers * _cross_keys_values(shape)  # computed once, with the prompt
    return read * ITEMSIZE[dtype] - table_bytes(shape, dtype)


def table_bytes(shape: Shape, dtype: str) -> int:
    """Return the bytes of the embedding tables that a decode step does not read as a whole."""
    return (
        _tables(shape) - (shape.vocabulary * shape.embedding_width if shape.tied else 0)
    ) * ITEMSIZE[dtype]


def saved_bytes(shape: Shape, dtype: str, scheme: str, stored: int | None = None) -> int | None:
    """Return by how much quantised weights are smaller; None for a scheme, or a kind of layer, that is not known.

    `stored` are the bytes of a checkpoint that is quantised in its files; it counts before any formula.
    """
    if stored is not None:
        return weight_bytes(shape, dtype) - stored
    if scheme not in QUANTISED or shape.experts > 1 or shape.encoder_layers:
        return None
    ways_in = 2 if shape.gated else 1
    weights = _attention(shape) + (ways_in + 1) * shape.hidden * shape.inner
    rows = (shape.heads + 2 * shape.kv_heads) * shape.head_dim + 2 * shape.hidden
    rows += ways_in * shape.inner
    code, scales, of_row, of_matrix = QUANTISED[scheme]
    of_weight = code + scales * ITEMSIZE[dtype]
    layer = of_weight * weights + of_row * rows + of_matrix * (5 + ways_in)
    return int(shape.layers * (weights * ITEMSIZE[dtype] - layer))


def kv_bytes_per_token(shape: Shape, dtype: str) -> int:
    """Return the bytes of keys and values per token of a sequence, before any window is full."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * ITEMSIZE[dtype]


def cross_kv_bytes_per_token(shape: Shape, dtype: str) -> int:
    """Return the bytes that a decoder caches per encoder token; 0 without an encoder."""
    return kv_bytes_per_token(shape, dtype) if shape.encoder_layers else 0


def kv_bytes(shape: Shape, dtype: str, tokens: int, encoder_tokens: int = 0) -> int:
    """Return the bytes of keys and values that a step attends to in one sequence, including its own token."""
    return _kv_numbers(shape, shape.kv_heads, tokens, encoder_tokens) * ITEMSIZE[dtype]


def held_kv_bytes(shape: Shape, dtype: str, tokens: int, encoder_tokens: int = 0) -> int:
    """Return the bytes that the dynamic cache of transformers holds for one sequence after a step.

    These are the bytes attended to, except in Falcon's newer decoder, which caches a copy per head.
    """
    return _kv_numbers(shape, shape.cached_heads, tokens, encoder_tokens) * ITEMSIZE[dtype]


def prompt_token_flops(shape: Shape) -> int:
    """Return the operations of one prompt token without attention and head: a lower bound for any prompt.

    With an encoder, this is the encoder's layers and each decoder layer's keys and values of its output.
    """
    if not shape.encoder_layers:
        return 2 * _multiplied(shape)
    encoder = shape.encoder_layers * (_attention(shape) + _mlp(shape))
    return 2 * (encoder + shape.layers * _cross_keys_values(shape))


def prefill_flops(shape: Shape, input_len: int, *, square: bool = False) -> int:
    """Return the operations from the prompt to the first new token of one sequence.

    Every prompt token passes through all layers, the last one through the output head. Causal attention needs half
    a square; `square` counts the full square, as masking kernels and torch's counter do. With an encoder: the full
    attention of the encoder over the prompt, and one decoder step.
    """
    linear = input_len * prompt_token_flops(shape)
    if shape.encoder_layers:
        pairs = shape.encoder_layers * input_len**2
        return linear + pairs_flops(shape) * pairs + decode_flops(shape, 0, input_len)
    pairs = shape.layers * input_len**2 if square else _causal_pairs(shape, input_len)
    return linear + pairs_flops(shape) * pairs + _head_flops(shape)


def decode_flops(shape: Shape, past_len: int, encoder_len: int = 0) -> int:
    """Return the operations of a decode step after `past_len` tokens in one sequence."""
    full = (shape.layers - shape.sliding_layers) * (past_len + 1)
    sliding = shape.sliding_layers * min(past_len + 1, shape.window or past_len + 1)
    cross = shape.layers * encoder_len
    return (
        2 * _multiplied(shape) + pairs_flops(shape) * (full + sliding + cross) + _head_flops(shape)
    )


def pairs_flops(shape: Shape) -> int:
    """Return the operations of one token attending to another in one layer: the score and the weighted value."""
    return 4 * shape.heads * shape.head_dim


def prefill_pairs(shape: Shape, input_len: int) -> int:
    """Return how many pairs of tokens attend during the prefill of one sequence, over all layers."""
    if shape.encoder_layers:
        return shape.encoder_layers * input_len**2
    return _causal_pairs(shape, input_len)


def _embeddings(shape: Shape) -> int:
    projections = 2 * shape.embedding_width * shape.hidden
    return (
        _tables(shape)
        + shape.embedding_norms * _norm(shape)
        + (projections if shape.embedding_width != shape.hidden else 0)
    )


def _tables(shape: Shape) -> int:
    return shape.vocabulary * shape.embedding_width + shape.positions * shape.hidden


def _head(shape: Shape) -> int:
    bias = shape.vocabulary if shape.head_bias else 0
    return bias + (0 if shape.tied else shape.vocabulary * shape.embedding_width)


def _layer(shape: Shape) -> int:
    """Return the parameters of a layer without cross-attention."""
    norms = shape.layer_norms * _norm(shape) + (2 * shape.head_dim if shape.qk_norm else 0)
    router = shape.hidden * shape.experts if shape.experts > 1 else 0
    return (
        _attention(shape) + _attention_biases(shape) + shape.experts * _mlp(shape) + router + norms
    )


def _encoder(shape: Shape) -> int:
    return shape.encoder_layers * _layer(shape) + _ends(shape) if shape.encoder_layers else 0


def _ends(shape: Shape) -> int:
    """Return the parameters of a stack that are outside its layers."""
    return shape.final_norms * _norm(shape) + shape.relative_buckets * shape.heads


def _decoder_layer(shape: Shape) -> int:
    cross = _attention(shape) + _attention_biases(shape) + _norm(shape)
    return _layer(shape) + (cross if shape.encoder_layers else 0)


def _norm(shape: Shape) -> int:
    return shape.norm_vectors * shape.hidden


def _attention(shape: Shape) -> int:
    """Return the weights of queries, keys, values and output."""
    return 2 * shape.hidden * (shape.heads + shape.kv_heads) * shape.head_dim


def _attention_biases(shape: Shape) -> int:
    qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_dim if shape.qkv_bias else 0
    return qkv + (shape.hidden if shape.out_bias else 0)


def _cross_keys_values(shape: Shape) -> int:
    return 2 * shape.hidden * shape.kv_heads * shape.head_dim


def _mlp(shape: Shape) -> int:
    """Return the parameters of one feed-forward block, one expert of a mixture."""
    ways_in = 2 if shape.gated else 1
    biases = ways_in * shape.inner + shape.hidden if shape.mlp_bias else 0
    return (ways_in + 1) * shape.hidden * shape.inner + biases


def _multiplied(shape: Shape) -> int:
    """Return the weights of all matrices that one decoder token is multiplied with, without the head."""
    ways = 3 if shape.gated else 2
    mlp = shape.experts_per_token * ways * shape.hidden * shape.inner
    router = shape.hidden * shape.experts if shape.experts > 1 else 0
    cross = _attention(shape) - _cross_keys_values(shape) if shape.encoder_layers else 0
    ends = 2 * shape.embedding_width * shape.hidden if shape.embedding_width != shape.hidden else 0
    return shape.layers * (_attention(shape) + mlp + router + cross) + ends


def _head_flops(shape: Shape) -> int:
    return 2 * shape.vocabulary * shape.embedding_width


def _causal_pairs(shape: Shape, tokens: int) -> int:
    """Return how many pairs of tokens attend, over all layers; the n-th token sees n, a window at most."""
    window = min(tokens, shape.window or tokens)
    full = tokens * (tokens + 1) // 2
    sliding = window * (window + 1) // 2 + (tokens - window) * window
    return (shape.layers - shape.sliding_layers) * full + shape.sliding_layers * sliding


def _kv_numbers(shape: Shape, heads: int, tokens: int, encoder_tokens: int) -> int:
    """Return the count of numbers in the keys and values of these tokens, over all layers."""
    full = (shape.layers - shape.sliding_layers) * tokens
    sliding = shape.sliding_layers * min(tokens, shape.window or tokens)
    cross = shape.layers * encoder_tokens if shape.encoder_layers else 0
    return 2 * (full + sliding + cross) * heads * shape.head_dim
