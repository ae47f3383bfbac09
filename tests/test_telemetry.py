"""What is read of a device, from readers that answer as devices do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from fakes import a_cell
from llmbench.machine import gpus
from llmbench.measure.telemetry import CpuWindow, DeviceCounters, Gpu, Levels, isolation
from llmbench.results.record import Status
from llmbench.run import outcome
from llmbench.run.device_monitor import DeviceMonitor
from llmbench.run.messages import Progress
from llmbench.run.runner import WorkerProcess, WorkerSession


class Device(Gpu):
    """A GPU that says what a test wants."""

    def __init__(self, others: list[int] | None, used_bytes: int | None) -> None:
        self.answer, self.used, self.handles = others, used_bytes, [None]

    def others(self, own: set[int]) -> list[int] | None:  # noqa: ARG002 - the signature of the real one
        return self.answer

    def used_bytes(self) -> int | None:
        return self.used


@pytest.mark.parametrize(
    ("others", "used_bytes", "told"),
    [
        ([], 600 * 2**20, "alone"),
        ([4711], 600 * 2**20, "shared"),
        ([], 40 * 2**30, "unverifiable"),
        (None, 0, "unverifiable"),
        ([], None, "unverifiable"),
    ],
)
def test_isolation_is_claimed_only_where_it_can_be_seen(
    others: list[int] | None, used_bytes: int | None, told: str
) -> None:
    assert isolation(Device(others, used_bytes)) == told


def test_levels_keep_the_extremes_and_the_mean_and_leave_out_what_is_unknown() -> None:
    levels = Levels()
    for mhz in (1000, 1500, 2000):
        levels.add({"sm_mhz": mhz, "power_w": None})

    seen = levels.summary()

    assert seen == {
        "device_samples": 3,
        "sm_mhz_min": 1000,
        "sm_mhz_mean": 1500.0,
        "sm_mhz_max": 2000,
    }


def test_clocks_are_those_of_the_measuring_not_of_the_load() -> None:
    mhz = iter([345, 1980])
    told = SimpleNamespace(measuring=lambda *_: None)
    watch = DeviceMonitor(None)
    watch.gpu = Device([], 0)
    watch.gpu.levels = lambda: {"sm_mhz": next(mhz)}  # type: ignore[method-assign]
    runner: Any = SimpleNamespace(watch=watch, screen=told)
    nobody = WorkerProcess(0, 0.0, "", "")
    supervisor = WorkerSession(runner, nobody, {}, watch, 1, [a_cell()], lambda: None)

    watch.tick()
    supervisor._progress(Progress(phase="warmup", iteration=0))
    watch.tick()

    assert watch.seen()["sm_mhz_mean"] == 1980


def test_a_driver_that_raises_leaves_fields_empty_and_says_partial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(gpus, "handle", lambda _: object())
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", refuse)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", refuse)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetViolationStatus", refuse)
    counters = DeviceCounters([0])

    spent = counters.since(counters.read())

    assert (spent.energy_mj, spent.throttled) == (None, None)
    assert counters.summary() == {
        "power_cap_share": None,
        "hot_share": None,
        "device_counters": "partial",
    }


def test_a_thermal_slowdown_is_named_and_a_power_cap_is_only_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reasons = iter(
        [
            pynvml.nvmlClocksThrottleReasonSwPowerCap,
            pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        ]
    )
    held = iter([0, 0, 10**6, 0, 10**6, 0, 10**6, 0])  # power, heat; before and after each call
    energy = iter([1000, 1500, 1500, 2500])
    monkeypatch.setattr(gpus, "handle", lambda _: object())
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda _: next(reasons)
    )
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda _: next(energy))
    monkeypatch.setattr(
        pynvml,
        "nvmlDeviceGetViolationStatus",
        lambda *_: SimpleNamespace(violationTime=next(held)),
    )
    counters = DeviceCounters([0])

    capped = counters.since(counters.read())
    slowed = counters.since(counters.read())

    assert (capped.energy_mj, capped.throttled) == (500, None)
    assert (slowed.energy_mj, slowed.throttled) == (1000, "HwThermalSlowdown")
    assert counters.summary()["power_cap_share"] == 0.5


def test_without_counters_what_the_samples_saw_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heat and a power cap in every call, and nothing as soon as the device idles."""
    busy = True

    def reasons(_: object) -> int:
        both = (
            pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
            | pynvml.nvmlClocksThrottleReasonSwPowerCap
        )
        return int(both if busy else pynvml.nvmlClocksThrottleReasonGpuIdle)

    def refuse(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(gpus, "handle", lambda _: object())
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", reasons)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetViolationStatus", refuse)
    counters, gpu, levels = DeviceCounters([0]), Gpu(0), Levels()
    before = counters.read()
    levels.add(gpu.levels())  # as the parent does while a call runs
    busy = False

    spent, summary = counters.since(before), counters.summary()

    assert spent.throttled is None
    assert summary == {"power_cap_share": None, "hot_share": None, "device_counters": "partial"}
    assert levels.summary()["power_capped_mean"] == 1
    found = outcome._surroundings(Status.OK, levels.summary(), summary, {})
    assert "heat held the device's clocks down in 100% of the samples" in [
        one.detail for one in found
    ]


