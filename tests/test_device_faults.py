"""Devices that throttle, say nothing, are lost, shared or keep their memory; and what none can do (FAULTS 25, 30)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmbench.results.record import Status
from standin_cuda.settings import Gpu
from sweeps import ONLY_IN_THE_FORK_SERVER, SINGLE, Bench, Done, assert_complete

if TYPE_CHECKING:
    import pytest

DRIVER = """
from pathlib import Path
from standin_cuda.driver import GIB, NEIGHBOURS, Gpu, SimpleNamespace, pynvml, raises, says, uses
RECORDS = Path(__file__).parent / "run" / "records.jsonl"

def ended():  # how many sessions have a record
    return RECORDS.read_bytes().count(b'"kind":"end"') if RECORDS.exists() else 0
"""

ONE = {"batch_size": 2}


def on_a_gpu(bench: Bench, does: str = "", *arguments: str, **wanted: Any) -> Done:
    """Sweep on a GPU whose driver is a stand-in that does this, with its settings in `gpu`."""
    axes = {"device": "cuda", **wanted.pop("axes", {})}
    gpu = wanted.pop("gpu", {})
    bench.write(axes=axes, **wanted)
    return bench.sweep(*arguments, environment=bench.on_a_gpu(DRIVER + does, **gpu))


def codes(record: Any) -> list[str]:
    return [finding.code for finding in record.warnings]


def test_an_idle_device_has_nothing_against_it(bench: Bench) -> None:
    done = on_a_gpu(bench, axes=ONE, protocol=SINGLE)

    assert_complete(done)
    assert done.code == 0
    for record in done.records:
        assert record.telemetry["isolation"] == "alone"
        assert record.telemetry["sm_mhz_mean"] == 1980
        assert record.outcome.telemetry["device_counters"] == "full"
        assert record.warnings == []


# -- throttling ------------------------------------------------------------------------------------

HOT = """
left = {times}
def reasons(_):
    global left
    left -= 1
    return pynvml.nvmlClocksThrottleReasonHwThermalSlowdown if 0 <= left else 0
pynvml.nvmlDeviceGetCurrentClocksThrottleReasons = reasons
"""


def test_a_throttled_iteration_is_taken_again(bench: Bench) -> None:
    done = on_a_gpu(bench, HOT.format(times=8), axes=ONE, protocol=SINGLE)

    assert_complete(done)
    assert done.code == 0
    for record in done.records:
        warm = len(record.outcome.warmup_ns)
        reasons = [sample.discarded for sample in record.outcome.samples]
        assert reasons == ["HwThermalSlowdown"] * (8 - warm) + [None] * 3


def test_endless_throttling_is_invalid(bench: Bench) -> None:
    done = on_a_gpu(bench, HOT.format(times=10**6), axes=ONE, protocol={"sessions": 1})

    assert_complete(done)
    assert done.code == 3
    assert done.failed().status is Status.INVALID
    assert done.failed().reason == "throttled: 6 iterations discarded: HwThermalSlowdown"


# -- a driver that does not answer -----------------------------------------------------------------

SILENT = """
pynvml.nvmlDeviceGetPowerUsage = raises(pynvml.NVML_ERROR_NOT_SUPPORTED)
pynvml.nvmlDeviceGetMemoryInfo = lambda *_: 1 // 0
pynvml.nvmlDeviceGetTotalEnergyConsumption = says(None)
pynvml.nvmlSystemGetDriverVersion = raises(pynvml.NVML_ERROR_UNKNOWN)
"""
"""In every way in which a question can stay without an answer."""


def test_what_a_driver_does_not_tell_is_null_and_said(bench: Bench) -> None:
    done = on_a_gpu(bench, SILENT, axes=ONE, protocol=SINGLE)

    assert_complete(done)
    assert done.code == 0
    for record in done.records:
        assert "power_w_mean" not in record.telemetry
        assert record.telemetry["sm_mhz_mean"] == 1980
        assert record.telemetry["isolation"] == "unverifiable"
        assert {sample.energy_mj for sample in record.outcome.samples} == {None}
        (told,) = [finding.detail for finding in record.warnings if finding.code == "telemetry"]
        assert told == "partial: the device did not report power_w, energy or throttling"


def test_a_worker_without_a_driver_measures_all_the_same(bench: Bench) -> None:
    missing = "pynvml.nvmlInit = raises(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)\n"

    done = on_a_gpu(bench, ONLY_IN_THE_FORK_SERVER + missing, axes=ONE, protocol=SINGLE)

    assert_complete(done)
    assert done.code == 0
    assert {record.outcome.telemetry["device_counters"] for record in done.records} == {"partial"}
    assert all("telemetry" in codes(record) for record in done.records)


def test_no_driver_at_all_is_said_before_anything_runs(bench: Bench) -> None:
    done = on_a_gpu(bench, "pynvml.nvmlInit = raises(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)\n")

    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "llmbench: device: 'cuda' was asked for, but no GPU can be used here "
        "(NVML says: NVML Shared Library Not Found). Use device: cpu, or llmbench sweep --device cpu.\n"
    )


# -- a device that is gone -------------------------------------------------------------------------

GONE = """
def lost(question):
    def ask(*given):
        if ended() >= {after}:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return question(*given)
    return ask
