"""The NVIDIA GPUs that CUDA shows here, in CUDA's order, as the driver's handles.

The driver's own list ignores CUDA_VISIBLE_DEVICES: its first GPU may not be the one that is measured. Where NVML, the
driver's library, says nothing, the files under /dev show whether there is a GPU, and torch finds out whether it works.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""With it, numbers in CUDA_VISIBLE_DEVICES match nvidia-smi; CUDA's default order has the fastest GPU first."""

ROOT = Path("/")
DEVICE_FILES = ("dev/nvidia[0-9]*", "dev/dxg")
"""The files through which programs use a GPU; the second is Windows' (WSL)."""
VENDOR, DISPLAY = "0x10de", "0x03"
"""NVIDIA's id on the PCI bus, and how the class of a graphics or 3D controller begins."""


HEAT = ("nvmlClocksThrottleReasonSwThermalSlowdown", "nvmlClocksThrottleReasonHwThermalSlowdown")
POWER_CAP = ("nvmlClocksThrottleReasonSwPowerCap",)
SLOWDOWNS = (
    *HEAT,
    "nvmlClocksThrottleReasonHwSlowdown",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown",
)
"""Reasons for low clocks that make an iteration incomparable. A software power cap is normal and not included."""

LOST = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)
"""The driver's errors for a GPU that has fallen off the bus or needs a reset."""


class _Gpu(NamedTuple):
    """A GPU of the driver's list, and what CUDA uses of it: itself, or its first slice (MIG); None if it is lost."""

    whole: Any
    used: Any


def handles() -> list[Any]:
    """Return a handle for each GPU that CUDA shows, in its order; None for a lost one, empty without a driver."""
    everyone, _ = _listed()
    wanted = os.environ.get(VISIBLE)
    return [gpu.used for gpu in everyone] if wanted is None else _chosen(wanted, everyone)


def present() -> bool:
    """Return whether there is a GPU to try: the driver lists one, or cannot be asked although its files exist."""
    return bool(handles()) or bool(
        _listed()[1] and _device_files() and os.environ.get(VISIBLE) != ""
    )


def trouble() -> str | None:
    """Return, in NVML's own words, why GPUs that are in this machine cannot be seen or used; None without a sign."""
    everyone, error = _listed()
    if os.environ.get(VISIBLE) is not None and everyone and not handles():
        return f"{VISIBLE}={os.environ[VISIBLE]} hides it"
    if error and (everyone or _device_files() or _on_the_bus()):
        return f"NVML says: {error}"
    return "no driver is loaded for it" if not everyone and _on_the_bus() else None


def error() -> str:
    """Return what NVML says if it lists no GPU or fails for one."""
    return _listed()[1] or "no GPU is listed"


def _listed() -> tuple[list[_Gpu], str | None]:
    """Return the driver's GPUs that this process may use, and the last error.

    The driver counts GPUs that it does not open for this process, and CUDA does not show those. A lost GPU keeps its
    place.
    """
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as why:
        return [], str(why)
    everyone, said = [], None
    for index in range(count):
        try:
            everyone.append(_opened(pynvml.nvmlDeviceGetHandleByIndex(index)))
        except pynvml.NVMLError_NoPermission as why:
            said = f"{why} (GPU {index} of {count})"
        except pynvml.NVMLError as why:
            said = f"{why} (GPU {index} of {count})"
            everyone.append(_Gpu(None, None))
    return everyone, said


def _opened(whole: Any) -> _Gpu:
    """Return a GPU with what CUDA shows of it: of one cut into slices, the first."""
    with contextlib.suppress(pynvml.NVMLError):
        if pynvml.nvmlDeviceGetMigMode(whole)[0]:
            return _Gpu(whole, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, 0))
    return _Gpu(whole, whole)


def _chosen(wanted: str, everyone: Sequence[_Gpu]) -> list[Any]:
    """Return the GPUs named; like CUDA, stop at the first name that matches nothing."""
    chosen = []
    for word in wanted.split(","):
        gpu = _named(word.strip(), everyone)
        if gpu is None:
            break
        chosen.append(gpu.used)
    return chosen


def _named(word: str, everyone: Sequence[_Gpu]) -> _Gpu | None:
    """Return the GPU with this number, this beginning of an id, or this whole id of a slice."""
    if word.isdecimal():
        return dict(enumerate(everyone)).get(int(word))
    with contextlib.suppress(pynvml.NVMLError):
        if word.startswith("MIG-"):
            piece = pynvml.nvmlDeviceGetHandleByUUID(word)
            return _Gpu(piece, piece)
        if word.startswith("GPU-"):
            known = (gpu for gpu in everyone if gpu.whole is not None)
            return next((gpu for gpu in known if uuid(gpu.whole).startswith(word)), None)
    return None


