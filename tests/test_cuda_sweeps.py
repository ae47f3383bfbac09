"""The CUDA path through the real command, on the stand-in of a CUDA device (its page: `standin_cuda/README.md`)."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from llmbench.machine import state as machine_state
from llmbench.results.record import Status
from standin_cuda import BEGIN, TESTS
from standin_cuda.settings import Gpu
from sweeps import ONLY_IN_THE_FORK_SERVER, VALID, Bench, Done, asked, assert_complete

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.results.record import Record

pytestmark = [pytest.mark.usefixtures("_cuda"), pytest.mark.timeout(300)]

LLAMA, MPT, MIXTRAL, T5 = (
    "llama-7b@tiny",
    "mpt-7b@tiny",
    "mixtral-8x7b-v0.1@tiny",
    "flan-t5-base@tiny",
)
AXES = {
    "device": "cuda", "dtype": "float32", "model": LLAMA, "backend": "transformers", "batch_size": 2, "input_len": 8,
    "output_len": 5,
}  # fmt: skip
PROTOCOL = {
    "sessions": 1, "max_sessions": 1, "warmup": 1, "warmup_budget_s": 0, "iterations": 3,
    "deadlines": {"start_s": 60, "load_s": 60},
}  # fmt: skip
MIB = 2**20
PATIENCE_S = 240.0
"""A sweep takes ten seconds, and on a machine with other work many times as long."""


def measured(
    bench: Bench, *arguments: str, axes: dict[str, Any] | None = None, code: str = "", **more: Any
) -> Done:
    """Sweep on the stand-in, which has `gpu` as its settings, and runs this code at the beginning of every Python."""
    protocol, gpu = more.get("protocol", {}), more.get("gpu", {})
    bench.write(axes={**AXES, **(axes or {})}, protocol={**PROTOCOL, **protocol})
    environment = bench.on_a_gpu(code, **gpu)
    return bench.sweep(
        *arguments,
        environment={**environment, machine_state.STATE: str(bench.folder / "state")},
        patience_s=PATIENCE_S,
    )


# -- families and caches ---------------------------------------------------------------------------


class Families(NamedTuple):
    """A sweep over families and caches, and the device's own log of it."""

    done: Done
    log: list[dict[str, Any]]

    def record(self, model: str, cache: str = "dynamic") -> Record:
        """Return the only record of a cell."""
        (found,) = (
            record
            for record in self.done.records
            if (record.cell.model, record.cell.options.get("cache", "dynamic")) == (model, cache)
        )
        return found

    def events(self, record: Record, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind in the worker of a record."""
        pid = record.worker["pid"]
        return [event for event in self.log if (event["pid"], event["kind"]) == (pid, kind)]


def swept(bench: Bench, models: list[str], op_us: int) -> Families:
    """Return a sweep over models and caches."""
    log = bench.folder / "log"
    axes = {"model": models, "backend": {"transformers": {"cache": ["dynamic", "static"]}}}
    done = measured(bench, axes=axes, gpu={"op_us": op_us, "log": log})
    return Families(done, [json.loads(line) for line in log.read_text().splitlines()])


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Families:
    """Return the sweep, on a device that takes longer for an operator than the host needs to queue it."""
    bench = Bench(tmp_path_factory.mktemp("families"))
    return swept(bench, [LLAMA, MPT, MIXTRAL, T5], op_us=1000)


CACHES = [(LLAMA, "dynamic"), (LLAMA, "static"), (MPT, "dynamic"), (MPT, "static"), (MIXTRAL, "dynamic"),
          (MIXTRAL, "static"), (T5, "dynamic")]  # fmt: skip


def test_every_family_is_measured_with_the_caches_that_it_has(families: Families) -> None:
    assert_complete(families.done)
    for model, cache in CACHES:
        record = families.record(model, cache)
        assert (record.status, record.reason) == (Status.OK, None)
        assert record.outcome.engine["param_devices"] == "cuda:0"
        assert record.worker["start"] == "fork"
    refused = families.record(T5, "static")
    assert refused.status is Status.UNSUPPORTED
    assert "cannot use a static cache" in (refused.reason or "")


@pytest.mark.parametrize(("model", "cache"), CACHES)
def test_memory_adds_up(model: str, cache: str, families: Families) -> None:
    memory = families.record(model, cache).outcome.memory

    assert memory is not None
    held = memory.weights_bytes + memory.kv_cache_bytes  # type: ignore[operator]
    assert held < memory.peak_allocated_bytes <= memory.peak_reserved_bytes  # type: ignore[operator]
    assert memory.device_used_bytes == memory.process_used_bytes
    assert memory.process_used_bytes == memory.peak_reserved_bytes + 500 * MIB  # type: ignore[operator]


def test_the_drivers_figures_are_in_the_record(families: Families) -> None:
    record = families.record(LLAMA)
    samples = record.outcome.samples
    joules = sum(sample.energy_mj or 0 for sample in samples) / 1e3
    seconds = sum(sample.e2e_ns or 0 for sample in samples) / 1e9

    assert record.telemetry["isolation"] == "alone"
    assert record.telemetry["sm_mhz_mean"] == 1980
    assert record.outcome.telemetry["device_counters"] == "full"
    assert record.outcome.engine["device_name"] == "NVIDIA H200"
    assert joules / seconds == pytest.approx(300, rel=0.35)  # W; the counter moves every 20 ms


# -- times against the device's own clock ----------------------------------------------------------


class Truth(NamedTuple):
    """When one call's prompts were sent, and when the device had each of its tokens; nanoseconds."""

    began_ns: int
    tokens_ns: list[int]

    @property
    def ttft_s(self) -> float:
        return (self.tokens_ns[0] - self.began_ns) / 1e9

    @property
    def tpot_s(self) -> float:
        return (self.tokens_ns[-1] - self.tokens_ns[0]) / (len(self.tokens_ns) - 1) / 1e9


def truths(families: Families, record: Record) -> list[Truth]:
    """Return the timed calls of a record as the device saw them: a copy of prompts, then tokens."""
    calls: list[Truth] = []
    for event in families.log:
        if event["pid"] != record.worker["pid"]:
            continue
        if event["kind"] == "copy" and event["lines"][0].endswith((" generate", " memory")):
            calls.append(Truth(event["queued_ns"], []))
        elif event["kind"] == "token" and calls:
            calls[-1].tokens_ns.append(event["done_ns"])
    warm = len(record.outcome.warmup_ns)
    return calls[warm : warm + len(record.outcome.samples)]


@pytest.mark.parametrize(("model", "cache"), CACHES)
def test_reported_times_are_those_of_the_devices_clock(
    model: str, cache: str, families: Families
) -> None:
    record = families.record(model, cache)
    calls = truths(families, record)
    table = json.loads(asked("table", families.done.bench.run, "--format", "json").out)

    (values,) = (row["values"] for row in table["cells"] if row["id"] == record.id)

    assert [len(call.tokens_ns) for call in calls] == [record.cell.output_len] * 3
    for name in ("ttft_s", "tpot_s"):
        truth = statistics.median(getattr(call, name) for call in calls)
        assert values[name]["value"] == pytest.approx(truth, rel=0.02), name


# -- waits of the host -----------------------------------------------------------------------------

LOOP = "llmbench/backends/transformers/loops.py"
EMPTY_CACHE, STATIC_LENGTH = (
    "masking_utils.py _ignore_causal_mask_sdpa",
    "modeling_mpt.py forward",
)
"""Where transformers waits: whether a static cache is empty; for a static cache's length."""
OWN_WAITS = {
    (LLAMA, "static"): {EMPTY_CACHE},
    (MIXTRAL, "static"): {EMPTY_CACHE},
    (MPT, "static"): {STATIC_LENGTH},
}
"""Where the host waits for the device while tokens are made, by model and cache; nowhere else."""


def waits_of_a_loop(families: Families, model: str, cache: str) -> set[str]:
    """Return the files and functions that let the host wait while tokens are made."""
    record = families.record(model, cache)
    first = [event["lines"] for event in families.events(record, "wait") if in_the_loop(event)]
    return {re.sub(r".*/|:\d+", "", lines[0]) for lines in first}


def in_the_loop(event: dict[str, Any]) -> bool:
    return any(line.startswith(LOOP) and line.endswith(" run") for line in event["lines"])


@pytest.mark.parametrize(("model", "cache"), CACHES)
def test_the_host_waits_for_no_token_but_where_the_model_does(
    model: str, cache: str, families: Families
) -> None:
    waits = waits_of_a_loop(families, model, cache)

    assert waits == OWN_WAITS.get((model, cache), set())


SPLIT, SLIDING, POSITIONS = (
    "modeling_falcon.py _split_heads",
    "cache_utils.py lazy_initialization",
    "modeling_opt.py forward",
)
"""An index that is a list, twice in every layer; a length on the device in a layer with a window; a length read."""
OTHERS: dict[str, tuple[set[str], set[str] | None]] = {
    "bloom-7b1@tiny": (set(), None),
    "falcon-7b@tiny": ({SPLIT}, {SPLIT}),
    "falcon-40b@tiny": ({SPLIT}, {SPLIT}),
    "gpt-j-6b@tiny": (set(), {EMPTY_CACHE}),
    "gpt2@tiny": (set(), {EMPTY_CACHE}),
    "mistral-7b-v0.1@tiny": ({SLIDING}, set()),
    "opt-125m@tiny": (set(), {POSITIONS, EMPTY_CACHE}),
    "pythia-70m@tiny": (set(), {EMPTY_CACHE}),
    "qwen2.5-7b@tiny": (set(), {EMPTY_CACHE}),
    "qwen3-8b@tiny": (set(), {EMPTY_CACHE}),
}
"""Where other families wait with a dynamic and with a static cache; None if they have none."""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(OTHERS), 3))
def test_the_other_families_wait_where_the_page_says(first: int, bench: Bench) -> None:
    models = [*OTHERS][first : first + 3]

    families = swept(bench, models, op_us=20)

    for model in models:
        for cache, expected in zip(("dynamic", "static"), OTHERS[model], strict=True):
            status = families.record(model, cache).status
            assert status is (Status.UNSUPPORTED if expected is None else Status.OK)
            assert waits_of_a_loop(families, model, cache) == (expected or set())


