"""AMD's GPUs, as torch for ROCm shows them under the name `cuda`, and what amdsmi tells of them where it is installed.

Nobody has run this on such a card yet. The units are those that amdsmi's page of its Python functions names; what
differs between its versions is left out rather than guessed: energy, slowdowns, and partitions.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.machine import nvidia

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VISIBLE = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
DEVICE_FILE = "dev/kfd"
MIB = 2**20
HOTTEST_C = 200
"""Older versions give thousandths of a degree; no chip is hotter than this."""


class Card(NamedTuple):
    """A GPU by amdsmi's handle."""

    handle: Any


def present() -> bool:
    """Return whether torch is built for ROCm and the driver's file exists; a CPU's own graphics are no GPU to torch."""
    if not (nvidia.ROOT / DEVICE_FILE).exists():
        return False
    from importlib import metadata  # noqa: PLC0415 - takes longer than the rest of this

    with contextlib.suppress(metadata.PackageNotFoundError):
        return "rocm" in metadata.version("torch")
    return False


def handles() -> list[Card]:
    """Return the GPUs that ROCm shows, in its order; empty without amdsmi, which may fail in many ways."""
    if not present():
        return []
    with contextlib.suppress(Exception):
        smi = importlib.import_module("amdsmi")
        smi.amdsmi_init()
        everyone = [Card(handle) for handle in smi.amdsmi_get_processor_handles()]
        for name in VISIBLE:
            everyone = _chosen(os.environ.get(name), everyone)
        return everyone
    return []


def trouble() -> str | None:
    """Return why nothing is known of a GPU that is there; None if it can be asked, or there is none."""
    return "amdsmi is not installed or does not answer" if present() and not handles() else None


def _chosen(wanted: str | None, everyone: list[Card]) -> list[Card]:
    """Return the GPUs whose numbers a variable names, of those that the one before left."""
    if wanted is None:
        return everyone
    numbers = [int(word) for word in wanted.split(",") if word.strip().isdecimal()]
    return [everyone[number] for number in numbers if number < len(everyone)]


def _smi(function: str, gpu: Card, *more: Any) -> Any:
    return getattr(importlib.import_module("amdsmi"), f"amdsmi_{function}")(gpu.handle, *more)


def _kind(enumeration: str, name: str) -> Any:
    return getattr(getattr(importlib.import_module("amdsmi"), f"AmdSmi{enumeration}"), name)


def _number(facts: Mapping[str, Any], *names: str) -> float | None:
    """Return the first of these facts that is a number: what a card does not tell is N/A."""
    values = (facts.get(name) for name in names)
    return next((value for value in values if isinstance(value, int | float)), None)


def _clock_mhz(gpu: Card, kind: str, *names: str) -> float | None:
    return _number(_smi("get_clock_info", gpu, _kind("ClkType", kind)), *names)


def _temperature_c(gpu: Card) -> float | None:
    kinds = (_kind("TemperatureType", "JUNCTION"), _kind("TemperatureMetric", "CURRENT"))
    told = _smi("get_temp_metric", gpu, *kinds)
    return told if isinstance(told, int | float) and told < HOTTEST_C else None


def _vram_bytes(gpu: Card, name: str) -> int | None:
    mib = _number(_smi("get_gpu_vram_usage", gpu), name)
    return None if mib is None else int(mib) * MIB


QUESTIONS: Mapping[str, Callable[[Card], Any]] = {
    "name": lambda gpu: _smi("get_gpu_asic_info", gpu)["market_name"],
    "memory_bytes": lambda gpu: _vram_bytes(gpu, "vram_total"),
    "driver": lambda gpu: _smi("get_gpu_driver_info", gpu)["driver_version"],
    "uuid": lambda gpu: _smi("get_gpu_device_uuid", gpu),
    "power_limit_w": lambda gpu: _number(_smi("get_power_info", gpu), "power_limit"),
    "max_sm_mhz": lambda gpu: _clock_mhz(gpu, "GFX", "max_clk"),
    "max_mem_mhz": lambda gpu: _clock_mhz(gpu, "MEM", "max_clk"),
    "used_bytes": lambda gpu: _vram_bytes(gpu, "vram_used"),
    "sm_mhz": lambda gpu: _clock_mhz(gpu, "GFX", "clk", "cur_clk"),
    "mem_mhz": lambda gpu: _clock_mhz(gpu, "MEM", "clk", "cur_clk"),
    "temperature_c": _temperature_c,
    "power_w": lambda gpu: _number(
        _smi("get_power_info", gpu), "socket_power", "current_socket_power", "average_socket_power"
    ),
    "processes": lambda gpu: {
        process["pid"]: process["memory_usage"]["vram_mem"]
        for process in _smi("get_gpu_process_list", gpu)
    },
}
"""What a GPU can be asked by `gpus.ask`, which says what each means."""
