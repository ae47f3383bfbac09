"""What a model says of itself: built without weights on torch's meta device, and run there on a few tokens.

Run as a program, it reads models as JSON from stdin, and writes a `ModelAnswer` or the reason why there is none for
each, a line of JSON, to stdout. Every matrix product is seen as torch dispatches it, and every parameter as it is read:
experts by the rows that a token takes of them, embeddings by their look-up. The cache is the one of the backend.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import torch
import transformers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, EncoderDecoderCache
from transformers.initialization import no_init_weights
from transformers.utils import logging

from llmbench.backends.config import builder, of_model
from llmbench.backends.memory import tensors_of
from llmbench.backends.transformers.loops import decoder_config, two_caches, word_for_cache
from llmbench.models.counts import Attended, Cached, Counts, Kind, ModelAnswer, Product
from llmbench.models.resolve import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DTYPE = torch.bfloat16
"""The dtype of the model that is asked; what does not follow it has a dtype of its own."""
FEW, MORE = 2, 4
"""Tokens of two prompts, shorter than any window, between which everything grows by the same for each token."""
BEYOND = 3
"""Tokens by which the longest prompt exceeds the largest window."""
LIMITS = re.compile(r"window|chunk|local")
"""The names of settings that may limit how far a layer attends."""
MOST_TOKENS = 2**17
"""A larger setting limits nothing that is measured."""
ATEN = torch.ops.aten


def main() -> None:
    """Answer for every model on stdin; only the answers go to stdout, other prints to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    logging.set_verbosity_error()
    torch.distributions.Distribution.set_default_validate_args(value=False)  # which looks at values
    models = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Model])
    with os.fdopen(answer, "wb") as stream:
        for model in models:
            stream.write(msgspec.json.encode(_answer(model)) + b"\n")
            stream.flush()


def _answer(model: Model) -> ModelAnswer | str:
    """Return what a model says, or in one line why it cannot be built."""
    try:
        return ask(model)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a model's code may raise anything
        return _reason(error)


def _reason(error: BaseException) -> str:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())[:200]}"


def ask(model: Model) -> ModelAnswer:
    """Return what a model says of itself. Raises whatever building it raises."""
    if model.model_type not in transformers.CONFIG_MAPPING:
        version = transformers.__version__
        raise ValueError(f"transformers {version} has no family {model.model_type}")
    built = build(of_model(model, own=True))
    sizes: Counter[str] = Counter()
    for each in built.parameters():
        sizes[str(each.dtype).removeprefix("torch.")] += each.nbytes
    answer = ModelAnswer(
        parameters=sum(each.numel() for each in built.parameters()),
        parameter_bytes=dict(sizes),
        model_class=type(built).__name__,
        attention=str(built.config._attn_implementation),  # noqa: SLF001 - has no public name
    )
    try:
        return msgspec.structs.replace(answer, counts=counts_of(built))
    except Exception as error:  # noqa: BLE001 - likewise
        return msgspec.structs.replace(answer, why=_reason(error))


def build(config: Any) -> Any:
    """Return a model of this configuration without weights, ready to run on the meta device."""
    with torch.device("meta"), no_init_weights():
        model = builder(config).from_config(config, dtype=DTYPE)
    model.tie_weights()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")  # whose shapes depend on no values
    return model.eval()


class WatchedStep(NamedTuple):
    """One decode step, which ends with `tokens` tokens.

    Attributes:
        tokens: in the decoder's sequence, its own included.
        flops: of matrix products without weights, by layer; None = outside the layers.
        held: in each layer of the decoder's cache, numbers in the model's dtype, and bytes in others.
        crossed: numbers in all layers of the cache of an encoder's tokens.
        read: the numbers that were read of each parameter, and whether only by looking up rows of a table.
        products: with weights, outside the output head.
        once: further products, which only the first step computes, of each token of the encoder.

    """

    tokens: int
    flops: Mapping[int | None, int]
    held: Sequence[tuple[int, int]]
    crossed: int
    read: Mapping[str, tuple[int, bool]]
    products: Mapping[Product, int]
    once: Mapping[Product, int]


class Encoded(NamedTuple):
    """A prompt that an encoder has read: its output, operations of attention, and products by token."""

    output: Any
    flops: int
    products: Mapping[Product, int]