def test_what_held_the_clocks_down_and_is_over_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two iterations of a second each: a power cap of a tenth in the first, heat of a fifth in the second.
    held_ms = {
        pynvml.NVML_PERF_POLICY_POWER: iter([5000, 5100, 5100, 5100]),
        pynvml.NVML_PERF_POLICY_THERMAL: iter([70, 70, 70, 270]),
    }
    at_ns = iter([0, 10**9, 10**9, 2 * 10**9])
    monkeypatch.setattr(gpus, "handle", lambda _: object())
    monkeypatch.setattr("llmbench.measure.telemetry.time.monotonic_ns", lambda: next(at_ns))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda _: 0)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda _: 0)
    monkeypatch.setattr(
        pynvml,
        "nvmlDeviceGetViolationStatus",
        lambda _, policy: SimpleNamespace(violationTime=next(held_ms[policy]) * 10**6),
    )
    counters = DeviceCounters([0])

    spent = [counters.since(counters.read()) for _ in range(2)]

    assert [each.throttled for each in spent] == [None, None]
    assert counters.summary() == {
        "power_cap_share": 0.5,
        "hot_share": 0.1,
        "device_counters": "full",
    }


@pytest.mark.parametrize(
    ("ended", "other_s", "steal_s"),
    [
        ((11.0, 1.5, 2.0, 0.25), 0.5, 0.25),
        ((11.0, 1.5, 1.4, 0.0), 0.0, 0.0),  # our own ticks are counted elsewhere a little later
        ((10.01, 0.01, 0.04, 0.02), 0.01, 0.01),  # 10 ms hold no more than both processors' 20
    ],
)
def test_others_cannot_have_used_more_than_there_was(
    ended: tuple[float, ...], other_s: float, steal_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands = iter([(10.0, 0.0, 0.0, 0.0), ended])
    monkeypatch.setattr(CpuWindow, "_now", staticmethod(lambda: next(stands)))
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    seen = CpuWindow().read()

    assert (seen["cpu_other_s"], seen["cpu_steal_s"]) == (other_s, steal_s)


def test_the_share_of_others_is_of_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    stands = iter([(10.0, 0.0, 0.0, 0.0), (12.0, 0.5, 2.5, 0.0)])
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(CpuWindow, "_now", staticmethod(lambda: next(stands)))

    assert CpuWindow().others() == 0.5


def test_a_window_without_proc_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuWindow, "_now", staticmethod(lambda: None))

    assert CpuWindow().read() == {"cpu": "unknown"}
    assert CpuWindow().others() == 0.0


def test_a_gpu_that_is_not_there_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu = Gpu(0)

    assert gpu.others(set()) is None
    assert set(gpu.levels().values()) == {None}


def test_a_stop_ends_the_wait_for_a_workers_memory() -> None:
    class Stopped:
        signals = iter([None, 2])

        @property
        def signal(self) -> int | None:
            return next(self.signals)

    interrupt: Any = Stopped()
    watch = DeviceMonitor(None)
    watch.gpu, watch.used_bytes = Device([], 10 * 2**30), 0
    watch.gpu.lost = False

    watch.after_worker(interrupt)

    assert watch.halt is None
    assert list(interrupt.signals) == []
