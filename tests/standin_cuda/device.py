"""The GPUs as a process has them: a clock that runs beside the host, an allocator that runs out, errors that stick.

Nothing here knows a tensor. All times are nanoseconds of `clock`: a device is a moment at which all that was queued on
it will be done.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import torch

from standin_cuda import clock, faults, settings
from standin_cuda.settings import GIB, MIB, Gpu

CONTEXT_BYTES = 500 * MIB
"""What a process holds of a device before its first tensor."""
SEGMENT_BYTES, BLOCK_BYTES = 2 * MIB, 512
"""The allocator takes segments from the driver and gives blocks to tensors; both are rounded up to these."""
REINITIALIZED = (
    "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' "
    "start method"
)
HERE = os.path.dirname(__file__)  # noqa: PTH120 - compared with the names of files in frames
DEEPEST = 60
"""Lines of code kept with an event."""


@dataclass
class Process:
    """What CUDA remembers of this process.

    Attributes:
        current: the number of the device that calls without one mean.
        initialized: whether this process has a runtime.
        asked: whether this process, or the one it was forked from, has asked the runtime anything.
        forked: whether it was forked after that, so that CUDA refuses it.

    """

    current: int = 0
    initialized: bool = False
    asked: bool = False
    forked: bool = False

    def initialize(self) -> None:
        """Start the runtime, as the first call on a device does; raise RuntimeError in a fork that must not."""
        if self.forked:
            raise RuntimeError(REINITIALIZED)
        self.asked = self.initialized = True

    def after_fork(self) -> None:
        """Begin as a fork."""
        self.forked = self.forked or self.asked
        self.initialized = False


@dataclass
class Device:
    """One GPU: when its queue is empty, and what the allocator holds, in bytes."""

    number: int
    gpu: Gpu
    ready_ns: int = 0
    has_context: bool = False
    allocated: int = 0
    peak_allocated: int = 0
    reserved: int = 0
    peak_reserved: int = 0
    blocks: dict[int, list[int]] = field(default_factory=dict)
    """By address: how many tensors share a block, and its bytes."""

    def open(self) -> None:
        """Create the context of this process, once."""
        PROCESS.initialize()
        if not self.has_context:
            self.has_context = True
            note("context", device=self.number)
            publish()

    def queue(self, nbytes: float) -> int:
        """Queue an operator that touches this many bytes; return when it will be done."""
        faults.strike(self)
        work_ns = int(settings.OP_NS + nbytes / settings.BYTES_PER_NS)
        self.ready_ns = max(clock.now_ns(), self.ready_ns) + work_ns
        return self.ready_ns

    def wait(self, why: str) -> None:
        """Let the host wait until the queue is empty; errors of the device are met here."""
        faults.raise_if_broken()
        PROCESS.initialize()
        note("wait", why=why, device=self.number)
        clock.wait_until(self.ready_ns)

    def allocate(self, address: int, nbytes: int) -> None:
        """Give a block to one more tensor, which is new if no other has this address; raise when memory runs out."""
        if address in self.blocks:
            self.blocks[address][0] += 1
            return
        size = rounded(max(nbytes, 1), BLOCK_BYTES)
        if self.allocated + size + CONTEXT_BYTES > self.gpu.memory_bytes:
            raise self.out_of_memory(size)
        self.blocks[address] = [1, size]
        self.allocated += size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        if self.allocated > self.reserved:
            self.reserved = rounded(self.allocated, SEGMENT_BYTES)
            self.peak_reserved = max(self.peak_reserved, self.reserved)
            publish()

    def release(self, address: int) -> None:
        """Take a block back from one tensor; the allocator keeps its segment."""
        block = self.blocks[address]
        block[0] -= 1
        if not block[0]:
            self.allocated -= self.blocks.pop(address)[1]

    def trim(self) -> None:
        """Give segments back to the driver, as empty_cache() does."""
        self.reserved = rounded(self.allocated, SEGMENT_BYTES)
        publish()

    def forget_peaks(self) -> None:
        """Begin the peaks anew."""
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    @property
    def held_bytes(self) -> int:
        """Return what the driver sees of this process."""
        return self.reserved + CONTEXT_BYTES * self.has_context

    def out_of_memory(self, wanted: int) -> Exception:
        """Return torch's error."""
        error: Exception = torch.OutOfMemoryError(
            f"CUDA out of memory. Tried to allocate {wanted / GIB:.2f} GiB. GPU {self.number} has a total capacity of "
            f"{self.gpu.memory_bytes / GIB:.2f} GiB of which 1.00 MiB is free. Including non-PyTorch memory, this "
            f"process has {self.held_bytes / GIB:.2f} GiB memory in use."
        )
        return error


PROCESS = Process()
PLACE = torch.device  # before `runtime` replaces it
DEVICES = [Device(number, gpu) for number, gpu in enumerate(settings.shown())]
os.register_at_fork(after_in_child=PROCESS.after_fork)


def device(place: Any = None) -> Device:
    """Return a device by number, name or torch.device; without one, or without a number, the current one."""
    index = place if isinstance(place, int) else None
    if isinstance(place, str | PLACE):
        index = PLACE(place).index
    return DEVICES[PROCESS.current if index is None else index]


def publish() -> None:
    """Write what this process holds where the driver reads it."""
    settings.STATE.mkdir(parents=True, exist_ok=True)
    path = settings.STATE / str(os.getpid())
    half = path.with_suffix(".half")
    held = {each.gpu.uuid: each.held_bytes for each in DEVICES}
    half.write_text(json.dumps(held), encoding="utf-8")
    half.replace(path)


def note(kind: str, **facts: Any) -> None:
    """Add an event to the log, if there is one, with the lines of code that led to it."""
    if settings.LOG:
        line = {"kind": kind, "pid": os.getpid(), **facts, "lines": _lines()}
        with open(settings.LOG, "a", encoding="utf-8") as log:  # noqa: PTH123 - a path opens no faster
            log.write(json.dumps(line) + "\n")


def _lines() -> list[str]:
    """Return the lines that are not torch's and not the stand-in's, innermost first: `folder/file.py:12 function`."""
    found: list[str] = []
    frame: Any = sys._getframe(2)
    while frame is not None and len(found) < DEEPEST:
        file = frame.f_code.co_filename
        if not file.startswith(HERE) and "/torch/" not in file:
            short = file.rpartition("/site-packages/")[2].rpartition("/src/")[2]
            found.append(f"{short}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return found


def rounded(size: int, grain: int) -> int:
    """Return a size rounded up to a multiple."""
    return -(-size // grain) * grain
