"""GPUs as CUDA shows them: the driver lists all, a variable chooses, and a number must be of the chosen one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from jobs import job
from llmbench.backends import memory
from llmbench.errors import SpecError
from llmbench.machine import info, nvidia
from llmbench.measure.telemetry import DeviceCounters, Gpu, counters_of, gpu_of, isolation
from llmbench.run.plan import plan
from llmbench.spec.sweep import Axes, Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def opening(answer: dict[int, int]) -> Callable[[int], str]:
    """Return a driver's function that opens GPUs by their place, and fails for some with a code."""

    def by_place(index: int) -> str:
        if index in answer:
            raise pynvml.NVMLError(answer[index])
        return IDS[index]

    return by_place


def test_a_gpu_that_may_not_be_opened_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = opening({1: pynvml.NVML_ERROR_NO_PERMISSION})
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", denied)

    assert nvidia.handles() == [IDS[0], IDS[2]]  # CUDA does not show it either
    assert info.device() == "cuda"
    assert nvidia.trouble() == "NVML says: Insufficient Permissions (GPU 1 of 3)"


def test_a_lost_gpu_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = opening({1: pynvml.NVML_ERROR_GPU_IS_LOST})
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lost)

    assert nvidia.handles() == [IDS[0], None, IDS[2]]
    assert [gpu["name"] for gpu in info.machine()["gpus"]] == [None] * 3
    assert Gpu(1).used_bytes() is None
    monkeypatch.setenv(nvidia.VISIBLE, "0")
    assert nvidia.handles() == [IDS[0]]


def silent(monkeypatch: pytest.MonkeyPatch, root: Path, *files: str) -> None:
    """Let NVML answer nothing, on a machine that has these files."""

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    monkeypatch.setattr(nvidia, "ROOT", root)
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text({"vendor": "0x10de", "class": "0x030200"}.get(Path(file).name, ""))


def planned(device: str) -> list[str]:
    """Return what a plan for this device says."""
    axes = Axes(
        dtype="float32",
        model="llama-7b@tiny",
        backend="fake",
        device=device,
        batch_size=1,
        input_len=8,
        output_len=2,
    )
    return plan(Sweep(name="x", axes=axes)).warnings


def test_where_nvml_is_silent_torch_finds_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    silent(monkeypatch, tmp_path, "dev/nvidia0", "dev/nvidiactl")

    assert (nvidia.handles(), info.device()) == ([], "cuda")
    for device in ("auto", "cuda"):
        assert planned(device) == [
            "Clocks, power and throttling will not be seen: NVML says: NVML Shared Library Not Found."
        ]


def test_auto_says_why_it_means_the_cpu_beside_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bus = "sys/bus/pci/devices/0000:01:00.0"
    silent(monkeypatch, tmp_path, f"{bus}/vendor", f"{bus}/class")

    assert planned("auto") == [
        "A GPU is here, but auto means cpu: NVML says: NVML Shared Library Not Found."
    ]
    assert planned("cpu") == []
    with pytest.raises(
        SpecError, match=r"no GPU can be used here .NVML says: NVML Shared Library Not Found"
    ):
        planned("cuda")


def test_a_machine_without_a_gpu_says_nothing_of_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    silent(monkeypatch, tmp_path)

    assert planned("auto") == []


def test_the_slice_that_cuda_shows_is_watched_and_not_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, answer in {
        "nvmlDeviceGetMigMode": lambda gpu: [int(gpu == IDS[0]), 0],
        "nvmlDeviceIsMigDeviceHandle": lambda gpu: int(gpu == SLICE),
        "nvmlDeviceGetMigDeviceHandleByIndex": lambda *_: SLICE,
        "nvmlDeviceGetMemoryInfo": lambda gpu, *_: SimpleNamespace(
            total=10 * 2**30 if gpu == SLICE else 80 * 2**30,
            used=2**26 if gpu == SLICE else 60 * 2**30,
        ),
        "nvmlDeviceGetComputeRunningProcesses": lambda gpu: (
            [] if gpu == SLICE else [SimpleNamespace(pid=4711)]
        ),
    }.items():
        monkeypatch.setattr(pynvml, name, answer)

    for visible in (None, "0", "GPU-aaaa-1", SLICE):
        if visible:
            monkeypatch.setenv(nvidia.VISIBLE, visible)
        assert isolation(Gpu(0)) == "alone"
        slice_facts = info.machine()["gpus"][0]
        assert (slice_facts["memory_bytes"], slice_facts["mig"]) == (10 * 2**30, 1)
    assert memory.device_used_by_uuid() == {"dddd": 2**26}


def test_a_driver_that_keeps_no_memory_apart_tells_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told(_: str, version: int | None = None) -> SimpleNamespace:
        if version is not None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return SimpleNamespace(used=700)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", told)

    assert Gpu(0).used_bytes() == 700


def test_gpus_that_are_hidden_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(nvidia.VISIBLE, "")

    assert nvidia.trouble() == "CUDA_VISIBLE_DEVICES= hides it"


@pytest.mark.parametrize(
    ("answer", "version"),
    [(12090, "12.9"), (13000, "13.0"), (pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN), None)],
)
def test_the_newest_cuda_of_a_driver(
    answer: Any, version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> int:
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion", told, raising=False)

    assert nvidia.cuda_version() == version


def test_memory_that_the_driver_keeps_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(_: str, version: int | None = None) -> SimpleNamespace:
        return SimpleNamespace(used=1 if version == pynvml.nvmlMemory_v2 else 700)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", told)

    assert Gpu(0).used_bytes() == 1


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
        "nvmlDeviceGetMemoryInfo": lambda h, *_: SimpleNamespace(used={IDS[0]: 1, IDS[1]: 5}[h]),
        "nvmlDeviceGetComputeRunningProcesses": lambda h: (
            [SimpleNamespace(pid=4711)] if h == IDS[1] else []
        ),
    }
    by_name["nvmlDeviceGetCurrentClocksThrottleReasons"] = {
        IDS[0]: pynvml.nvmlClocksThrottleReasonSwPowerCap,
        IDS[1]: pynvml.nvmlClocksThrottleReasonSwThermalSlowdown,
    }.__getitem__
    for name, answer in by_name.items():
        monkeypatch.setattr(pynvml, name, answer)

    gpu = Gpu(0, 1)

    assert gpu.levels() == {
        "sm_mhz": 1755, "mem_mhz": 1755, "temperature_c": 67, "power_w": 420.0, "hot": 1, "power_capped": 1,
    }  # fmt: skip
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
    counters = DeviceCounters([0])

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
    counters = DeviceCounters([0, 1])

    spent = counters.since(counters.read())

    assert spent.energy_mj is None
    assert counters.summary()["device_counters"] == "partial"