@pytest.mark.parametrize(("model", "cache"), CACHES)
def test_a_call_waits_for_its_prompts_and_for_its_tokens_alone(
    model: str, cache: str, families: Families
) -> None:
    record = families.record(model, cache)
    calls = len(record.outcome.warmup_ns) + len(record.outcome.samples)

    waits = [
        event["why"]
        for event in families.events(record, "wait")
        if event["lines"][0].startswith("llmbench/") and event["lines"][0].endswith(" generate")
    ]

    assert len(waits) == 2 * calls
    assert sum(why.startswith("host to device") for why in waits) == calls


# -- faults ----------------------------------------------------------------------------------------

FAULTS = {
    1: ("oom@load", Status.OOM, "load"),
    2: ("oom@prepare", Status.OOM, "warmup"),
    3: ("oom@prefill", Status.OOM, "warmup"),
    4: ("oom@decode", Status.OOM, "warmup"),
    5: ("oom@memory", Status.OK, None),
    6: ("sticky@decode", Status.CUDA_ERROR, "warmup"),
    7: ("cublas@prefill", Status.OOM, "warmup"),
    8: ("context@load", Status.OOM, "load"),
    9: ("", Status.OK, None),
}
"""By batch size: the fault of its cell, and how and in which phase that ends it."""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Return a sweep whose cells meet every fault, one each."""
    bench = Bench(tmp_path_factory.mktemp("faulty"))
    faults = " ".join(f"{fault}:{size}" for size, (fault, _, _) in FAULTS.items() if fault)
    axes = {"batch_size": list(FAULTS), "output_len": 3}
    protocol = {"isolation": "cell"}
    return measured(bench, "--run-anyway", axes=axes, protocol=protocol, gpu={"faults": faults})


def test_a_fault_ends_its_own_cell_and_no_other(faulty: Done) -> None:
    assert_complete(faulty)
    assert faulty.code == 3
    ended = {record.cell.batch_size: (record.status, record.phase) for record in faulty.records}
    assert ended == {size: (status, phase) for size, (_, status, phase) in FAULTS.items()}


def test_an_error_while_memory_is_measured_keeps_the_times(faulty: Done) -> None:
    (record,) = (record for record in faulty.records if record.cell.batch_size == 5)

    assert len(record.outcome.samples) == 3
    assert (record.status, record.outcome.memory) == (Status.OK, None)


@pytest.mark.slow
def test_a_model_larger_than_the_device_is_out_of_memory(bench: Bench) -> None:
    done = measured(bench, "--run-anyway", gpu={"memory_bytes": 501 * MIB})

    assert_complete(done)
    (record,) = done.records
    assert (record.status, record.phase) == (Status.OOM, "load")
    assert "CUDA out of memory" in (record.reason or "")


# -- a loop that does not wait ---------------------------------------------------------------------

ENGINE = "import llmbench.backends.transformers as engine; "
HOST_STAMPS = (
    ONLY_IN_THE_FORK_SERVER
    + ENGINE
    + (
        "from llmbench.backends.transformers import clocks; engine.clock_for = lambda _: clocks.CpuStamps()"
    )
)
"""Tokens are stamped when the host has queued them."""
NO_WAIT = f"""
def forgetful(self, prompts, output_len):
    self._clock.start()
    with self._without_gradients():
        self._loop.run(engine.torch.tensor(prompts, device=self._device), output_len)
    return [[7] * output_len for _ in prompts]
{ONLY_IN_THE_FORK_SERVER}{ENGINE}engine.TransformersEngine.generate = forgetful
    engine.TransformersEngine.synchronize = lambda self: None