for name in [name for name in vars(pynvml) if name.startswith("nvmlDeviceGet")]:
    setattr(pynvml, name, lost(getattr(pynvml, name)))
"""


def test_a_lost_device_stops_the_sweep_and_the_rest_waits_until_it_is_back(bench: Bench) -> None:
    done = on_a_gpu(bench, GONE.format(after=2), protocol={"isolation": "cell"})

    assert_complete(done)
    assert done.code == 3
    statuses = [record.status for record in done.records]
    assert statuses == [Status.OK] * 2 + [Status.SKIPPED] * 4
    skipped = done.records[-1].reason or ""
    assert skipped.startswith("the GPU no longer responds to its driver. Check nvidia-smi")
    assert skipped in done.out
    before = bench.raw()
    again = on_a_gpu(bench, "", "--run-anyway", protocol={"isolation": "cell"})
    assert again.code == 0
    assert bench.raw().startswith(before)
    assert set(again.statuses.values()) == {Status.OK}


# -- others on the device --------------------------------------------------------------------------

COMPANY = """
def company(_):
    return [SimpleNamespace(pid=4711)] if ended() >= {after} else []
pynvml.nvmlDeviceGetComputeRunningProcesses = company
"""


def test_a_device_in_use_is_refused_unless_it_is_shared_on_purpose(bench: Bench) -> None:
    refused = on_a_gpu(bench, COMPANY.format(after=0))
    shared = on_a_gpu(bench, COMPANY.format(after=0), "--allow-shared", axes=ONE)

    assert refused.code == 2
    assert refused.err == (
        "llmbench: the GPU is in use by process 4711. "
        "Wait until it ends, or measure anyway with llmbench sweep --allow-shared.\n"
    )
    assert shared.code == 0  # disturbed, as agreed
    assert [codes(record) for record in shared.records] == [["shared_device"]] * 2


def test_company_that_comes_later_is_a_warning_from_then_on(bench: Bench) -> None:
    done = on_a_gpu(bench, COMPANY.format(after=3), protocol={"isolation": "cell"})

    assert_complete(done)
    assert done.code == 0
    assert [codes(record) for record in done.records] == [[]] * 3 + [["shared_device"]] * 3


LISTED = """
import time
def listed(_):
    late = ended() and time.time() - RECORDS.stat().st_mtime < 0.3
    return [SimpleNamespace(pid=4711)] if late else []