def uuid(gpu: Any) -> str:
    """Return the id by which the driver knows a GPU or a slice."""
    name = pynvml.nvmlDeviceGetUUID(gpu)
    return name.decode() if isinstance(name, bytes) else str(name)


def cuda_version() -> str | None:
    """Return the newest CUDA that the driver runs, such as 12.9; None if it cannot be asked."""
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        version = int(pynvml.nvmlSystemGetCudaDriverVersion())
        return f"{version // 1000}.{version % 1000 // 10}"
    return None


def _energy_mj(gpu: Any) -> int | None:
    """Return the energy of a whole GPU; None with slices (MIG), which share a single counter."""
    return None if is_slice(gpu) else int(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu))


def _active(gpu: Any, reasons: Sequence[str]) -> list[str]:
    """Return which of these reasons hold the clocks down now."""
    active = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
    return [
        name.removeprefix("nvmlClocksThrottleReason")
        for name in reasons
        if active & getattr(pynvml, name)
    ]


def _held_ns(gpu: Any, policy: int) -> int:
    return int(pynvml.nvmlDeviceGetViolationStatus(gpu, policy).violationTime)


def _processes(gpu: Any) -> dict[int, int | None]:
    """Return the compute processes on a GPU with their bytes, None where containers hide them."""
    found = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    return {process.pid: getattr(process, "usedGpuMemory", None) for process in found}


def is_slice(gpu: Any) -> bool:
    """Return whether a handle is a slice of a GPU (MIG), or a GPU that is cut into slices."""
    questions = (pynvml.nvmlDeviceIsMigDeviceHandle, lambda it: pynvml.nvmlDeviceGetMigMode(it)[0])
    for question in questions:
        with contextlib.suppress(pynvml.NVMLError):
            if question(gpu):
                return True
    return False


def used_bytes(gpu: Any) -> int:
    """Return the memory in use by all processes, without what the driver keeps for itself, if it tells them apart."""
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(gpu, pynvml.nvmlMemory_v2).used)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used)


def _device_files() -> bool:
    return any(path for pattern in DEVICE_FILES for path in ROOT.glob(pattern))


def _on_the_bus() -> bool:
    """Return whether the kernel sees an NVIDIA graphics or 3D controller on the PCI bus."""
    for path in ROOT.glob("sys/bus/pci/devices/*"):
        with contextlib.suppress(OSError):
            kind, vendor = ((path / name).read_text().strip() for name in ("class", "vendor"))
            if vendor == VENDOR and kind.startswith(DISPLAY):
                return True
    return False


QUESTIONS: Mapping[str, Callable[[Any], Any]] = {
    "name": lambda gpu: pynvml.nvmlDeviceGetName(gpu),  # noqa: PLW0108 - looked up when asked
    "memory_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total,
    "driver": lambda _: pynvml.nvmlSystemGetDriverVersion(),
    "cuda_driver": lambda _: pynvml.nvmlSystemGetCudaDriverVersion(),
    "power_limit_w": lambda gpu: pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000 or None,
    "max_sm_mhz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "max_mem_mhz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
    "ecc": lambda gpu: pynvml.nvmlDeviceGetEccMode(gpu)[0],
    "mig": lambda gpu: int(is_slice(gpu)),
    "persistence": lambda gpu: pynvml.nvmlDeviceGetPersistenceMode(gpu),  # noqa: PLW0108 - likewise
    "uuid": uuid,
    "used_bytes": used_bytes,
    "processes": _processes,
    "sm_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "mem_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
    "temperature_c": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    "power_w": lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    "hot": lambda gpu: int(bool(_active(gpu, HEAT))),
    "power_capped": lambda gpu: int(bool(_active(gpu, POWER_CAP))),
    "slowdowns": lambda gpu: _active(gpu, SLOWDOWNS),
    "energy_mj": _energy_mj,
    "capped_ns": lambda gpu: _held_ns(gpu, pynvml.NVML_PERF_POLICY_POWER),
    "hot_ns": lambda gpu: _held_ns(gpu, pynvml.NVML_PERF_POLICY_THERMAL),
}
"""What a GPU can be asked by `gpus.ask`, which says what each means."""