"""
"""Nothing is read from the device, and nothing waits for it."""


def test_tokens_that_are_stamped_by_the_host_are_invalid(bench: Bench) -> None:
    done = measured(bench, code=HOST_STAMPS, gpu={"op_us": 400})

    assert_complete(done)
    assert done.failed().status is Status.INVALID
    assert "lie after the last token" in (done.failed().reason or "")


@pytest.mark.slow
def test_a_call_that_does_not_wait_is_invalid(bench: Bench) -> None:
    done = measured(bench, code=NO_WAIT, gpu={"op_us": 400})

    assert_complete(done)
    assert done.failed().status is Status.INVALID
    assert "after the end" in (done.failed().reason or "")


# -- forks -----------------------------------------------------------------------------------------

TOUCHED = ONLY_IN_THE_FORK_SERVER + "import torch; torch.cuda.is_available()"
"""A package that asks CUDA something while it is imported."""


@pytest.mark.slow
def test_a_fork_server_that_touched_cuda_starts_new_interpreters(bench: Bench) -> None:
    done = measured(bench, code=TOUCHED)

    assert_complete(done)
    assert done.code in VALID
    assert {record.worker["start"] for record in done.records} == {"exec"}


@pytest.mark.slow
def test_a_fork_of_it_would_fail_in_one_line(bench: Bench) -> None:
    forced = "; from llmbench.run import forkserver; forkserver.forks_may_use_cuda = lambda: True"

    done = measured(bench, code=TOUCHED + forced)

    assert_complete(done)
    assert done.failed().status is Status.LOAD_FAILED
    assert "Cannot re-initialize CUDA in forked subprocess" in (done.failed().reason or "")


# -- several places for one model ------------------------------------------------------------------

PLACES = {
    "balanced": "cuda:0, cuda:1",
    "cpu_offload": "cpu",
    "disk_offload": "cpu",
}


def test_a_model_is_placed_over_two_gpus_or_below_one(bench: Bench) -> None:
    axes = {"backend": {"transformers": {"device_map": list(PLACES)}}}

    done = measured(bench, axes=axes, gpu={"gpus": 2})

    assert_complete(done)
    assert done.code in VALID
    places = {
        record.cell.options["device_map"]: record.outcome.engine["param_devices"]
        for record in done.records
    }
    assert places == PLACES
    for record in done.records:
        below = record.cell.options["device_map"] != "balanced"
        assert bool(record.outcome.engine["offloaded_parameters"]) == below
        assert bool(record.outcome.engine.get("offload_read_bytes_s")) == below
        assert record.outcome.memory is not None
        assert record.outcome.memory.device_used_bytes
        assert record.telemetry["power_w_mean"] == 600  # of both


@pytest.mark.slow
@pytest.mark.parametrize("device_map", ["auto", "balanced_low_0", "sequential"])
def test_every_map_leaves_a_model_on_the_gpus(device_map: str, bench: Bench) -> None:
    axes = {"backend": {"transformers": {"device_map": device_map}}}

    done = measured(bench, axes=axes, gpu={"gpus": 2})

    assert_complete(done)
    (record,) = done.records
    assert record.status is Status.OK
    assert set(record.outcome.engine["param_devices"].split(", ")) <= {"cuda:0", "cuda:1"}


@pytest.mark.slow
def test_the_second_gpu_is_measured_where_it_alone_is_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    others = "driver.NEIGHBOURS[driver.Gpu(0)] = 4711, 10 * driver.GIB\n"

    done = measured(bench, code="from standin_cuda import driver\n" + others, gpu={"gpus": 2})

    assert_complete(done)
    (record,) = done.records
    assert (record.status, record.telemetry["isolation"]) == (Status.OK, "alone")
    assert record.outcome.memory is not None
    assert record.outcome.memory.device_used_bytes == record.outcome.memory.process_used_bytes


@pytest.mark.slow
def test_the_memory_of_a_slice_is_known(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", Gpu(0, 1).uuid)

    done = measured(bench, gpu={"slices": 2})

    (record,) = done.records
    assert record.status is Status.OK
    assert record.outcome.memory is not None
    assert record.outcome.memory.device_used_bytes


# -- a driver or a torch that says nothing ---------------------------------------------------------


@pytest.mark.slow
def test_without_an_answer_of_the_driver_torch_tells_the_memory(bench: Bench) -> None:
    raised = "from standin_cuda.driver import raises; pynvml.nvmlInit = raises(pynvml.NVML_ERROR_UNKNOWN)"

    done = measured(bench, code=f"{ONLY_IN_THE_FORK_SERVER}import pynvml; {raised}")

    assert_complete(done)
    (record,) = done.records
    memory = record.outcome.memory
    assert record.status is Status.OK
    assert memory is not None
    assert memory.process_used_bytes is None
    assert memory.device_used_bytes == memory.peak_reserved_bytes  # the context was there before


@pytest.mark.slow
def test_a_torch_without_a_device_is_said_in_one_line(bench: Bench) -> None:
    blind = "import torch; torch.cuda.is_available = lambda: False"

    done = measured(bench, code=ONLY_IN_THE_FORK_SERVER + blind)

    assert_complete(done)
    assert done.failed().status is Status.LOAD_FAILED
    assert "sees no CUDA device" in (done.failed().reason or "")


# -- the rest of the path --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_librarys_own_loop_is_measured_compiled_and_not(bench: Bench) -> None:
    axes = {
        "model": [LLAMA, T5],
        "backend": {"transformers": {"loop": "generate", "cache": ["dynamic", "static"], "compile": [False, True]}},
    }  # fmt: skip

    done = measured(bench, axes=axes)

    ended = {
        (record.cell.model, record.cell.options.get("cache", "dynamic"), bool(record.cell.options.get("compile"))):
        record.status
        for record in done.records
    }  # fmt: skip
    assert {cell for cell, status in ended.items() if status is Status.OK} == {
        (LLAMA, "dynamic", False), (LLAMA, "static", False), (LLAMA, "static", True), (T5, "dynamic", False),
    }  # fmt: skip
    assert set(ended.values()) == {Status.OK, Status.UNSUPPORTED}


@pytest.mark.slow
def test_the_tests_for_a_gpu_that_ask_for_no_speed_pass(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(BEGIN), "STANDIN_STATE": str(tmp_path), "STANDIN_OP_US": "1"}
    chosen = "tokens_are or weights_are or model_that_fits or compiled_model"
    command = ("-m", "pytest", "-q", "-m", "gpu", "-k", chosen, "test_backend_transformers_gpu.py")

    done = subprocess.run(
        (sys.executable, *command), env=os.environ | environment, cwd=TESTS, capture_output=True, text=True, check=False
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