def counts_of(model: Any) -> Counts:
    """Return the counts of a built model.

    Raises:
        ValueError: its past grows in a way that is not known.

    """
    config = decoder_config(model)
    encoded = _encoded(model, MORE) if model.config.is_encoder_decoder else None
    few, more, beyond = seen = _three_steps(model, encoded, config)
    attended = _attended(seen, getattr(config, "attention_chunk_size", None))
    crossing = _crossing(model, encoded, more) if encoded else {}
    weights = _weights(more.products)
    whole = sum(numbers for numbers, table in more.read.values() if not table)
    tables = sum(numbers for numbers, table in more.read.values() if table)
    products = [_times(each, times) for each, times in more.products.items()]
    parameters = sum(each.numel() for each in model.parameters())
    return Counts(
        parameters=parameters,
        active_parameters=parameters if encoded else whole + tables,
        wide_parameters=sum(p.numel() for p in model.parameters() if p.dtype == torch.float32),
        wide_in_float16=_wide_in_float16(model),
        step_numbers=whole,
        table_numbers=tables,
        token_weights=weights + _rest(more, attended, crossing),
        head_weights=model.get_output_embeddings().weight.numel(),
        cached=_cached(few, more, beyond, config),
        attended=attended,
        **({"prompt_weights": weights} | crossing),
        **_sizes(config, products),
        writes_scores=model.config._attn_implementation == "eager",  # noqa: SLF001 - has no public name
        products=products,
    )


def _three_steps(
    model: Any, encoded: Encoded | None, config: Any
) -> tuple[WatchedStep, WatchedStep, WatchedStep]:
    """Return steps after few tokens, more of them, and more than any window.

    Raises:
        ValueError: what the cache holds depends on how the tokens came.

    """
    longest = max([9 * MORE, *(limit + BEYOND for limit in _limits(config))])
    few, grown = _steps(model, encoded, FEW, until=MORE + 1)
    (more,), (beyond,) = _steps(model, encoded, MORE), _steps(model, encoded, longest)
    if grown.held != more.held:
        raise ValueError("what its cache holds depends on how the tokens came")
    return few, more, beyond


def _rest(step: WatchedStep, attended: Sequence[Attended], crossing: Mapping[str, int]) -> int:
    """Return what is the same in every step, as weights: converted ones, convolutions, updates of a state."""
    pairs = sum(each.pair_flops for each in attended) * step.tokens
    pairs += crossing.get("cross_pair_flops", 0) * MORE
    return (sum(step.flops.values()) - pairs) // 2


def _weights(products: Mapping[Product, int]) -> int:
    """Return the weights that a token is multiplied with."""
    return sum(times * each.count * each.inner * each.columns for each, times in products.items())


def _times(product: Product, times: int) -> Product:
    return msgspec.structs.replace(product, count=product.count * times)


def _crossing(model: Any, short: Encoded, step: WatchedStep) -> dict[str, Any]:
    """Return the counts that an encoder adds: of its own tokens, and of the decoder that attends to them.

    Raises:
        ValueError: the encoder's attention is not a square.

    """
    long = _encoded(model, 2 * MORE)
    (further,) = _steps(model, long, MORE)
    pair_flops, rest = divmod(short.flops, MORE**2)
    if rest or long.flops != pair_flops * (2 * MORE) ** 2:
        raise ValueError("its encoder does not attend to all tokens")
    once = _weights(short.products) + _weights(step.once)
    return {
        "prompt_weights": once,
        "encoder_pair_flops": pair_flops,
        "encoder_layers": _whole(
            model.config, "encoder_layers", _whole(model.config, "num_layers")
        ),
        "cross_numbers": (further.crossed - step.crossed) // MORE,
        "cross_pair_flops": (sum(further.flops.values()) - sum(step.flops.values())) // MORE,
    }


def _limits(config: Any) -> list[int]:
    """Return every number in a configuration that may limit how far a layer attends."""
    return [
        value
        for name, value in config.to_dict().items()
        if LIMITS.search(name) and isinstance(value, int) and 1 < value < MOST_TOKENS
    ]


def _growth(*points: tuple[int, int]) -> Iterator[tuple[int, int | None]]:
    """Yield by how much an amount grows with each token, and up to how many tokens; nothing where it does not grow.

    Raises:
        ValueError: it grows neither by the same for each token nor up to a limit.

    """
    (few, at_few), (more, at_more), (beyond, at_beyond) = points
    slope, rest = divmod(at_more - at_few, more - few)
    start = at_few - slope * few
    if slope == 0 == rest and at_beyond == at_few:
        return
    if rest or slope <= 0:
        raise ValueError("it grows by another amount with each token")
    limit, rest = divmod(at_beyond - start, slope)
    if rest or not more < limit <= beyond:
        raise ValueError("it grows by another amount beyond its window")
    yield slope, limit if limit < beyond else None


