"""A simulated NVIDIA driver with one idle H200, which a test's own code can change.

Every Python process of a command runs this first, as `sitecustomize`, which gives the parent and its workers the
same device. Names and errors are the real ones.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 2**30
RECORDS = Path(__file__).parent / "run" / "records.jsonl"


def ended() -> int:
    """Return how many sessions have a record."""
    return RECORDS.read_bytes().count(b'"kind":"end"') if RECORDS.exists() else 0


def says(value: Any) -> Callable[..., Any]:
    """Return a function that gives this answer."""
    return lambda *_: value


def raises(code: int) -> Callable[..., Any]:
    """Return a function that fails with this error."""

    def question(*_: Any) -> Any:
        raise pynvml.NVMLError(code)

    return question


def uses(used: int) -> Any:
    """Return memory information with this much in use."""
    return SimpleNamespace(total=141 * GIB, used=used, free=141 * GIB - used)


for name, value in {
    "nvmlInit": None,
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetHandleByIndex": "the first",
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlDeviceGetUUID": "GPU-0",
    "nvmlDeviceGetMemoryInfo": uses(GIB // 2),
    "nvmlSystemGetDriverVersion": "575.57.08",
    "nvmlSystemGetCudaDriverVersion": 12090,
    "nvmlDeviceGetPowerManagementLimit": 700_000,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceIsMigDeviceHandle": 0,
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetPowerUsage": 120_000,
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetTotalEnergyConsumption": 1_000_000,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
    "nvmlDeviceGetViolationStatus": SimpleNamespace(violationTime=0),
}.items():
    setattr(pynvml, name, says(value))
