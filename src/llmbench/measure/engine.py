"""What a loaded engine can do, whichever it is: the protocol of every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.results.record import Memory


class Engine(Protocol):
    """A loaded model that can generate, and say when each token came.

    `facts` is a flat mapping kept with every record: versions, attention implementation, `parameters`,
    `weights_bytes`, `param_devices` and `param_dtypes` (as found after loading, comma separated),
    `preallocates` (true where the engine takes the device's memory before it needs it), ...
    """

    facts: Mapping[str, Any]
    vocab_size: int
    special_ids: frozenset[int]

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without special ids; raise LoadFailed if there is no tokenizer."""

    def prepare(self, cell: Any) -> None:
        """Make ready for one cell's shape (static caches, compilation caches); never timed."""

    def generate(
        self, prompts: Sequence[Sequence[int]], output_len: int
    ) -> Sequence[Sequence[int]]:
        """Return `output_len` new token ids for each prompt, on the host, greedily. Timed as a whole."""

    def token_ns(self) -> list[list[int]]:
        """Return, for the last `generate`, nanoseconds from its start to each new token.

        One row if the batch moves in lock-step, else one row a sequence. Read after the clock has stopped.
        """

    def counters(self) -> Mapping[str, int]:
        """Return cumulative counts that must not move during a valid iteration, such as `prefix_cache_hits`."""

    def synchronize(self) -> None:
        """Wait until the device has done all work given to it."""

    def memory(self, prompts: Sequence[Sequence[int]], output_len: int) -> Memory:
        """Run one untimed iteration and return what it held. Bytes."""


@runtime_checkable
class Speaker(Protocol):
    """An engine that also says how sure it is, so that its function can be held against a reference."""

    def speak(
        self, prompts: Sequence[Sequence[int]], output_len: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return greedy new ids, and the natural log-probability that the model gave each; [batch][output_len]."""