def _attended(steps: Sequence[WatchedStep], chunk: int | None) -> list[Attended]:
    """Return the attention of all layers, those with the same limit together."""
    flops: Counter[int | None] = Counter()
    for layer in steps[1].flops:
        for slope, limit in _growth(*((each.tokens, each.flops[layer]) for each in steps)):
            flops[limit] += slope
    return [
        Attended(pair_flops=slope, limit=limit, chunked=limit is not None and limit == chunk)
        for limit, slope in flops.items()
    ]


def _cached(few: WatchedStep, more: WatchedStep, beyond: WatchedStep, config: Any) -> list[Cached]:
    """Return what the layers of a cache keep, those that keep the same together.

    Raises:
        ValueError: a layer grows in another dtype than the model's.

    """
    kinds: Counter[Cached] = Counter()
    chunk, latent = getattr(config, "attention_chunk_size", None), _latent(config)
    for numbers in range(len(more.held)):
        held = [each.held[numbers] for each in (few, more, beyond)]
        if len({other for _, other in held}) > 1:
            raise ValueError("its cache grows in a dtype of its own")
        growth = list(
            _growth(
                *(
                    (each.tokens, own)
                    for each, (own, _) in zip((few, more, beyond), held, strict=True)
                )
            )
        )
        slope, limit = growth[0] if growth else (0, None)
        state, other = held[0][0] - slope * few.tokens, held[0][1]
        if not (slope or state or other):
            continue  # it shares another layer's, or is no layer that looks back
        kind: Kind = "recurrent" if not slope else "full"
        if slope and latent:
            kind = "latent"
        elif limit:
            kind = "chunk" if limit == chunk else "window"
        kinds[
            Cached(
                kind=kind, layers=1, token_numbers=(latent or slope) if slope else 0, held_numbers=slope,
                limit=limit, state_numbers=state, state_bytes=other,
            )
        ] += 1  # fmt: skip
    return [msgspec.structs.replace(each, layers=layers) for each, layers in kinds.items()]


def _latent(config: Any) -> int | None:
    """Return the numbers per token that latent attention needs; None for other attention."""
    rank = getattr(config, "kv_lora_rank", None)
    return rank + config.qk_rope_head_dim if isinstance(rank, int) and rank else None


def _wide_in_float16(model: Any) -> int:
    """Return how many parameters transformers keeps in float32 under float16 only."""
    modules = set(model._keep_in_fp32_modules or ())  # noqa: SLF001 - has no public name
    return sum(
        each.numel()
        for name, each in model.named_parameters()
        if each.dtype != torch.float32 and not modules.isdisjoint(name.split("."))
    )


