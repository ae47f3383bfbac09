"""The counts of a model whose family has a row in `shape`, computed from the numbers of its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmbench.models.counts import Attended, Cached, Counts, Product
from llmbench.models.shape import shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmbench.models.shape import Shape


def counts_of(model_type: str | None, config: Mapping[str, Any]) -> Counts | None:
    """Return the counts of a model, or None if its family or one of its numbers has no row."""
    shape = shape_of(model_type, config)
    return None if shape is None else of_shape(shape)


def of_shape(shape: Shape) -> Counts:
    """Return the counts of a shape."""
    parameters = (
        _embeddings(shape) + _encoder(shape) + shape.layers * _decoder_layer(shape)
        + _ends(shape) + _head(shape)
    )  # fmt: skip
    active = parameters - shape.layers * (shape.experts - shape.experts_per_token) * _mlp(shape)
    tables = _tables(shape) - (shape.vocabulary * shape.embedding_width if shape.tied else 0)
    token = _multiplied(shape)
    # The keys and values of the encoder's tokens are computed once, with the prompt.
    once = shape.layers * _cross_keys_values(shape) if shape.encoder_layers else 0
    encoder = shape.encoder_layers * (_attention(shape) + _mlp(shape))
    pair_flops = 4 * shape.heads * shape.head_dim
    return Counts(
        parameters=parameters,
        active_parameters=active,
        wide_in_float16=(shape.layers + shape.encoder_layers) * shape.inner * shape.hidden
        if shape.mlp_out_wide
        else 0,
        step_numbers=active - _encoder(shape) - once - tables,
        table_numbers=tables,
        token_weights=token,
        prompt_weights=encoder + once if shape.encoder_layers else token,
        head_weights=shape.vocabulary * shape.embedding_width,
        cached=list(_cached(shape)),
        attended=[
            Attended(pair_flops=layers * pair_flops, limit=limit)
            for layers, limit in _by_window(shape)
        ],
        cross_numbers=shape.layers * _kv_numbers(shape) if shape.encoder_layers else 0,
        cross_pair_flops=shape.layers * pair_flops if shape.encoder_layers else 0,
        encoder_pair_flops=shape.encoder_layers * pair_flops,
        layers=shape.layers,
        encoder_layers=shape.encoder_layers,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        inner=shape.inner,
        gated=shape.gated,
        experts=shape.experts,
        experts_per_token=shape.experts_per_token,
        vocabulary=shape.vocabulary,
        relative_biases=shape.relative_buckets > 0,
        products=_products(shape),
    )


def _cached(shape: Shape) -> Iterator[Cached]:
    for layers, limit in _by_window(shape):
        yield Cached(
            kind="window" if limit else "full",
            layers=layers,
            limit=limit,
            token_numbers=_kv_numbers(shape),
            held_numbers=2 * shape.cached_heads * shape.head_dim,
        )


def _by_window(shape: Shape) -> Iterator[tuple[int, int | None]]:
    """Yield how many layers there are without a window and with it."""
    for layers, limit in (
        (shape.layers - shape.sliding_layers, None),
        (shape.sliding_layers, shape.window),
    ):
        if layers:
            yield layers, limit


def _kv_numbers(shape: Shape) -> int:
    return 2 * shape.kv_heads * shape.head_dim


def _products(shape: Shape) -> list[Product]:
    """Return the products of the decoder's layers, or of the encoder's, which are alike."""
    inside, layers = shape.heads * shape.head_dim, shape.layers
    experts = shape.experts if shape.experts > 1 else 0
    sent = layers * shape.experts_per_token
    return [
        Product(count=layers, inner=shape.hidden, columns=inside + _kv_numbers(shape)),
        Product(count=layers, inner=inside, columns=shape.hidden),
        Product(
            count=sent * (2 if shape.gated else 1), inner=shape.hidden, columns=shape.inner, experts=experts
        ),
        Product(count=sent, inner=shape.inner, columns=shape.hidden, experts=experts),
    ]  # fmt: skip


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
