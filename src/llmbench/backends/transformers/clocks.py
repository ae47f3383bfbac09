"""Clocks that record the time of each token, one class per kind of device, all with one interface.

A clock never waits for the device: on CUDA it puts events into the stream and reads them after the call.
"""

from __future__ import annotations

import time
from typing import Protocol

import torch


class TokenClock(Protocol):
    """Marks the start of a call and each token; the offsets are computed after the call."""

    def reserve(self, marks: int) -> None:
        """Allocate room for this many tokens, because nothing may be created inside a timed call."""

    def start(self) -> None:
        """Mark the start of a call and discard the previous one."""

    def mark(self) -> None:
        """Mark that the work queued so far yields the next token."""

    def offsets_ns(self) -> list[int]:
        """Return nanoseconds from the start to each mark, after the device has finished."""


class CpuStamps:
    """Timestamps of the monotonic clock; on a CPU a step is finished when its call returns."""

    def __init__(self) -> None:
        self._stamps: list[int] = []

    def reserve(self, marks: int) -> None:
        """Do nothing, because a timestamp needs no allocation."""

    def start(self) -> None:
        """Mark the start of a call and discard the previous one."""
        self._stamps = [time.monotonic_ns()]

    def mark(self) -> None:
        """Mark the next token."""
        self._stamps.append(time.monotonic_ns())

    def offsets_ns(self) -> list[int]:
        """Return nanoseconds from the start to each mark."""
        return [stamp - self._stamps[0] for stamp in self._stamps[1:]]


class CudaEvents:
    """Events in the computing stream: about a microsecond each, without synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []
        self._used = 0

    def reserve(self, marks: int) -> None:
        """Create events in advance; recording each once makes the driver allocate it now."""
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