def _sizes(config: Any, products: Sequence[Product]) -> dict[str, Any]:
    """Return the widths from which the memory and the time of a pass are estimated."""
    hidden = _whole(config, "hidden_size")
    heads = _whole(config, "num_attention_heads")
    experts = [each for each in products if each.experts]
    narrowing = [each for each in experts or products if each.columns == hidden]
    inner = max((each.inner for each in narrowing), default=hidden)
    widened = sum(
        each.count * each.columns for each in products if each.inner == hidden and each.columns in (inner, 2 * inner)
    )  # fmt: skip
    narrowed = sum(each.count * inner for each in narrowing if each.inner == inner)
    return {
        "layers": _whole(config, "num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": _whole(config, "num_key_value_heads", heads),
        "inner": inner,
        "gated": widened > narrowed,
        "experts": max((each.experts for each in experts), default=1),
        "experts_per_token": _experts(config)[1] if experts else 1,
        "vocabulary": config.vocab_size,
    }


def _experts(config: Any) -> tuple[int, int]:
    """Return how many experts a layer has, and how many of them a token is sent to; 1 and 1 without experts."""
    config = config.get_text_config(decoder=True)
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    return max(_whole(config, name) for name in names), _whole(config, "num_experts_per_tok")


def _whole(config: Any, name: str, otherwise: int = 1) -> int:
    """Return a setting that is one number; another value where it is a list, a number a layer, or missing."""
    with contextlib.suppress(
        Exception
    ):  # a configuration whose layers differ refuses to name one number
        value = getattr(config, name, None)
        return value if isinstance(value, int) else otherwise
    return otherwise


def _steps(
    model: Any, encoded: Encoded | None, prompt: int, until: int | None = None
) -> Iterator[WatchedStep]:
    """Feed a prompt, watch the step of one more token, and then the step that ends with `until` tokens."""
    config = decoder_config(model)
    cache = two_caches(config) if encoded else DynamicCache(config=config)
    own = cache.self_attention_cache if encoded else cache
    layers, once = len(own.layers), Counter[Product]()
    with torch.inference_mode(), Unmasked():
        with _watched(model, layers) if encoded else contextlib.nullcontext() as first:
            _forward(model, cache, prompt, encoded)
        for tokens in range(prompt + 1, max(prompt + 1, until or 0) + 1):
            if tokens not in (prompt + 1, until):
                _forward(model, cache, 1, encoded)
                continue
            with _watched(model, layers) as watch:
                _forward(model, cache, 1, encoded)
            if first:
                once = first.products - watch.products
            yield _seen(tokens, watch, cache, once)


def _seen(tokens: int, watch: Watch, cache: Any, once: Mapping[Product, int]) -> WatchedStep:
    """Return what was seen in a step, and what its cache holds after it."""
    crossed = 0
    if isinstance(cache, EncoderDecoderCache):
        crossed = sum(_numbers(layer)[0] for layer in cache.cross_attention_cache.layers)
        cache = cache.self_attention_cache
    held = [_numbers(layer) for layer in cache.layers]
    if not any(map(any, held)):
        raise ValueError("it leaves the cache empty")
    return WatchedStep(tokens, watch.flops, held, crossed, watch.read, watch.products, once)


def _forward(model: Any, cache: Any, tokens: int, encoded: Encoded | None) -> None:
    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    past = {word_for_cache(model): cache, "use_cache": True}
    if encoded:
        model(decoder_input_ids=ids, encoder_outputs=encoded.output, **past)
    else:
        model(input_ids=ids, **past)


def _encoded(model: Any, tokens: int) -> Encoded:
    """Return what an encoder makes of a prompt."""
    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    with torch.inference_mode(), Unmasked(), _watched(model, 0) as watch:
        output = model.get_encoder()(input_ids=ids, return_dict=True)
    return Encoded(output, sum(watch.flops.values()), watch.products)


def _numbers(layer: Any) -> tuple[int, int]:
    """Return the numbers that a layer of a cache holds in the model's dtype, and the bytes in others."""
    storages = {_storage(each): each for each in tensors_of(vars(layer))}
    sizes = [(each.dtype == DTYPE, each.untyped_storage().nbytes()) for each in storages.values()]
    own = sum(size for follows, size in sizes if follows)
    return own // DTYPE.itemsize, sum(size for follows, size in sizes if not follows)


@contextlib.contextmanager
def _watched(model: Any, layers: int) -> Iterator[Watch]:
    """Watch what the model does; its first list of at least so many modules are its layers."""
    watch = Watch(model)
    listed = (each for each in model.modules() if isinstance(each, torch.nn.ModuleList))
    hooks = [
        hook
        for number, layer in enumerate(next((each for each in listed if len(each) >= layers), ()))
        for hook in (
            layer.register_forward_pre_hook(watch.entering(number)),
            layer.register_forward_hook(watch.entering(None)),
        )
    ]
    try:
        with watch:
            yield watch
    finally:
        for hook in hooks:
            hook.remove()


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - a tensor on meta has no address


class Unmasked(TorchFunctionMode):  # type: ignore[misc]
    """Answers for values that a meta tensor does not have: an attention mask masks nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch; whether all of a mask is set is true."""
        if func in (torch.Tensor.__bool__, torch.Tensor.item) and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))


