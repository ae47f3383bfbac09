"""The GPUs of the stand-in: how many, how large and how fast, from the environment."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

GIB, MIB = 2**30, 2**20


def _number(name: str, default: float) -> float:
    return float(os.environ.get(f"STANDIN_{name}", default))


def _words(name: str) -> list[str]:
    return os.environ.get(f"STANDIN_{name}", "").split()


NAME = "NVIDIA H200"
GPUS = int(_number("GPUS", 1))
MEMORY_BYTES = int(_number("MEMORY_BYTES", 141 * GIB))
FIRST = int(_number("FIRST", 0))
"""The number in the id of the first GPU, to tell the GPUs of several machines apart."""
SLICES = int(_number("SLICES", 0))
"""In how many slices (MIG) every GPU is cut; 0 is a whole GPU."""
DENIED = [int(word) for word in _words("DENIED")]
"""GPUs that the driver counts and does not let this user open."""
OP_NS = _number("OP_US", 20) * 1000
"""Time that any operator takes on the device, at least."""
BYTES_PER_NS = 2000.0
"""2 TB/s, at which an operator reads and writes its tensors."""
COPY_SLOWDOWN = 40
"""Between host and device, bytes move this many times more slowly: 50 GB/s."""
FAULTS = _words("FAULTS")
"""Faults by phase and batch size, such as `oom@decode:4`; see `faults`."""
LOG = os.environ.get("STANDIN_LOG")
"""A file for one line of JSON an event: waits, copies, tokens, contexts."""
STATE = Path(os.environ.get("STANDIN_STATE", f"{tempfile.gettempdir()}/standin-cuda-{os.getuid()}"))
"""A folder with a file a process: the bytes that it holds on each device, for the driver to tell."""


class Gpu(NamedTuple):
    """A GPU, or one slice of it: the driver's handle."""

    number: int
    part: int | None = None

    @property
    def uuid(self) -> str:
        if self.part is None:
            return f"GPU-{FIRST + self.number:08x}-1111-2222-3333-444444444444"
        return f"MIG-{FIRST + self.number:08x}-5555-6666-7777-{self.part:012x}"

    @property
    def memory_bytes(self) -> int:
        """Return its memory; a GPU with slices gives an eighth to each."""
        return MEMORY_BYTES if self.part is None else MEMORY_BYTES // 8


def slices(gpu: Gpu) -> list[Gpu]:
    """Return the slices of a GPU."""
    return [gpu._replace(part=part) for part in range(SLICES)]


def shown() -> list[Gpu]:
    """Return the devices that CUDA shows a process, in its order: of sliced GPUs, one slice in all."""
    allowed = [Gpu(index) for index in range(GPUS) if index not in DENIED]
    everything = [part for gpu in allowed for part in slices(gpu)] if SLICES else allowed
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = everything if wanted is None else _chosen(wanted.split(","), allowed, everything)
    return chosen[:1] if SLICES else chosen


def _chosen(words: list[str], allowed: list[Gpu], everything: list[Gpu]) -> list[Gpu]:
    """Return the devices named by number or by the beginning of an id, up to the first word that names none."""
    chosen = []
    for word in map(str.strip, words):
        if word.isdecimal():
            named = allowed[int(word) : int(word) + 1]
            named = slices(named[0])[:1] if SLICES and named else named
        else:
            named = [gpu for gpu in everything if word and gpu.uuid.startswith(word)][:1]
        if not named:
            break
        chosen += named
    return chosen
