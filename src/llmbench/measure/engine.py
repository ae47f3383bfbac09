"""The protocol of engines, which every backend implements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.results.record import Memory


class Engine(Protocol):
    """A loaded model that can generate and report when each token came.

    `facts` is a flat mapping kept with every record: versions, attention implementation, `parameters`,
    `weights_bytes`, `param_devices` and `param_dtypes` (as found after loading, comma separated), `preallocates`
    (true if the engine takes the device's memory in advance), ...
    """

    facts: Mapping[str, Any]
    vocab_size: int
    special_ids: frozenset[int]

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without special ids; raise LoadFailed if there is no tokenizer."""

    def prepare(self, cell: Any) -> None:
        """Prepare for one cell's shape (static caches, compilation); never timed."""

    def generate(
        self, prompts: Sequence[Sequence[int]], output_len: int
    ) -> Sequence[Sequence[int]]:
        """Return `output_len` new token ids for each prompt, on the host, greedily. Timed as a whole."""

    def token_ns(self) -> list[list[int]]:
        """Return, for the last `generate`, nanoseconds from its start to each new token.

        One row if the batch advances in lock-step, else one row per sequence. Called after the clock has stopped.
        """

    def counters(self) -> Mapping[str, int]:
        """Return cumulative counts that must not change during a valid iteration, such as `prefix_cache_hits`."""

    def synchronize(self) -> None:
        """Wait until the device has done all work given to it."""

    def memory(self, prompts: Sequence[Sequence[int]], output_len: int) -> Memory:
        """Run one untimed iteration and return its memory use in bytes."""


@runtime_checkable
class Speaker(Protocol):
    """An engine that also reports log-probabilities, which the parity check compares with a reference."""

    def speak(
        self, prompts: Sequence[Sequence[int]], output_len: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return greedy new ids, and the natural log-probability that the model gave each; [batch][output_len]."""


@runtime_checkable
class Speculator(Protocol):
    """An engine that may draft tokens, and can tell which tokens its model would have chosen without drafts."""

    def below_likeliest(
        self, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return how far each new token's log-probability is below the largest at its place, in nats.

        Shape [batch][output_len]; 0 for the likeliest. Computed from the prompts and tokens alone, without speculation.
        """
