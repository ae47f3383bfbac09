"""The outputs of each engine step, kept until the clock has stopped, from which token times are read.

A step costs one append. The engine stamps its outputs with the monotonic clock when their tokens are on the host,
whichever process it runs in.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(slots=True)
class Watched:
    """The largest share of the cache in use at any step; None if the scheduler is in another process."""

    most_used: float | None = None


class Steps:
    """The steps of one engine core since the last `begin`."""

    def __init__(self, core: Any) -> None:
        """Record the core's outputs from now on."""
        self._core = core
        self._get = core.get_output
        self._taken: list[Any] = []
        self._start_ns = 0
        core.get_output = self._next

    def begin(self) -> None:
        """Mark the start of a call and discard the previous one."""
        self._taken = []
        self._start_ns = time.monotonic_ns()

    def _next(self) -> Any:
        outputs = self._get()
        self._taken.append(outputs)
        return outputs

    def offsets_ns(self, requests: Sequence[str]) -> list[list[int]]:
        """Return nanoseconds from the start to each new token of each request; one row if all are equal."""
        rows: dict[str, list[int]] = defaultdict(list)
        for step in self._taken:
            offset = round(step.timestamp * 1e9) - self._start_ns
            for output in step.outputs:
                rows[output.request_id] += [offset] * len(output.new_token_ids)
        first = rows[requests[0]]
        if all(rows[request] == first for request in requests):
            return [first]
        return [rows[request] for request in requests]

    def counted(self) -> tuple[int, int]:
        """Return the passes of all sequences in the last call that brought tokens, and how many they brought."""
        brought = [len(output.new_token_ids) for step in self._taken for output in step.outputs]
        return sum(map(bool, brought)), sum(brought)

    @contextlib.contextmanager
    def watched_cache(self) -> Iterator[Watched]:
        """Record how much of the cache is in use each time the scheduler has assigned blocks."""
        watched = Watched()
        scheduler = getattr(getattr(self._core, "engine_core", None), "scheduler", None)
        if scheduler is None:
            yield watched
            return
        schedule = scheduler.schedule

        def noting(*arguments: Any, **named: Any) -> Any:
            planned = schedule(*arguments, **named)
            watched.most_used = max(watched.most_used or 0.0, scheduler.kv_cache_manager.usage)
            return planned

        scheduler.schedule = noting
        try:
            yield watched
        finally:
            scheduler.schedule = schedule