class Watch(TorchDispatchMode):  # type: ignore[misc]
    """Counts the matrix products of the operations inside, and notes how much of each parameter is read.

    `flops` are those of products without weights, by layer; a step's products with weights depend on no past.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.flops: Counter[int | None] = Counter()
        self.read: dict[str, tuple[int, bool]] = {}
        self.products: Counter[Product] = Counter()
        self._layer: int | None = None
        self._names = {_storage(each): name for name, each in model.named_parameters()}
        self._sizes = {name: each.numel() for name, each in model.named_parameters()}
        self._head = _storage(model.get_output_embeddings().weight)
        self._chosen: dict[int, int] = {}
        self._experts, self._sent = _experts(model.config)
        self._kept: list[torch.Tensor] = []

    def entering(self, number: int | None) -> Callable[..., None]:
        """Return a hook that notes which layer is running."""

        def note(*_: Any) -> None:
            self._layer = number

        return note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation, or those that it is made of, and note what it multiplies and reads."""
        given, packet = kwargs or {}, func.overloadpacket
        if packet not in COUNTED:
            with self:
                made = func.decompose(*args, **given)
            if made is not NotImplemented:
                return made
        done = func(*args, **given)
        if not func.is_view:
            for each in _given_tensors(args):
                self._note(packet, each, done)
        if packet in COUNTED and not self._with_weights(packet, args):
            self.flops[self._layer] += COUNTED[packet](done, *args)
        return done

    def _note(self, packet: Any, given: torch.Tensor, done: Any) -> None:
        """Note how much of a parameter an operation reads."""
        name = self._names.get(_storage(given))
        if name is None:
            return
        size, chosen = self._sizes[name], packet in (ATEN.index, ATEN.index_select)
        before, was_table = self.read.get(name, (0, True))
        if packet is ATEN.embedding:
            self.read[name] = (size, True) if was_table else (before, False)
            return
        if chosen:
            self._chosen[_storage(done)] = given.shape[0]
            self._kept.append(done)  # else its storage's number would be given to another
        numbers = done.numel() if chosen else given.numel()
        if self._is_of_experts(packet, given):
            numbers = numbers * self._sent // self._experts
        self.read[name] = (min(size, numbers + (0 if was_table else before)), False)

    def _is_of_experts(self, packet: Any, weight: torch.Tensor) -> bool:
        """Return whether a product is with all experts at once, of which each token needs a few (Llama 4)."""
        return (
            packet in (ATEN.bmm, ATEN.baddbmm)
            and _storage(weight) in self._names
            and weight.ndim == 3
            and 1 < weight.shape[0] == self._experts
        )

    def _with_weights(self, packet: Any, args: Sequence[Any]) -> bool:
        """Return whether a product is one with a parameter, or with experts chosen from one, and note it.

        The output head's is not noted.
        """
        if packet not in OPERANDS:
            return False
        left, right = args[OPERANDS[packet] :][:2]
        across = packet is ATEN.linear  # whose weight is [columns, inner]
        for weight, inner, columns in (
            (right, right.shape[-1 if across else -2], right.shape[-2 if across else -1]),
            (left, left.shape[-1], left.shape[-2] if left.ndim > 1 else 1),
        ):
            storage = _storage(weight)
            if storage == self._head:
                return True
            if storage in self._chosen or storage in self._names:
                count, experts = prod(weight.shape[:-2]), self._chosen.get(storage, 0)
                if self._is_of_experts(packet, weight):
                    count, experts = self._sent, self._experts
                self.products[
                    Product(count=count, inner=inner, columns=columns, experts=experts)
                ] += 1
                return True
        return False


def _given_tensors(args: Sequence[Any]) -> Iterator[torch.Tensor]:
    for each in args:
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _given_tensors(each)


def _of_attention(_: Any, query: Any, key: Any, value: Any, *__: Any) -> int:
    """Return the operations of scores and weighted values: each query attends to every key that it is given."""
    widths = int(query.shape[-1] + value.shape[-1])
    queries: int = prod(query.shape[:-1])
    return 2 * queries * int(key.shape[-2]) * widths


COUNTED: Mapping[Any, Callable[..., int]] = {
    ATEN.linear: lambda done, _, weight, *__: 2 * done.numel() * weight.shape[-1],
    ATEN.mm: lambda done, left, _: 2 * done.numel() * left.shape[-1],
    ATEN.bmm: lambda done, left, _: 2 * done.numel() * left.shape[-1],
    ATEN.addmm: lambda done, _, left, __: 2 * done.numel() * left.shape[-1],
    ATEN.baddbmm: lambda done, _, left, __: 2 * done.numel() * left.shape[-1],
    ATEN.convolution: lambda done, _, weight, *__: 2 * done.numel() * prod(weight.shape[1:]),
    ATEN.scaled_dot_product_attention: _of_attention,
}
"""The operations of a matrix product, by the operation of torch that computes it."""
OPERANDS = {ATEN.linear: 0, ATEN.mm: 0, ATEN.bmm: 0, ATEN.addmm: 1, ATEN.baddbmm: 1}
"""Where the two operands of a product begin among the arguments."""


if __name__ == "__main__":
    main()