pynvml.nvmlDeviceGetComputeRunningProcesses = listed
"""


def test_a_worker_that_is_listed_a_moment_longer_is_no_company(bench: Bench) -> None:
    done = on_a_gpu(bench, LISTED, axes=ONE)

    assert_complete(done)
    assert done.code == 0
    assert [codes(record) for record in done.records] == [[], []]


# -- memory that does not come back ----------------------------------------------------------------

KEPT = """
import time
seconds = time.monotonic
def memory(*_):
    if ended() >= {after}:
        time.monotonic = lambda: seconds() + 40  # nobody waits half a minute for this test
        return uses(10 * GIB)
    return uses(GIB // 2)
pynvml.nvmlDeviceGetMemoryInfo = memory
"""
OF_A_WORKER = """
import json
def listed(_):
    ends = [json.loads(line) for line in RECORDS.read_text().splitlines() if '"kind":"end"' in line] if ended() else []
    return [SimpleNamespace(pid=end["worker"]["pid"]) for end in ends[1:]]
pynvml.nvmlDeviceGetComputeRunningProcesses = listed
"""


def test_memory_that_a_neighbour_takes_stops_nothing_and_is_said(bench: Bench) -> None:
    done = on_a_gpu(bench, KEPT.format(after=2), protocol={"isolation": "cell"})

    assert_complete(done)
    assert done.code == 0
    assert [codes(record) for record in done.records] == [[]] * 2 + [["shared_device"]] * 4


def test_a_neighbour_that_leaves_is_forgotten(bench: Bench) -> None:
    stays = KEPT.format(after=2).replace("if ended() >= 2", "if 2 <= ended() < 4")
    done = on_a_gpu(bench, stays, protocol={"isolation": "cell"})

    assert_complete(done)
    assert [codes(record) for record in done.records] == [[]] * 2 + [["shared_device"]] * 2 + [
        []
    ] * 2


def test_memory_that_does_not_come_back_stops_the_sweep_until_it_is_there(bench: Bench) -> None:
    kept = KEPT.format(after=2) + OF_A_WORKER
    done = on_a_gpu(bench, kept, "--allow-shared", protocol={"isolation": "cell"})

    assert done.code == 3
    statuses = [record.status for record in done.records]
    assert statuses == [Status.OK] * 2 + [Status.DEVICE_DIRTY]
    told = done.records[-1].reason or ""
    assert told.startswith(
        f"9.5 GiB of device memory were not released by process {done.records[1].worker['pid']}, which has ended."
    )
    assert told.endswith("then run the same command again to continue.")
    assert told in done.out
    before = bench.raw()
    again = on_a_gpu(bench, protocol={"isolation": "cell"})
    assert_complete(again)
    assert again.code == 0
    assert bench.raw().startswith(before)


# -- faster than the device can be -----------------------------------------------------------------


BOUNDS = {"ttft_ms": "over the peak", "tpot_ms": "over the bandwidth"}


def test_what_is_faster_than_the_chip_is_invalid(bench: Bench) -> None:
    wanted = {"model": "llama-7b", "dtype": "bfloat16", "batch_size": 1}

    done = on_a_gpu(bench, axes=wanted, ttft_ms=[5.0, 0.001], tpot_ms=[10.0, 0.002])

    assert_complete(done)
    assert done.code == 3
    for record in done.records:
        too_fast = [name for name in BOUNDS if float(record.cell.options.get(name, 5.0)) < 1]
        assert record.status is (Status.INVALID if too_fast else Status.OK)
        assert all(BOUNDS[name] in (record.reason or "") for name in too_fast)


# -- a GPU that may not be opened, and a slice of one ----------------------------------------------


def test_a_gpu_that_may_not_be_opened_hides_no_other(bench: Bench) -> None:
    done = on_a_gpu(bench, axes=ONE, protocol=SINGLE, gpu={"gpus": 2, "denied": 1})

    assert done.code == 0, done.err
    assert [record.telemetry["isolation"] for record in done.records] == ["alone"]


NEIGHBOUR = "NEIGHBOURS[Gpu(0, 1)] = 4711, 10 * GIB\n"
"""Somebody else computes on the second slice."""


def test_a_neighbour_in_another_slice_is_no_company(bench: Bench) -> None:
    done = on_a_gpu(bench, NEIGHBOUR, axes=ONE, protocol=SINGLE, gpu={"slices": 2})

    assert done.code == 0, done.err
    assert [record.telemetry["isolation"] for record in done.records] == ["alone"]


def test_a_slice_that_is_named_by_its_id_is_watched_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", Gpu(0, 0).uuid)

    done = on_a_gpu(bench, NEIGHBOUR, axes=ONE, protocol=SINGLE, gpu={"slices": 2})

    assert done.code == 0, done.err
    assert [record.telemetry["isolation"] for record in done.records] == ["alone"]
