"""The state of the machine during a measurement: clocks, power, throttling, other processes.

There are two sources. Cumulative counters, read before and after an iteration, miss no event. A slow sampler in the
parent reads levels (clock, temperature, power). Neither runs inside a timed call.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llmbench.machine import gpus, nvidia, processes
from llmbench.spec import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from llmbench.spec.sweep import Cell


class Spent(NamedTuple):
    """The energy and slowdowns of one iteration."""

    energy_mj: int | None = None
    throttled: str | None = None


class Counters(Protocol):
    """The cumulative counters of a device, read in the worker between iterations."""

    def read(self) -> Any:
        """Return the current values of the counters."""

    def since(self, before: Any) -> Spent:
        """Return the change since `before`."""

    def summary(self) -> dict[str, Any]:
        """Return the facts to store in the record."""


class NoCounters:
    """A device without counters, such as a CPU."""

    def read(self) -> None:
        """Return nothing."""

    def since(self, before: None) -> Spent:  # noqa: ARG002 - the protocol's signature
        """Return unknown values."""
        return NOTHING_KNOWN

    def summary(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


NOTHING_KNOWN = Spent()


class Stand(NamedTuple):
    """Values of the counters, summed over devices; None if a device lacks one.

    `capped_ns` and `hot_ns` are how long clocks were reduced because of power and heat.
    """

    at_ns: int
    energy_mj: int | None
    capped_ns: int | None
    hot_ns: int | None


class DeviceCounters:
    """Cumulative counters and throttle reasons of the GPUs in use; a counter that one of them lacks is None."""

    def __init__(self, indices: Sequence[int]) -> None:
        """Open the devices; NVML errors set `partial` instead of ending a measurement."""
        self.partial = False
        self.cap_seen = 0
        self.reads = 0
        self.watched_ns = 0
        self.hot_ns: int | None = 0
        self.handles = [gpus.handle(index) for index in indices]

    def read(self) -> Stand:
        """Return the current values of the counters."""
        sums = (self._ask(name) for name in ("energy_mj", "capped_ns", "hot_ns"))
        return Stand(time.monotonic_ns(), *(None if None in each else sum(each) for each in sums))

    def since(self, before: Stand) -> Spent:
        """Return the energy since `before`, and the slowdowns active now.

        A slowdown may be over when it is queried, because the device is idle then. The counters tell how long it
        lasted; of a device without them, only the samples of `Gpu.levels` tell something.
        """
        active = dict.fromkeys(name for each in self._ask("slowdowns") for name in each or ())
        now = self.read()
        passed_ns, energy, capped_ns, hot_ns = (
            None if early is None or late is None else late - early
            for early, late in zip(before, now, strict=True)
        )
        self.reads += capped_ns is not None
        self.cap_seen += bool(capped_ns)
        self.watched_ns += passed_ns or 0
        self.hot_ns = None if self.hot_ns is None or hot_ns is None else self.hot_ns + hot_ns
        return Spent(energy, ", ".join(active) or None)

    def summary(self) -> dict[str, Any]:
        """Return the share of calls under a power cap and of time under heat, None if unknown; and what was missing."""
        return {
            "power_cap_share": self.cap_seen / self.reads if self.reads else None,
            "hot_share": self._hot_share(),
            "device_counters": "partial" if self.partial else "full",
        }

    def _hot_share(self) -> float | None:
        if self.hot_ns is None or not self.watched_ns:
            return None
        return self.hot_ns / self.watched_ns / len(self.handles)

    def _ask(self, question: str) -> list[Any]:
        answers = [_answer(handle, question) for handle in self.handles]
        self.partial |= None in answers
        return answers


def _answer(handle: Any, question: str) -> Any:
    """Return a device's answer; None without a device or an answer."""
    if handle is None:
        return None
    with contextlib.suppress(Exception):  # any error costs a field, not the measurement
        return gpus.ask(handle, question)
    return None


def counters_of(device: str, places: str) -> Counters:
    """Return the counters of the devices that hold a cell's parameters, as named by its engine."""
    if not device.startswith("cuda"):
        return NoCounters()
    return DeviceCounters(
        sorted({int(index) for index in re.findall(r"cuda:(\d+)", places)}) or [0]
    )


