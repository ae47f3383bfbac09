"""Exact formulas over a model's counts: parameters, bytes, operations.

An operation is one multiplication or addition of a matrix product; other operations (norms, activations, softmax,
the update of a recurrent state) are few and not counted. Tests compare each formula with real tensors and torch's
own counter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbench.models.counts import Attended, Cached, Counts

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


def weight_bytes(counts: Counts, dtype: str) -> int:
    """Return the bytes of all parameters; a family may keep some in float32."""
    wide = counts.wide_parameters + (counts.wide_in_float16 if dtype == "float16" else 0)
    return counts.parameters * ITEMSIZE[dtype] + wide * (ITEMSIZE["float32"] - ITEMSIZE[dtype])


def step_weight_bytes(counts: Counts, dtype: str) -> int:
    """Return the least bytes of weights that one decode step must read at any batch size.

    An embedding table is not read as a whole unless it is also the output head; a mixture reads at least the
    experts of one token; an encoder is not read any more.
    """
    return counts.step_numbers * ITEMSIZE[dtype]


def table_bytes(counts: Counts, dtype: str) -> int:
    """Return the bytes of the embedding tables that a decode step does not read as a whole."""
    return counts.table_numbers * ITEMSIZE[dtype]


def saved_bytes(counts: Counts, dtype: str, scheme: str, stored: int | None = None) -> int | None:
    """Return by how much quantised weights are smaller; None for a scheme, or a kind of layer, that is not known.

    `stored` are the bytes of a checkpoint that is quantised in its files; it counts before any formula.
    """
    if stored is not None:
        return weight_bytes(counts, dtype) - stored
    if scheme not in QUANTISED or counts.experts > 1 or counts.encoder_layers:
        return None
    weights = sum(each.count * each.inner * each.columns for each in counts.products)
    rows = sum(each.count * each.columns for each in counts.products)
    matrices = counts.layers * (7 if counts.gated else 6)
    code, scales, of_row, of_matrix = QUANTISED[scheme]
    of_weight = code + scales * ITEMSIZE[dtype]
    return int(weights * (ITEMSIZE[dtype] - of_weight) - of_row * rows - of_matrix * matrices)


def kv_bytes_per_token(counts: Counts, dtype: str) -> int:
    """Return the bytes of keys and values per token of a sequence, before any window is full."""
    numbers = sum(each.layers * each.token_numbers for each in counts.cached)
    return numbers * ITEMSIZE[dtype]


def lasting_kv_bytes_per_token(counts: Counts, dtype: str) -> int:
    """Return the bytes per token of a sequence that is longer than every window and chunk."""
    numbers = sum(each.layers * each.token_numbers for each in counts.cached if not each.limit)
    return numbers * ITEMSIZE[dtype]


def state_bytes(counts: Counts, dtype: str) -> int:
    """Return the bytes of the states of fixed size that one sequence has, however long it is."""
    return sum(_state_bytes(each, dtype) for each in counts.cached)


def cross_kv_bytes_per_token(counts: Counts, dtype: str) -> int:
    """Return the bytes that a decoder caches per encoder token; 0 without an encoder."""
    return counts.cross_numbers * ITEMSIZE[dtype]


def kv_bytes(counts: Counts, dtype: str, tokens: int, encoder_tokens: int = 0) -> int:
    """Return the bytes of keys, values and states that a step reads in one sequence, including its own token."""
    return read_kv_bytes(counts, dtype, tokens, 1, encoder_tokens)


def held_kv_bytes(counts: Counts, dtype: str, tokens: int, encoder_tokens: int = 0) -> int:
    """Return the bytes that the dynamic cache of transformers holds for one sequence after a step."""
    own = sum(
        each.layers * each.held_numbers * _within(tokens, each.limit) * ITEMSIZE[dtype]
        + _state_bytes(each, dtype)
        for each in counts.cached
    )
    return own + encoder_tokens * cross_kv_bytes_per_token(counts, dtype)


def read_kv_bytes(
    counts: Counts, dtype: str, tokens: int, steps: int, encoder_tokens: int = 0
) -> int:
    """Return the sum of `kv_bytes` over this many steps, of which the first has `tokens` tokens with its own."""
    numbers = sum(
        each.layers
        * each.token_numbers
        * _summed(tokens, steps, each.limit, chunked=each.kind == "chunk")
        for each in counts.cached
    )
    fixed = state_bytes(counts, dtype) + encoder_tokens * cross_kv_bytes_per_token(counts, dtype)
    return numbers * ITEMSIZE[dtype] + steps * fixed


def prompt_token_flops(counts: Counts) -> int:
    """Return the operations of one prompt token without attention and head: a lower bound for any prompt.

    With an encoder, this is the encoder's layers and each decoder layer's keys and values of its output.
    """
    return 2 * counts.prompt_weights


def prefill_flops(counts: Counts, input_len: int, *, square: bool = False) -> int:
    """Return the operations from the prompt to the first new token of one sequence.

    Every prompt token passes through all layers, the last one through the output head. Causal attention needs half
    a square; `square` counts the full square, as masking kernels and torch's counter do. With an encoder: the full
    attention of the encoder over the prompt, and one decoder step.
    """
    linear = input_len * prompt_token_flops(counts)
    attention = prefill_attention_flops(counts, input_len, square=square)
    if counts.encoder_layers:
        return linear + attention + decode_flops(counts, 0, input_len)
    return linear + attention + 2 * counts.head_weights


def prefill_attention_flops(counts: Counts, input_len: int, *, square: bool = False) -> int:
    """Return the operations of a prompt's tokens that attend to each other, in the encoder if there is one."""
    if counts.encoder_layers:
        return counts.encoder_pair_flops * input_len**2
    return sum(
        each.pair_flops
        * (input_len**2 if square else _summed(1, input_len, each.limit, chunked=each.chunked))
        for each in counts.attended
    )


