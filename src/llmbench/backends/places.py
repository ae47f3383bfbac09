"""Devices that can be probed, and how calls on them are timed."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import psutil
import torch

from llmbench.machine import info

if TYPE_CHECKING:
    from collections.abc import Callable


class Stopwatch(Protocol):
    """Times calls on a device from their start until the device has done them."""

    def seconds(self, call: Callable[[], object], times: int) -> float:
        """Return the seconds that this many consecutive calls took."""


class CpuWatch:
    """Times a CPU, whose work is done when the call returns."""

    def seconds(self, call: Callable[[], object], times: int) -> float:
        """Return the seconds that the calls took."""
        start = time.perf_counter()
        for _ in range(times):
            call()
        return time.perf_counter() - start


class CudaWatch:
    """Times a GPU with events in the stream and waits for the last; without the wait only queueing would be timed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def seconds(self, call: Callable[[], object], times: int) -> float:
        """Return the seconds between an event before the calls and one after them."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self._device)
        start.record(torch.cuda.current_stream(self._device))
        for _ in range(times):
            call()
        end.record(torch.cuda.current_stream(self._device))
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3  # milliseconds


class ProbedDevice(NamedTuple):
    """A device and how it is measured.

    Attributes:
        cache_bytes: of all caches that weights could stay in.
        free_bytes: of its memory.
        least_bytes: the least size of the weights: a copy must take longer than its launch.
        point_s: the time limit of a point of the curve; calls that would take longer are left out.
        burst: calls timed together, which keeps a queue full.
        pieces: parts of a pass over all weights that are timed separately; on a GPU launches would cost more than
            disturbances.

    """

    device: torch.device
    name: str
    threads: int | None
    watch: Stopwatch
    cache_bytes: int
    free_bytes: int
    least_bytes: int
    point_s: float
    burst: int
    pieces: int


def cpu() -> list[ProbedDevice]:
    """Return this host's processors as one device."""
    return [
        ProbedDevice(
            device=torch.device("cpu"),
            name=info.machine()["cpu"],
            threads=torch.get_num_threads(),
            watch=CpuWatch(),
            cache_bytes=_last_caches_bytes(),
            free_bytes=psutil.virtual_memory().available,
            least_bytes=2**28,
            point_s=0.3,
            burst=1,
            pieces=16,
        )
    ]


def cuda() -> list[ProbedDevice]:
    """Return every GPU that torch can use."""
    torch.set_float32_matmul_precision("highest")  # no TF32, as in transformers
    places = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        place = ProbedDevice(
            device=torch.device("cuda", index),
            name=facts.name,
            threads=None,
            watch=CudaWatch(torch.device("cuda", index)),
            cache_bytes=facts.L2_cache_size,
            free_bytes=torch.cuda.mem_get_info(index)[0],
            least_bytes=2**32,
            point_s=0.1,
            burst=10,
            pieces=1,
        )
        places.append(place)
    return places


PLACES = {"cpu": cpu, "cuda": cuda}


def _last_caches_bytes() -> int:
    """Return the total bytes of all last-level caches, counting each shared cache once."""
    shared: dict[str, int] = {}
    for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*"):
        match = re.fullmatch(r"(\d+)K", _read(index / "size"))
        if match and _read(index / "level") == "3":
            shared[_read(index / "shared_cpu_list")] = int(match[1]) * 1024
    return sum(shared.values()) or 2**25  # 32 MiB if the system does not report it


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
