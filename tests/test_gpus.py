"""GPUs as CUDA shows them: the driver lists all, a variable chooses, and a number must be of the chosen one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from jobs import job
from llmbench.machine import info, nvidia
from llmbench.measure.telemetry import Gpu, NvmlCounters, counters_of, gpu_of, isolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.spec.sweep import Cell

IDS = ("GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3")
SLICE = "MIG-dddd"


@pytest.fixture(autouse=True)
def _three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_id(name: str) -> str:
        if name != SLICE:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return name

    monkeypatch.delenv(nvidia.VISIBLE, raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(IDS))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", IDS.__getitem__)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", of_id)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: handle.encode())


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        (None, [*IDS]),
        ("", []),
        ("2", [IDS[2]]),
        ("2,0", [IDS[2], IDS[0]]),
        (" 1 , 2 ", [IDS[1], IDS[2]]),
        ("1,-1,2", [IDS[1]]),
        ("1,7,2", [IDS[1]]),
        ("GPU-cccc", [IDS[2]]),
        ("GPU-aabb-2,GPU-aaaa-1", [IDS[1], IDS[0]]),
        (SLICE, [SLICE]),
        ("MIG-nowhere", []),
        ("NoDevFiles", []),
    ],
)
def test_what_cuda_shows_in_its_order(
    visible: str | None, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv(nvidia.VISIBLE, visible)

    assert nvidia.handles() == shown
    assert Gpu(0).handles == ([shown[0]] if shown else [None])


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)

    assert nvidia.handles() == []


def test_hidden_gpus_are_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(nvidia.VISIBLE, "")

    assert info.device() == "cpu"


def on_gpus(**options: Any) -> Cell:
    (cell,) = job("llama-7b", device="cuda", **options).cells
    return cell


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({}, 1),
        ({"device_map": "cpu_offload"}, 1),
        ({"device_map": "balanced"}, 3),
        ({"tensor_parallel_size": 2}, 2),
    ],
)
def test_every_gpu_that_a_cell_uses_is_watched_and_no_other(
    options: dict[str, Any], used: int
) -> None:
    gpu = gpu_of([on_gpus(), on_gpus(**options)])

    assert gpu is not None
    assert gpu.handles == list(IDS[:used])


def test_several_gpus_are_watched_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    by_name: dict[str, Any] = {
        "nvmlDeviceGetClockInfo": lambda h, _: {IDS[0]: 1980, IDS[1]: 1755}[h],
        "nvmlDeviceGetTemperature": lambda h, _: {IDS[0]: 41, IDS[1]: 67}[h],
        "nvmlDeviceGetPowerUsage": {IDS[0]: 120_000, IDS[1]: 300_000}.__getitem__,
        "nvmlDeviceGetMemoryInfo": lambda h: SimpleNamespace(used={IDS[0]: 1, IDS[1]: 5}[h]),
        "nvmlDeviceGetComputeRunningProcesses": lambda h: (
            [SimpleNamespace(pid=4711)] if h == IDS[1] else []
        ),
    }
    for name, answer in by_name.items():
        monkeypatch.setattr(pynvml, name, answer)

    gpu = Gpu(0, 1)

    assert gpu.levels() == {"sm_mhz": 1755, "mem_mhz": 1755, "temperature_c": 67, "power_w": 420.0}
    assert gpu.used_bytes() == 6
    assert gpu.others(set()) == [4711]
    assert isolation(gpu) == "shared"


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> dict[str, Iterator[int]]:
    """What each energy counter says, the one reading after the other."""
    said = {IDS[0]: iter([0, 1]), IDS[1]: iter([10, 310]), IDS[2]: iter([100, 800])}
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: next(said[handle])
    )
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda _: 0)
    return said


def test_the_energy_is_that_of_the_gpus_in_use(
    meters: dict[str, Iterator[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(nvidia.VISIBLE, "2,1")
    counters = counters_of("cuda", "cpu, cuda:0, cuda:1")

    spent = counters.since(counters.read())

    assert spent.energy_mj == 300 + 700
    assert next(meters[IDS[0]]) == 0  # it was not asked


def test_the_energy_of_a_gpu_in_slices_is_nobodys(
    meters: dict[str, Iterator[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigMode", lambda _: [1, 1])
    counters = NvmlCounters([0])

    assert counters.since(counters.read()).energy_mj is None
    assert next(meters[IDS[0]]) == 0  # it was not asked


def test_an_energy_that_one_of_them_does_not_tell_is_none(
    meters: dict[str, Iterator[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: str) -> int:
        if handle == IDS[1]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return next(meters[handle])

    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", refuse)
    counters = NvmlCounters([0, 1])

    spent = counters.since(counters.read())

    assert spent.energy_mj is None
    assert counters.summary()["device_counters"] == "partial"
