"""The device monitor of a sweep: levels, other processes on the device, and conditions that stop measuring."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.measure.telemetry import Levels, isolation
from llmbench.results.record import Status

if TYPE_CHECKING:
    from llmbench.measure.telemetry import Gpu
    from llmbench.run.signals import Stoppable

MEMORY_BACK_S, MEMORY_SLACK = 30.0, 256 * 2**20
"""How long a device may take to release a dead worker's memory, and how much may remain."""

UNLISTED_S = 1.0
"""How long a driver may still list an exited worker, which then looks like another process."""

LOST = (
    "the GPU no longer responds to its driver. Check nvidia-smi and the kernel log, reset it or reboot, "
    "then run the same command with --run-anyway to measure what was skipped."
)


class Halt(NamedTuple):
    """The status and reason for the remaining sessions of a device that cannot measure any more."""

    status: Status
    why: str


class DeviceMonitor:
    """Watches one GPU; without one it sees nothing and never halts."""

    def __init__(self, gpu: Gpu | None) -> None:
        """Look once, before any of our processes is on the device."""
        self.gpu, self.isolation = gpu, "alone"
        self.waiting = self.levels = Levels()
        self.used_bytes: int | None = None
        self.halt: Halt | None = None
        self.idle_bytes: int | None = None
        self.workers: set[int] = set()
        self.before_worker()

    def before_worker(self) -> None:
        """Note the other processes on the device and its memory in use, while none of ours is there."""
        if self.gpu:
            self.isolation = self._isolation(self.gpu)
            self.used_bytes = self.gpu.used_bytes()
            if self.idle_bytes is None:
                self.idle_bytes = self.used_bytes
            elif (self.used_bytes or 0) > self.idle_bytes + MEMORY_SLACK:
                self.isolation = "shared"  # not ours, or `after_worker` had stopped the sweep

    def _isolation(self, gpu: Gpu) -> str:
        deadline = time.monotonic() + UNLISTED_S
        state = isolation(gpu)
        while state == "shared" != self.isolation and time.monotonic() < deadline:
            time.sleep(0.1)
            state = isolation(gpu)
        return state

    def before_cell(self, worker: int) -> None:
        """Start new levels, and note which process measures."""
        self.workers.add(worker)
        self.waiting = self.levels = Levels()

    def after_load(self) -> None:
        """Start levels for the measurement only, because a device that waits for weights clocks down."""
        self.levels = Levels()

    def tick(self) -> None:
        """Sample the levels."""
        if self.gpu:
            self.levels.add(self.gpu.levels())

    def seen(self) -> dict[str, Any]:
        """Return the observations of the device since the cell was loaded."""
        levels = (
            self.levels if self.levels.count else self.waiting
        )  # a cell may finish before the first tick
        return {**levels.summary(), "isolation": self.isolation} if self.gpu else {}

    def after_worker(self, interrupt: Stoppable) -> None:
        """Wait until the device's memory is released; a device that is lost, or keeps a worker's, stops measuring.

        Memory that another process took meanwhile stays with it: later records say that the device was shared.
        """
        if self.gpu is None:
            return
        if self.used_bytes is not None:
            self._await_memory(self.gpu, self.used_bytes, interrupt)
        if self.gpu.lost:
            self.halt = Halt(Status.SKIPPED, LOST)

    def _await_memory(self, gpu: Gpu, before: int, interrupt: Stoppable) -> None:
        deadline = time.monotonic() + MEMORY_BACK_S
        while (used := gpu.used_bytes()) is not None and used > before + MEMORY_SLACK:
            if interrupt.signal is not None:
                return
            if time.monotonic() > deadline:
                kept = sorted(self.workers.intersection(gpu.others(set()) or ()))
                if kept:
                    why = (
                        f"{(used - before) / 2**30:.1f} GiB of device memory were not released by process "
                        f"{', '.join(map(str, kept))}, which has ended. Check nvidia-smi, then run the same command "
                        "again to continue."
                    )
                    self.halt = Halt(Status.DEVICE_DIRTY, why)
                return
            time.sleep(0.1)
