"""What cannot be: a cell is held against its chip, and only against what is known of it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobs import job
from llmbench.machine import chips
from llmbench.machine.peaks import Probe
from llmbench.measure import bounds, checks
from llmbench.measure.checks import MEASURED_SLACK, Ceilings
from llmbench.models import formulas, resolve
from llmbench.models.by_row import counts_of
from llmbench.results.record import Outcome, Record, Sample, Status
from llmbench.run import outcome as run_outcome
from llmbench.spec import configs
from llmbench.spec.sweep import Cell

CHIP = """
name: Made-Up 1
vendor: Nobody
driver_names: [NVIDIA Made-Up 1]
memory_gb: 64
memory_type: HBM
bandwidth_gb_s: 1000
dense_tflops: {bfloat16: 100, float32: 10}
power_w: null
interconnect: none
launch_date: null
sources: {dense_tflops: this test, bandwidth_gb_s: this test}
"""
MEMORY = 64 * 2**30
GPU = {"name": "NVIDIA Made-Up 1", "memory_bytes": MEMORY}
ENGINE = {"device_name": "NVIDIA Made-Up 1", "param_devices": "cuda:0", "param_dtypes": "bfloat16"}


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make one chip known besides the models; return its file."""
    folder = configs.folder
    monkeypatch.setattr(
        configs, "folder", lambda kind: tmp_path if kind == "machines" else folder(kind)
    )
    (tmp_path / "made-up.yaml").write_text(CHIP)
    return tmp_path / "made-up.yaml"


def on_gpu(name: str = "llama-7b", **changes: Any) -> Cell:
    (cell,) = job(name, dtype="bfloat16", device="cuda", batch_size=4, input_len=512).cells
    return msgspec.structs.replace(cell, output_len=3, **changes)


def measured(cell: Cell, first_ms: float, step_ms: float) -> Record:
    """Return the record of one iteration with these times on the made-up chip."""
    times = [int((first_ms + step_ms * number) * 1e6) for number in range(cell.output_len)]
    engine = {**bounds.least_work(cell, resolve.resolve(cell.model), {}), **ENGINE}
    outcome = Outcome(
        cell=cell.id,
        engine=engine,
        samples=[Sample(e2e_ns=times[-1], wall_ns=times[-1], token_ns=[times])],
        returned={str(cell.output_len): cell.batch_size},
    )
    return run_outcome.record_of(
        cell, 1, 1, outcome, telemetry={}, worker={}, environment="",
        ceilings=bounds.ceilings(cell, engine, chips.devices([GPU])),
    )  # fmt: skip


@pytest.mark.usefixtures("made_up")
def test_a_step_faster_than_the_memory_is_invalid() -> None:
    # 13.2 GB of weights, the embedding apart, take 13.2 ms at 1,000 GB/s; the slack is 5 %
    assert measured(on_gpu(), first_ms=400, step_ms=12.7).status is Status.OK

    record = measured(on_gpu(), first_ms=400, step_ms=12.5)

    assert record.status is Status.INVALID
    assert "over the bandwidth" in str(record.reason)


@pytest.mark.usefixtures("made_up")
def test_a_prefill_faster_than_the_peak_is_invalid() -> None:
    # 2 x 6.476 G weights x 4 x 512 tokens = 26.5 TFLOP take 265 ms at 100 TFLOP/s
    assert measured(on_gpu(), first_ms=255, step_ms=20).status is Status.OK

    record = measured(on_gpu(), first_ms=250, step_ms=20)

    assert record.status is Status.INVALID
    assert "over the peak" in str(record.reason)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("cell", "engine", "gpus", "expected"),
    [
        (on_gpu(), ENGINE, [GPU], Ceilings(1e12, 1e14, MEMORY)),
        (on_gpu(dtype="float32"), ENGINE, [GPU], Ceilings(1e12, 1e13, MEMORY)),
        (on_gpu(dtype="float16"), ENGINE, [GPU], Ceilings(1e12, None, MEMORY)),
        (on_gpu(device="cpu"), ENGINE, [GPU], Ceilings()),
        (on_gpu(), {}, [GPU], Ceilings(1e12, 1e14, MEMORY)),
        (on_gpu(), ENGINE, [], Ceilings()),
        (on_gpu(), ENGINE, [{"name": "Odd"}], Ceilings()),
        (on_gpu(), ENGINE, [{"name": "Odd"}, GPU], Ceilings(1e12, 1e14, MEMORY)),
        (on_gpu(), {}, [{"name": "Odd"}, GPU], Ceilings()),  # nobody says which of the two it was
        (
            on_gpu(),
            {**ENGINE, "param_devices": "cuda:0, cuda:1"},
            [GPU, GPU],
            Ceilings(2e12, 2e14, 2 * MEMORY),
        ),
    ],
)
def test_ceilings_are_those_of_the_chip_that_ran(
    cell: Cell, engine: dict[str, Any], gpus: list[dict[str, Any]], expected: Ceilings
) -> None:
    assert bounds.ceilings(cell, engine, chips.devices(gpus)) == expected


