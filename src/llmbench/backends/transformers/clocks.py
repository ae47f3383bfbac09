"""When each token came: one tiny clock a kind of device, so that one loop serves them all.

A clock never waits for the device: on CUDA it leaves events in the stream, which are read after the call.
"""

from __future__ import annotations

import time
from typing import Protocol

import torch


class TokenClock(Protocol):
    """Marks the start of a call and each token; the offsets are computed after the call."""

    def reserve(self, marks: int) -> None:
        """Make room for this many tokens, so that nothing is created inside a timed call."""

    def start(self) -> None:
        """Mark the start of a call and forget the one before."""

    def mark(self) -> None:
        """Mark that the work queued so far yields the next token."""

    def offsets_ns(self) -> list[int]:
        """Return nanoseconds from the start to each mark, once the device has done the work."""


class CpuStamps:
    """Monotonic stamps: on a CPU a step has been computed when its call returns."""

    def __init__(self) -> None:
        self._stamps: list[int] = []

    def reserve(self, marks: int) -> None:
        """Do nothing: a stamp needs no room of its own."""

    def start(self) -> None:
        """Mark the start of a call and forget the one before."""
        self._stamps = [time.monotonic_ns()]

    def mark(self) -> None:
        """Mark the next token."""
        self._stamps.append(time.monotonic_ns())

    def offsets_ns(self) -> list[int]:
        """Return nanoseconds from the start to each mark."""
        return [stamp - self._stamps[0] for stamp in self._stamps[1:]]


class CudaEvents:
    """Events in the stream that computes: about a microsecond each, no synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []
        self._used = 0

    def reserve(self, marks: int) -> None:
        """Create events ahead; recording each once makes the driver allocate it now."""
        while len(self._events) <= marks:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)

    def start(self) -> None:
        """Record the start of a call; the caller has synchronised, so the stream is empty."""
        self._used = 0
        self.mark()

    def mark(self) -> None:
        """Record that the work queued so far yields the next token."""
        self.reserve(self._used)
        self._events[self._used].record(torch.cuda.current_stream(self._device))
        self._used += 1

    def offsets_ns(self) -> list[int]:
        """Return nanoseconds from the start to each mark; waits for the last event."""
        start, *marks = self._events[: self._used]
        if marks:
            marks[-1].synchronize()
        return [round(start.elapsed_time(mark) * 1e6) for mark in marks]  # milliseconds × 10⁶


def clock_for(device: torch.device) -> TokenClock:
    """Return the clock of the device that computes the tokens."""
    return CudaEvents(device) if device.type == "cuda" else CpuStamps()