class CpuWindow:
    """CPU use between creation and `read`: by us, by other processes of the sweep, by others, by the hypervisor.

    Those of the sweep are looked for only if the window is made with `sweep`, because it takes milliseconds. The
    figures are from `/proc/stat`, whose tick is 10 ms; elsewhere nothing is known. In a container they are the host's,
    and another tenant's work shows as `other`.
    """

    def __init__(self, *, sweep: bool = False) -> None:
        """Store the current values of the counters."""
        self.sweep_s = processes.sweep_cpu_s() if sweep else None
        self.began = self._now()

    def read(self) -> dict[str, Any]:
        """Return seconds of CPU time by owner, over the window."""
        ended = self._now()
        if self.began is None or ended is None:
            return {"cpu": "unknown"}
        wall, own, busy, steal = (
            late - early for early, late in zip(self.began, ended, strict=True)
        )
        count = os.cpu_count() or 1
        seen = {"cpu_wall_s": round(wall, 3), "cpu_own_s": round(own, 3)}
        if self.sweep_s is not None:
            known = max(processes.sweep_cpu_s() - self.sweep_s, 0.0)
            seen["cpu_sweep_s"] = round(known, 3)
            own += known
        left = max(wall * count - own, 0.0)  # an excess is a tick that began before the window
        return {
            **seen,
            "cpu_other_s": round(min(max(busy - own, 0.0), left), 3),
            "cpu_steal_s": round(min(steal, left), 3),
            "cpu_count": count,
        }

    def others(self) -> float:
        """Return the share of all processors used by other processes; 0 if unknown."""
        seen = self.read()
        room = seen.get("cpu_wall_s", 0.0) * seen.get("cpu_count", 1)
        return float(seen["cpu_other_s"] / room) if room else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float, float] | None:
        try:
            fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        except OSError:
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = (
            int(field) / _TICKS for field in fields
        )
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return time.monotonic(), own, user + nice + system + irq + softirq, steal


_TICKS = os.sysconf("SC_CLK_TCK")


TOGETHER: Mapping[str, Callable[[Iterable[Any]], Any]] = {
    "sm_mhz": min,
    "mem_mhz": min,
    "temperature_c": max,
    "power_w": sum,
    "hot": max,
    "power_capped": max,
}
"""How a level of several devices becomes one: the slowest clock, the highest temperature, the power of all."""


class Gpu:
    """The GPU or GPUs that cells use, as the parent sees them: levels, memory, other processes.

    Attributes:
        lost: whether a device no longer responds and cannot be measured any more.

    """

    def __init__(self, *indices: int) -> None:
        """Open the devices; without a driver every answer is None."""
        self.lost = False
        self.handles = [gpus.handle(index) for index in indices]

    def levels(self) -> dict[str, Any]:
        """Return all levels that the devices report."""
        return {name: self._ask(name, TOGETHER[name]) for name in gpus.LEVELS}

    def used_bytes(self) -> int | None:
        """Return the device memory in use by all processes."""
        used: int | None = self._ask("used_bytes", sum)
        return used

    def others(self, own: set[int]) -> list[int] | None:
        """Return the ids of compute processes on the devices other than ours; None = not visible."""
        processes = self._ask("processes", itertools.chain.from_iterable)
        return (
            None
            if processes is None
            else [*dict.fromkeys(pid for pid in processes if pid not in own)]
        )

    def _ask(self, question: str, together: Callable[[Iterable[Any]], Any]) -> Any:
        """Return the combined answer of all devices; None if one of them has none."""
        answers = [self._answer(handle, question) for handle in self.handles]
        return None if None in answers else together(answers)

    def _answer(self, handle: Any, question: str) -> Any:
        if handle is None:
            return None
        try:
            return gpus.ask(handle, question)
        except Exception as error:  # noqa: BLE001 - whatever a driver does, it costs a field and no measurement
            self.lost = self.lost or isinstance(error, nvidia.LOST)
            return None


def gpu_of(cells: Iterable[Cell]) -> Gpu | None:
    """Return the GPUs that these cells use as one object; None if they use none."""
    options = [cell.options for cell in cells if cell.device.startswith("cuda")]
    if not options:
        return None
    present = len(gpus.handles())
    counts = (sweep.gpus_of(each, max(present, 1)) // sweep.boxes_of(each) for each in options)
    return Gpu(*range(max(counts)))


def isolation(gpu: Gpu) -> str:
    """Return whether we are `alone` on a device, it is `shared`, or it is unknown.

    In a container other processes may be invisible, but their memory shows.
    """
    others, used = gpu.others({os.getpid()}), gpu.used_bytes()
    if others:
        return "shared"
    return (
        "unverifiable"
        if others is None or used is None or used > IDLE_BYTES * len(gpu.handles)
        else "alone"
    )


IDLE_BYTES = 2**30
"""An idle device never has more memory than this in use; drivers need some hundred MiB for themselves."""


class Levels:
    """Minimum, mean and maximum of each level over all samples."""

    def __init__(self) -> None:
        """Begin without samples."""
        self.count = 0
        self.kept: dict[str, list[float]] = {}

    def add(self, levels: dict[str, Any]) -> None:
        """Add one sample, ignoring levels that are None."""
        self.count += 1
        for name, value in levels.items():
            if value is None:
                continue
            low, total, high, count = self.kept.get(name, [value, 0.0, value, 0])
            self.kept[name] = [min(low, value), total + value, max(high, value), count + 1]

    def summary(self) -> dict[str, Any]:
        """Return `name_min`, `name_mean`, `name_max` of each level."""
        levels: dict[str, Any] = {"device_samples": self.count}
        for name, (low, total, high, count) in self.kept.items():
            levels |= {
                f"{name}_min": low,
                f"{name}_mean": round(total / count, 2),
                f"{name}_max": high,
            }
        return levels
