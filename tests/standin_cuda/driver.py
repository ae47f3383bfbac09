"""A simulated NVIDIA driver: the questions of NVML that llmbench asks, answered for the GPUs of `settings`.

`install` replaces the functions of pynvml. Names and errors are the real ones; a test's own code can replace an answer
again. The memory and the processes of a device are those that the stand-in's torch has reported from its processes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml

from standin_cuda import settings
from standin_cuda.settings import GIB, Gpu

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_BYTES = GIB // 2
POWER_W = 300
TICK_S = 0.02
"""The energy counter moves in steps of this."""
NEIGHBOURS: dict[Gpu, tuple[int, int]] = {}
"""Other people's processes: the process id and the bytes, by device."""


def says(value: Any) -> Callable[..., Any]:
    """Return a function that gives this answer."""
    return lambda *_: value


def raises(code: int) -> Callable[..., Any]:
    """Return a function that fails with this error."""

    def question(*_: Any) -> Any:
        raise pynvml.NVMLError(code)

    return question


def uses(used: int, total: int = settings.MEMORY_BYTES) -> SimpleNamespace:
    """Return memory information with this much in use."""
    return SimpleNamespace(total=total, used=used, free=total - used)


def install() -> None:
    """Give pynvml these answers."""
    for name, question in QUESTIONS.items():
        setattr(pynvml, name, question)


def held() -> dict[int, dict[str, int]]:
    """Return the bytes that each living process holds, by the id of the device."""
    found = {}
    for path in settings.STATE.glob("[0-9]*"):
        if path.name.isdigit() and _alive(path.name):
            found[int(path.name)] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _alive(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _processes(gpu: Gpu) -> list[SimpleNamespace]:
    """Return who holds memory of a device; of a whole GPU that is cut in slices, all of theirs."""
    parts = [gpu, *settings.slices(gpu)] if gpu.part is None else [gpu]
    ours = {pid: sum(by_id.get(part.uuid, 0) for part in parts) for pid, by_id in held().items()}
    others = dict(NEIGHBOURS[part] for part in parts if part in NEIGHBOURS)
    return [
        SimpleNamespace(pid=pid, usedGpuMemory=used)
        for pid, used in (ours | others).items()
        if used
    ]


def _memory(gpu: Gpu, *_: Any) -> SimpleNamespace:
    used = sum(process.usedGpuMemory for process in _processes(gpu))
    return uses(IDLE_BYTES + used, gpu.memory_bytes)


def _by_index(index: int) -> Gpu:
    """Open a GPU; the driver counts those too that this user may not open."""
    if index in settings.DENIED:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
    if index >= settings.GPUS:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    return Gpu(index)


def _by_uuid(uuid: str | bytes) -> Gpu:
    name = uuid.decode() if isinstance(uuid, bytes) else uuid
    whole = [Gpu(index) for index in range(settings.GPUS)]
    parts = [part for gpu in whole for part in settings.slices(gpu)]
    for gpu in (*whole, *parts):
        if gpu.uuid == name:
            return gpu
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)


def _slice(gpu: Gpu, number: int) -> Gpu:
    if number >= settings.SLICES:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
    return settings.slices(gpu)[number]


def _energy_mj(_: Gpu) -> int:
    return int(time.monotonic() / TICK_S) * int(TICK_S * POWER_W * 1000)


def _whole(question: Callable[[Gpu], Any]) -> Callable[..., Any]:
    """Return a question that is not answered for a slice."""

    def asked(gpu: Gpu, *_: Any) -> Any:
        if gpu.part is not None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return question(gpu)

    return asked


QUESTIONS: dict[str, Callable[..., Any]] = {
    "nvmlInit": says(None),
    "nvmlSystemGetDriverVersion": says("575.57.08"),
    "nvmlSystemGetCudaDriverVersion": says(12090),
    "nvmlDeviceGetCount": says(settings.GPUS),
    "nvmlDeviceGetHandleByIndex": _by_index,
    "nvmlDeviceGetHandleByUUID": _by_uuid,
    "nvmlDeviceGetMaxMigDeviceCount": _whole(says(settings.SLICES)),
    "nvmlDeviceGetMigDeviceHandleByIndex": _slice,
    "nvmlDeviceIsMigDeviceHandle": lambda gpu: int(gpu.part is not None),
    "nvmlDeviceGetMigMode": _whole(says([int(settings.SLICES > 0)] * 2)),
    "nvmlDeviceGetName": says(settings.NAME),
    "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetComputeRunningProcesses": _processes,
    "nvmlDeviceGetPowerManagementLimit": _whole(says(700_000)),
    "nvmlDeviceGetPowerUsage": _whole(says(POWER_W * 1000)),
    "nvmlDeviceGetTotalEnergyConsumption": _whole(_energy_mj),
    "nvmlDeviceGetTemperature": _whole(says(41)),
    "nvmlDeviceGetClockInfo": _whole(says(1980)),
    "nvmlDeviceGetMaxClockInfo": _whole(says(1980)),
    "nvmlDeviceGetEccMode": _whole(says([1, 1])),
    "nvmlDeviceGetPersistenceMode": _whole(says(1)),
    "nvmlDeviceGetCurrentClocksThrottleReasons": _whole(says(0)),
    "nvmlDeviceGetViolationStatus": _whole(says(SimpleNamespace(violationTime=0, referenceTime=0))),
}
