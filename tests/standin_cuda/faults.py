"""Faults of the device, by the phase that a worker is in and the batch size of its cell.

`STANDIN_FAULTS="oom@decode:4 sticky@prefill:8"` fails the cell of batch size 4 in its first decode step, and that of 8
in its first prefill. A batch size alone names a cell, so that one sweep can meet every fault. The phase is read from
the worker's stack: `load`, `prepare`, `prefill`, `decode`, or `memory` (the untimed run that measures memory).
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from standin_cuda import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from standin_cuda.device import Device

AT = 5
"""The operator of its phase that fails."""
OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700
ENGINE = "backends/transformers/"


class Place(NamedTuple):
    """Where in its work a worker is."""

    phase: str
    batch_size: int


def _planned() -> dict[Place, str]:
    """Return the faults that were asked for."""
    found = {}
    for word in settings.FAULTS:
        kind, _, where = word.partition("@")
        phase, _, batch_size = where.partition(":")
        assert kind in KINDS, f"STANDIN_FAULTS: no fault {kind!r}; there are {', '.join(KINDS)}"
        found[Place(phase, int(batch_size))] = kind
    return found


def error_of_cuda(code: int, text: str) -> Exception:
    """Return the error that torch raises for an error of the runtime."""
    error = torch.AcceleratorError(
        f"CUDA error: {text}\nCUDA kernel errors might be asynchronously reported at some other API call."
    )
    error.error_code = code
    assert isinstance(error, Exception)
    return error


def strike(device: Device) -> None:
    """Raise what was asked for here, or nothing."""
    raise_if_broken()
    if not PLANNED:
        return
    place = _place()
    if place not in PLANNED:
        return
    SEEN[place] += 1
    if SEEN[place] == AT:
        KINDS[PLANNED[place]](device)


def raise_if_broken() -> None:
    """Raise the error that an earlier operator left: it sticks to the process, and every later call meets it."""
    if BROKEN:
        raise error_of_cuda(*BROKEN[0])


def _out_of_memory(device: Device) -> None:
    raise device.out_of_memory(2 * settings.GIB)


def _context(_: Device) -> None:
    """Fail outside the allocator, as the driver does when there is no room for a context or a module."""
    raise error_of_cuda(OUT_OF_MEMORY, "out of memory")


def _cublas(_: Device) -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def _sticky(_: Device) -> None:
    """Break the process; the operator itself is queued, and a later call reports it."""
    BROKEN.append((ILLEGAL_ADDRESS, "an illegal memory access was encountered"))


KINDS: dict[str, Callable[[Device], None]] = {
    "oom": _out_of_memory,
    "context": _context,
    "cublas": _cublas,
    "sticky": _sticky,
}
BROKEN: list[tuple[int, str]] = []
PLANNED = _planned()
SEEN: Counter[Place] = Counter()


def _place() -> Place | None:
    """Return where the worker of this process is; None outside of one."""
    phases, batch_size = [], None
    for frame in _frames():
        phases += [phase for phase in [_phase(frame)] if phase]
        if frame.f_code.co_name == "work" and "job" in frame.f_locals:
            batch_size = frame.f_locals["job"].cells[0].batch_size
    return Place(phases[-1], batch_size) if phases and batch_size else None


def _frames() -> Iterator[FrameType]:
    frame: Any = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _phase(frame: FrameType) -> str:
    """Return the phase that a function of the engine is; empty for any other function."""
    file, function = frame.f_code.co_filename, frame.f_code.co_name
    if file.endswith(f"{ENGINE}weights.py") and function == "load":
        return "load"
    if file.endswith(f"{ENGINE}loops.py") and function == "run":
        return "decode" if "tokens" in frame.f_locals else "prefill"
    if file.endswith(f"{ENGINE}__init__.py") and function in ("prepare", "memory"):
        return function
    return ""
