"""Two greedy generation loops for one model: our own over `forward`, and the library's `generate`.

A decoder-only model reads the prompt itself. With an encoder, the encoder reads it, and the decoder begins with a
start token, which is fed but is not part of the answer.

Both generate exactly the requested length and ignore end-of-sequence ids. `generate()` costs about 0.45 ms a step
more than the bare loop on a CPU, which makes `forward` the default; `generate` shows what its users get.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)

from llmbench.backends.memory import cache_bytes
from llmbench.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmbench.backends.transformers.clocks import TokenClock

COMPILE = {"mode": "reduce-overhead", "fullgraph": False, "dynamic": None}
"""The settings with which `generate()` compiles decoding (`CompileConfig`'s defaults): CUDA graphs on a GPU."""

WORDS = ("cache", "past_key_values")
"""The names of the cache among arguments and results, since transformers 5.24 and before."""
_NO_CACHE = "the forward() of {} accepts none of the library's caches; use loop=generate."


_OWN_CACHE = "{} keeps its past in a cache of its own; loop=generate runs it."


class GenerationLoop(Protocol):
    """One way to generate: `prepare` it for a shape, then `run` it on ids of that shape."""

    def prepare(self, batch_size: int, input_len: int, output_len: int) -> None:
        """Create what must not be created during a timed call of this shape."""

    def run(self, ids: torch.Tensor, output_len: int) -> tuple[torch.Tensor, Any]:
        """Return new tokens [batch_size, output_len] on the device, and the cache used.

        `ids` are the prompts, [batch_size, input_len]. The clock is marked once per token.
        """


class ForwardLoop:
    """Prefill, then one forward per token; the arg max stays on the device and nothing waits for it."""

    def __init__(
        self, model: Any, clock: TokenClock, device: torch.device, options: Mapping[str, Any]
    ) -> None:
        self._model, self._clock, self._device = model, clock, device
        self._config = decoder_config(model)
        self._static = options["cache"] == "static"
        self._compile = options["compile"]
        self._step: Callable[..., Any] = model
        self._cache: StaticCache | None = None
        accepted = inspect.signature(model.forward).parameters
        self._word = word_for_cache(model)
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def prepare(self, batch_size: int, input_len: int, output_len: int) -> None:
        """Allocate a static cache for the shape; compile decoding anew, which avoids recompiling for another shape."""
        self._cache = None
        if self._compile:
            torch.compiler.reset()
            self._step = torch.compile(self._model.__call__, **COMPILE)
        if self._static:
            self._cache = StaticCache(config=self._config, max_cache_len=input_len + output_len)
        self._try(batch_size)

    def _try(self, batch_size: int) -> None:
        """Feed one token per sequence: static layers allocate themselves on first use, and the cache must fill.

        A model that accepts a cache but leaves it empty would lose the prompt and run too fast.
        """
        cache = self._empty_cache()
        ids = torch.zeros((batch_size, 1), dtype=torch.long, device=self._device)
        try:
            self._model(input_ids=ids, use_cache=True, **{self._word: cache})
        except ValueError as error:
            if self._word not in str(error):
                raise
            raise Unsupported(_OWN_CACHE.format(type(self._model).__name__)) from error
        if not cache_bytes(cache):
            raise Unsupported(_NO_CACHE.format(type(self._model).__name__))

    def run(self, ids: torch.Tensor, output_len: int) -> tuple[torch.Tensor, Any]:
        """Return new tokens [batch_size, output_len] and the cache."""
        cache, mark = self._empty_cache(), self._clock.mark
        keep: dict[str, Any] = {self._word: cache, "use_cache": True}
        token = _greedy(self._model(input_ids=ids, **keep, **self._last_only))
        mark()
        tokens = [token]
        for _ in range(output_len - 1):
            token = _greedy(self._step(input_ids=token, **keep))
            mark()
            tokens.append(token)
        return torch.cat(tokens, dim=1), cache

    def _empty_cache(self) -> Any:
        """Return a new cache, or the static one reset; users have to reset it too, and the reset is timed."""
        if not self._static:
            return DynamicCache(config=self._config)
        assert self._cache is not None, "prepare() allocates the static cache"
        self._cache.reset()
        return self._cache


class EncoderForwardLoop:
    """The encoder once, then one forward per token; the first token needs both."""

    def __init__(
        self, model: Any, clock: TokenClock, device: torch.device, _: Mapping[str, Any]
    ) -> None:
        self._model, self._clock, self._device = model, clock, device
        self._encoder, self._config = model.get_encoder(), decoder_config(model)
        self._start_id = _start_id(model)
        self._start = torch.empty(0)
        self._word = word_for_cache(model)

    def prepare(self, batch_size: int, input_len: int, output_len: int) -> None:  # noqa: ARG002
        """Create the start tokens; refuse a decoder that leaves one of its caches empty."""
        shape = (batch_size, 1)
        self._start = torch.full(shape, self._start_id, dtype=torch.long, device=self._device)
        _, cache = self.run(torch.zeros_like(self._start), 1)
        if not all(map(cache_bytes, (cache.self_attention_cache, cache.cross_attention_cache))):
            raise Unsupported(_NO_CACHE.format(type(self._model).__name__))

    def run(self, ids: torch.Tensor, output_len: int) -> tuple[torch.Tensor, Any]:
        """Return new tokens [batch_size, output_len] and the cache."""
        cache = two_caches(self._config)
        encoded = self._encoder(input_ids=ids, return_dict=True)
        keep = {"encoder_outputs": encoded, self._word: cache, "use_cache": True}
        tokens = [self._start]
        for _ in range(output_len):
            tokens.append(_greedy(self._model(decoder_input_ids=tokens[-1], **keep)))
            self._clock.mark()
        return torch.cat(tokens[1:], dim=1), cache


def two_caches(config: Any) -> EncoderDecoderCache:
    """Return empty caches for a decoder's own tokens and for its encoder's, the latter without a window."""
    return EncoderDecoderCache(DynamicCache(config=config), DynamicCache())


def decoder_config(model: Any) -> Any:
    """Return the decoder's configuration; that of a whole T5 gives the depth of its encoder."""
    decoder = model.get_decoder() if model.config.is_encoder_decoder else model
    return decoder.config.get_text_config(decoder=True)


def word_for_cache(model: Any) -> str:
    """Return the name under which forward() takes a cache; raise Unsupported if it takes none."""
    accepted = inspect.signature(model.forward).parameters
    for word in WORDS:
        if word in accepted:
            return word
    raise Unsupported(_NO_CACHE.format(type(model).__name__))


def _start_id(model: Any) -> int:
    """Return the decoder's start id, from the same settings as generate()."""
    for name in ("decoder_start_token_id", "bos_token_id"):
        for settings in (model.generation_config, model.config):
            token_id = getattr(settings, name, None)
            if isinstance(token_id, int):
                return token_id
    raise Unsupported(
        f"{type(model).__name__} has no decoder_start_token_id in its configuration, which every answer begins with."
    )


def _greedy(output: Any) -> torch.Tensor:
    """Return the next tokens, [batch_size, 1]; the logits are freed here, before a CUDA graph reuses it."""
    token: torch.Tensor = output.logits[:, -1].argmax(dim=-1, keepdim=True)
    return token


class GenerateLoop:
    """`model.generate` with every setting that could change the length or the choice passed explicitly."""

    def __init__(
        self, model: Any, clock: TokenClock, device: torch.device, options: Mapping[str, Any]
    ) -> None:
        self._model, self._device = model, device
        self._stamp = _Stamp(clock)
        self._encodes, self._config = model.config.is_encoder_decoder, decoder_config(model)
        start = {"decoder_start_token_id": _start_id(model)} if self._encodes else {}
        # A checkpoint's own settings apply where a call leaves something open; they are cleared too.
        model.generation_config = GenerationConfig()
        self._settings = {
            "do_sample": False,
            "num_beams": 1,
            "repetition_penalty": 1.0,
            "eos_token_id": None,  # as a keyword argument: in a GenerationConfig the checkpoint's value would win
            "use_cache": True,
            "return_dict_in_generate": True,
            "disable_compile": not options["compile"],
            "stopping_criteria": StoppingCriteriaList([self._stamp]),
            **start,
            **({} if self._encodes else {"cache_implementation": options["cache"]}),
        }
        self._mask = torch.empty(0)
        self._compile = options["compile"]

    def prepare(self, batch_size: int, input_len: int, output_len: int) -> None:  # noqa: ARG002
        """Create the attention mask; discard code compiled for another shape."""
        self._mask = torch.ones((batch_size, input_len), dtype=torch.long, device=self._device)
        self._stamp.going_on = torch.zeros(batch_size, dtype=torch.bool, device=self._device)
        if self._compile:
            torch.compiler.reset()
            self._model.__dict__.pop("_compiled_call", None)
        self._model.__dict__.pop("_previous_max_cache_length", None)

    def run(self, ids: torch.Tensor, output_len: int) -> tuple[torch.Tensor, Any]:
        """Return new tokens [batch_size, output_len] and the cache."""
        self._stamp.length = 1 if self._encodes else ids.shape[1]
        result = self._model.generate(
            ids,
            attention_mask=self._mask,
            min_new_tokens=output_len,
            max_new_tokens=output_len,
            **self._settings,
            **self._caches(),
        )
        given = 1 if self._encodes else ids.shape[1]  # the start token, or the prompt
        cache = next(result[word] for word in WORDS if word in result)
        return result.sequences[:, given:], cache

    def _caches(self) -> dict[str, Any]:
        """Return new caches if there is an encoder; the library would give them the depth of the encoder."""
        return {word_for_cache(self._model): two_caches(self._config)} if self._encodes else {}


class _Stamp(StoppingCriteria):  # type: ignore[misc]
    """A stopping criterion that marks the clock at every token, and never stops generation."""

    def __init__(self, clock: TokenClock) -> None:
        self._clock = clock
        self.going_on = torch.empty(0, dtype=torch.bool)
        self.length = 0
        self.calls = self.tokens = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        """Mark each new token; where the library speculates, one call brings several."""
        new, self.length = input_ids.shape[1] - self.length, input_ids.shape[1]
        for _mark in range(new):
            self._clock.mark()
        self.calls += 1
        self.tokens += new
        return self.going_on


LOOPS: Mapping[tuple[str, bool], type[ForwardLoop | EncoderForwardLoop | GenerateLoop]] = {
    ("forward", False): ForwardLoop,
    ("forward", True): EncoderForwardLoop,
    ("generate", False): GenerateLoop,
    ("generate", True): GenerateLoop,
}
"""The loop classes by the option `loop` and whether the model has an encoder."""
