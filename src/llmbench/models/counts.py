"""What is counted on a model: parameters, what a token multiplies and attends to, what a cache holds.

The counts come from the row of the model's family (`shape`), or from the model itself, built without weights in a
child process (`measure/ask`). Formulas need nothing else.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["full", "window", "chunk", "latent", "recurrent"]
"""What a layer's cache holds: all tokens; the last ones; those of the current chunk; a short vector of all tokens
that stands for keys and values; a state of fixed size."""


class Cached(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What layers of one kind keep of the past, for one sequence. Layers that share another's cache keep nothing.

    Attributes:
        layers: of this kind.
        token_numbers: a token's numbers in one layer, as the architecture needs them.
        held_numbers: as the dynamic cache of transformers holds them: Falcon copies a key for each head, and latent
            attention is kept expanded.
        limit: the most tokens that are kept; None = all.
        state_numbers: of a state of fixed size in one layer, in the model's dtype.
        state_bytes: of a state of fixed size in one layer, in a dtype of its own.

    """

    kind: Kind
    layers: int
    token_numbers: int = 0
    held_numbers: int = 0
    limit: int | None = None
    state_numbers: int = 0
    state_bytes: int = 0


class Attended(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Operations of layers that attend to the same tokens.

    Attributes:
        pair_flops: of one token that attends to another, over all these layers: the score and the weighted value.
        limit: the most tokens that are attended to, the current one included; None = all.
        chunked: whether the past begins anew every `limit` tokens, instead of sliding.

    """

    pair_flops: int
    limit: int | None = None
    chunked: bool = False


class Product(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Matrix products with weights that a token passes: `count` of [rows, inner] times [inner, columns].

    With `experts`, each token is sent to `count` of so many matrices.
    """

    count: int
    inner: int
    columns: int
    experts: int = 0


class Counts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The counts of one model.

    Attributes:
        parameters: tied ones once.
        active_parameters: those that one token uses; in a mixture, only its experts.
        wide_parameters: kept in float32 whatever the dtype.
        wide_in_float16: further ones that are kept in float32 under float16.
        step_numbers: the fewest weights that a decode step reads at any batch size.
        table_numbers: embedding tables, which a decode step does not read as a whole.
        token_weights: weights that one token of a decode step is multiplied with, without the output head.
        prompt_weights: the same of a prompt token; with an encoder, the encoder's, and what the decoder computes once.
        head_weights: of the output head.
        cached: the decoder's cache.
        attended: the decoder's attention.
        cross_numbers: keys and values per encoder token, in all layers.
        cross_pair_flops: of a decoder token that attends to an encoder's, in all layers.
        encoder_pair_flops: of a prompt token that attends to another in the encoder, in all layers.
        layers: of the decoder.
        inner: width of a feed-forward block, of one expert in a mixture.
        relative_biases: whether attention adds a bias per pair of tokens and head.
        writes_scores: whether the attention that transformers chooses writes every score to memory.
        products: of a layer's weights in a decode step, over all layers.

    """

    parameters: int
    active_parameters: int
    wide_parameters: int = 0
    wide_in_float16: int = 0
    step_numbers: int
    table_numbers: int
    token_weights: int
    prompt_weights: int
    head_weights: int
    cached: list[Cached]
    attended: list[Attended]
    cross_numbers: int = 0
    cross_pair_flops: int = 0
    encoder_pair_flops: int = 0
    layers: int
    encoder_layers: int = 0
    hidden: int
    heads: int
    kv_heads: int
    inner: int
    gated: bool = False
    experts: int = 1
    experts_per_token: int = 1
    vocabulary: int
    relative_biases: bool = False
    writes_scores: bool = False
    products: list[Product]

    @property
    def window(self) -> int | None:
        """Return the tokens that a sliding layer attends to; None if no layer slides."""
        return next((each.limit for each in self.attended if each.limit and not each.chunked), None)


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model that was built without weights says of itself.

    Attributes:
        parameters: tied ones once.
        parameter_bytes: by the dtype that they would have in a model of bfloat16.
        model_class: that transformers builds.
        attention: the implementation of it that transformers chooses.
        counts: None if the model could be built, but not run without weights.
        why: in that case, the reason.

    """

    parameters: int
    parameter_bytes: dict[str, int]
    model_class: str
    attention: str
    counts: Counts | None = None
    why: str = ""