@pytest.mark.usefixtures("made_up")
def test_the_memory_is_the_driver_s_of_every_gpu_that_holds_parameters() -> None:
    gpu = {**GPU, "memory_bytes": 40 * 2**30}
    two = {**ENGINE, "param_devices": "cuda:0, cuda:1"}

    assert bounds.ceilings(on_gpu(), ENGINE, chips.devices([gpu])).memory == 40 * 2**30
    assert bounds.ceilings(on_gpu(), two, chips.devices([gpu, gpu])).memory == 80 * 2**30
    other = {"name": GPU["name"], "memory_bytes": 41 * 2**30}
    assert bounds.ceilings(on_gpu(), ENGINE, chips.devices([gpu, other])).memory is None


PROBE = Probe(
    device="cpu", name="made up", at="2026-11-29", torch="2.13.0", threads=2,
    read_bytes_s={"bfloat16": 2e10}, flops_s={"bfloat16": 1e11},
)  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "probes", "expected"),
    [
        ({"threads": 2}, [PROBE], Ceilings(2e10, 1e11, slack=MEASURED_SLACK)),
        ({"threads": 1}, [PROBE], Ceilings(2e10, 1e11, slack=MEASURED_SLACK)),
        ({"threads": 4}, [PROBE], Ceilings()),  # more threads than were probed may be faster
        ({}, [PROBE], Ceilings()),
        ({"threads": 2}, [], Ceilings()),
        (
            {"threads": 2},
            [msgspec.structs.replace(PROBE, others_share=0.3)],
            Ceilings(),
        ),  # was slowed down
    ],
)
def test_a_cpu_is_held_against_the_probe_of_its_machine(
    engine: dict[str, Any], probes: list[Probe], expected: Ceilings
) -> None:
    assert bounds.ceilings(on_gpu(device="cpu"), engine, [], probes) == expected


def test_a_value_that_nobody_verified_is_no_ceiling(made_up: Path) -> None:
    made_up.write_text(f"{CHIP}unverified: [bandwidth_gb_s, dense_tflops]\n")

    assert bounds.ceilings(on_gpu(), ENGINE, chips.devices([GPU])) == Ceilings(memory=MEMORY)


def test_the_least_work_is_that_of_the_formulas() -> None:
    found = resolve.resolve("mixtral-8x7b-v0.1")
    shape = counts_of(found.model_type, found.config)
    assert shape is not None

    work = bounds.least_work(on_gpu(), found, {})

    assert work == {
        "bytes_per_step": formulas.step_weight_bytes(shape, "bfloat16"),
        "flops_per_prompt_token": formulas.prompt_token_flops(shape),
    }


def test_weights_that_fit_a_chips_caches_bound_no_step() -> None:
    assert "bytes_per_step" not in bounds.least_work(on_gpu(), resolve.resolve("pythia-70m"), {})


@pytest.mark.parametrize("name", ["llama-7b", "mixtral-8x7b-v0.1"])
def test_an_engine_that_quantised_its_weights_reads_as_much_less(name: str) -> None:
    found = resolve.resolve(name)
    shape = counts_of(found.model_type, found.config)
    assert shape is not None
    table = shape.vocabulary * shape.hidden * 2  # in bfloat16, and not quantised
    quarter = table + (formulas.weight_bytes(shape, "bfloat16") - table) // 4

    work = bounds.least_work(on_gpu(), found, {"weights_bytes": quarter})

    read = formulas.step_weight_bytes(shape, "bfloat16")
    assert work["bytes_per_step"] == pytest.approx(read / 4, rel=1e-6)


@pytest.mark.usefixtures("made_up")
def test_a_quantised_cell_is_held_against_its_own_dtypes(made_up: Path) -> None:
    made_up.write_text(CHIP.replace("bfloat16: 100", "bfloat16: 100, float8: 200"))
    cell = on_gpu(options={"quantization": "fp8"})
    engine = {**ENGINE, "param_dtypes": "bfloat16, float8_e4m3fn"}
    outcome = Outcome(cell=cell.id, engine=engine)

    assert bounds.ceilings(cell, engine, chips.devices([GPU])).flops == 2e14
    read = {**engine, "quantization": "fp8"}
    assert bounds.ceilings(on_gpu(), read, chips.devices([GPU])).flops == 2e14
    _, problems, _ = checks.check_outcome(cell, outcome, Ceilings())
    assert "dtype" not in {problem.code for problem in problems}
    _, problems, _ = checks.check_outcome(on_gpu(), outcome, Ceilings())
    assert "dtype" in {problem.code for problem in problems}


def test_a_model_without_a_shape_has_no_least_work() -> None:
    unknown = msgspec.structs.replace(resolve.resolve("llama-7b"), model_type="mamba")

    assert bounds.least_work(on_gpu(), unknown, {}) == {}


def test_the_real_chips_are_found_once_a_sweep() -> None:
    (device,) = chips.devices([{"name": "NVIDIA H200", "memory_bytes": 143_771 * 2**20}])

    assert device.chip == chips.chip("h200")