def decode_flops(counts: Counts, past_len: int, encoder_len: int = 0) -> int:
    """Return the operations of a decode step after `past_len` tokens in one sequence."""
    return decode_flops_of_steps(counts, past_len, 1, encoder_len)


def decode_flops_of_steps(counts: Counts, past_len: int, steps: int, encoder_len: int = 0) -> int:
    """Return the operations of this many decode steps in one sequence, the first after `past_len` tokens."""
    each_step = 2 * (counts.token_weights + counts.head_weights)
    each_step += counts.cross_pair_flops * encoder_len
    return steps * each_step + sum(
        _attention_flops(each, past_len + 1, steps) for each in counts.attended
    )


def _attention_flops(attended: Attended, tokens: int, steps: int) -> int:
    return attended.pair_flops * _summed(tokens, steps, attended.limit, chunked=attended.chunked)


def _state_bytes(cached: Cached, dtype: str) -> int:
    return cached.layers * (cached.state_numbers * ITEMSIZE[dtype] + cached.state_bytes)


def _within(tokens: int, limit: int | None) -> int:
    """Return how many of `tokens` a cache holds."""
    return min(tokens, limit or tokens)


def _summed(tokens: int, steps: int, limit: int | None, *, chunked: bool = False) -> int:
    """Return how many tokens are attended to in `steps` steps, of which the first has `tokens` with its own."""
    last = tokens + steps - 1
    return _all_up_to(last, limit, chunked=chunked) - _all_up_to(tokens - 1, limit, chunked=chunked)


def _all_up_to(tokens: int, limit: int | None, *, chunked: bool) -> int:
    """Return how many tokens the first `tokens` attend to: all, the last `limit`, or those of their own chunk."""
    if not limit or tokens <= limit:
        return tokens * (tokens + 1) // 2
    whole, rest = divmod(tokens, limit) if chunked else (1, 0)
    triangle = limit * (limit + 1) // 2
    return whole * triangle + (rest * (rest + 1) // 2 if chunked else (tokens - limit) * limit)
