"""Every other file that llmbench reads, garbled: sweeps, configs, what is kept, results of other tools."""

from __future__ import annotations

import json
import math
import re
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llmbench import importers
from llmbench.claims import Claim
from llmbench.claims.published import PublishedSource
from llmbench.cost import prices
from llmbench.errors import LlmbenchError
from llmbench.machine import calibration, chips, info, peaks
from llmbench.machine.calibration import Calibration, MeasuredSpread, Varying
from llmbench.machine.peaks import Probe, Rate
from llmbench.models import resolve
from llmbench.models.shape import shape_of
from llmbench.run import plan
from llmbench.spec import configs, yaml
from llmbench.spec import sweep as spec_sweep
from mutations import as_json, changed, garbled
from sweeps import LLMBENCH

if TYPE_CHECKING:
    from collections.abc import Callable

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
few = settings(fuzz, max_examples=max(5, settings().max_examples // 8))
"""For what starts a process each time."""

SWEEPS = sorted(configs.folder("sweeps").glob("*.yaml"))
KINDS: tuple[tuple[str, Any], ...] = (
    ("sweeps", spec_sweep.Sweep),
    ("models", resolve.Entry),
    ("machines", chips.Chip),
    ("claims", Claim),
    ("prices", prices.ApiPrices),
    ("baselines", PublishedSource),
)
"""The folders of configs, and what their files are."""


def refusal(call: Callable[[], object], file: Path | str) -> str | None:
    """Return the one line by which a call refuses a file; None if it takes it."""
    try:
        call()
    except LlmbenchError as refused:
        text = str(refused)
        assert "\n" not in text
        assert str(file) in text or isinstance(file, str)
        return text
    return None


# -- YAML --------------------------------------------------------------------------------------------


CHIP = chips.chip("h200")


@fuzz
@given(data=st.data())
def test_a_garbled_sweep_is_planned_or_refused_in_one_line(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "sweep.yaml"
    text = data.draw(garbled(data.draw(st.sampled_from(SWEEPS)).read_text()))
    path.write_bytes(text.encode("utf-8", "surrogatepass"))

    if refusal(lambda: spec_sweep.read_sweep(path), path) is None:
        refusal(lambda: plan.plan(spec_sweep.read_sweep(path), chip=CHIP), "whatever it names")


@fuzz
@given(data=st.data())
def test_a_garbled_file_of_configs_is_read_or_refused_with_its_name(
    tmp_path: Path, data: st.DataObject
) -> None:
    folder, kind = data.draw(st.sampled_from(KINDS))
    path = tmp_path / "file.yaml"
    text = data.draw(st.sampled_from(sorted(configs.folder(folder).glob("*.yaml")))).read_text()
    path.write_bytes(data.draw(garbled(text)).encode("utf-8", "surrogatepass"))

    refusal(lambda: yaml.read(path, kind), path)


NUMBERS = ("-1", "0", "-0.5", ".nan", ".inf", "1e400", "true", "'1'", "~")
"""What no price, peak or size can be."""


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("folder", "name", "kind", "keys"),
    [
        ("machines", "h200", chips.Chip, ("bandwidth_gb_s", "bfloat16", "usd_per_hour")),
        ("prices", "api", prices.ApiPrices, ("input_usd", "output_usd")),
    ],
)
def test_a_number_that_cannot_be_is_refused(
    folder: str, name: str, kind: Any, keys: tuple[str, ...], number: str, tmp_path: Path
) -> None:
    text = (configs.folder(folder) / f"{name}.yaml").read_text()
    for key in keys:
        path = tmp_path / "file.yaml"
        path.write_text(re.sub(rf"\b{key}: [\d.]+", f"{key}: {number}", text, count=1))
        assert path.read_text() != text, key

        may_be_absent = number == "~" and key == "usd_per_hour"
        is_free = number == "0" and key == "input_usd"
        refused = refusal(partial(yaml.read, path, kind), path) is not None
        assert refused != (may_be_absent or is_free)


# -- models ------------------------------------------------------------------------------------------


@fuzz
@given(data=st.data())
def test_a_garbled_configuration_of_a_model_has_a_plan_or_one_line(
    tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(
        st.sampled_from(("llama-7b", "falcon-7b", "flan-t5-base", "mixtral-8x7b-v0.1", "qwen3-8b"))
    )
    entry = resolve.entry(name)
    told, _ = data.draw(changed({**entry.config, "model_type": entry.model_type}))
    (tmp_path / "config.json").write_bytes(as_json(told))
    sweep = spec_sweep.Sweep(
        name="x", why="y", axes=spec_sweep.Axes(model=str(tmp_path), backend="fake", device="cpu")
    )

    if refusal(lambda: plan.plan(sweep), "the model") is None:
        shape_of(told["model_type"], told)


# -- what is kept between runs -----------------------------------------------------------------------

CPU = Probe(
    device="cpu",
    name="a CPU",
    at="2026-01-01T00:00:00Z",
    torch="2.13.0",
    copy_bytes_s=2e10,
    read_bytes_s={"float32": 1.5e10},
    flops_s={"float32": 1e11},
    rates=[Rate(dtype="float32", rows=1, inner=768, columns=3072, flops_s=5e9)],
    step_s=3e-6,
)
SPREAD = MeasuredSpread(
    batch_size=4, input_len=32, output_len=16, within=0.05, between=0.01, drawn=0.012, dof=4.0
)


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    return info.machine()


def calibrated(here: dict[str, Any]) -> Calibration:
    return Calibration(
        machine=info.identity_digest(here),
        name="here",
        at="2026-01-01T00:00:00Z",
        run="run",
        sessions=5,
        cells=12,
        metrics={"e2e_s": Varying(shapes=[SPREAD], other=0.02, other_dof=8.0)},
    )


@fuzz
@given(data=st.data())
def test_a_garbled_probe_is_used_as_it_was_kept_or_not_at_all(
    here: dict[str, Any], state: Path, data: st.DataObject
) -> None:
    path = peaks.keep(here, [CPU])
    path.write_bytes(as_json(data.draw(changed(json.loads(path.read_bytes())))[0]))

    probes, notice = peaks.kept_probes(here)

    assert probes == ([] if notice else [CPU])
    assert notice is None or "\n" not in notice
    assert state in path.parents
    path.unlink()


@fuzz
@given(data=st.data())
def test_a_garbled_calibration_is_used_as_it_was_kept_or_not_at_all(
    here: dict[str, Any], data: st.DataObject
) -> None:
    before = calibrated(here)
    path = calibration.SHELF.keep(before)
    path.write_bytes(as_json(data.draw(changed(json.loads(path.read_bytes())))[0]))

    found, notice = calibration.kept_calibration(here)

    assert found == (None if notice else before)
    assert notice is None or "\n" not in notice


# -- other tools' results ----------------------------------------------------------------------------

FILES = sorted((Path(__file__).parent / "importers").glob("*.json*"))


@few
@given(data=st.data())
def test_the_command_refuses_a_changed_file_in_one_line_or_reads_it(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Hold the command to what test_importers holds the reading function to, on a sample."""
    original = data.draw(st.sampled_from(FILES))
    text = original.read_text()
    values = (
        [json.loads(line) for line in text.splitlines()]
        if original.suffix == ".jsonl"
        else [json.loads(text)]
    )
    path = tmp_path / original.name
    path.write_bytes(b"\n".join(map(as_json, data.draw(changed(values))[0])))
    run = tmp_path / f"run{data.draw(st.integers(0, 10**9))}"
    assume(not run.exists())

    done = subprocess.run(
        (*LLMBENCH, "import", path, "-o", run), capture_output=True, text=True, check=False
    )

    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (done.returncode != 0)
    assert (done.returncode == 0) == run.exists()


UNITS = {
    "vllm_serve.json": ("duration", "total_input_tokens", "output_throughput"),
    "vllm_serve_detailed.json": ("median_ttft_ms", "median_tpot_ms", "duration", "ttfts"),
    "vllm_throughput.json": ("elapsed_time", "total_num_tokens", "tokens_per_second"),
    "vllm_latency.json": ("avg_latency", "latencies"),
    "aiperf.json": ("output_token_throughput", "total_osl"),
    "optimum_benchmark.json": (),
}
"""Figures that the rest of a file tells too."""


@pytest.mark.parametrize("factor", [1e3, 1e-3, 1e6, 60.0])
@pytest.mark.parametrize(("name", "key"), [(n, k) for n, keys in UNITS.items() for k in keys])
def test_another_unit_in_one_place_is_seen(
    name: str, key: str, factor: float, tmp_path: Path
) -> None:
    held = json.loads((Path(__file__).parent / "importers" / name).read_text())
    held[key] = in_another_unit(held[key], factor)
    path = tmp_path / name
    path.write_text(json.dumps(held))

    with pytest.raises(LlmbenchError, match=r"the file's other figures|is not|lies outside"):
        importers.read(path, {})


def in_another_unit(value: Any, factor: float) -> Any:
    if isinstance(value, list):
        return [in_another_unit(one, factor) for one in value]
    if isinstance(value, dict):
        return {key: in_another_unit(one, factor) for key, one in value.items()}
    return value * factor if isinstance(value, int | float) else value


def test_a_key_that_is_missing_is_absent_and_never_nought(tmp_path: Path) -> None:
    for original in FILES:
        text = original.read_text()
        values = (
            [json.loads(line) for line in text.splitlines()]
            if original.suffix == ".jsonl"
            else [json.loads(text)]
        )
        for key in {key for value in values for key in value}:
            path = tmp_path / original.name
            path.write_text(
                "\n".join(
                    json.dumps({k: v for k, v in value.items() if k != key}) for value in values
                )
            )

            try:
                _, _, readings = importers.read(path, {})
            except LlmbenchError:
                continue

            for reading in readings:
                told = [one.value for one in reading.given.values()]
                told += [float(sample.e2e_ns or 0) for sample in reading.samples]
                told += (
                    [size for size in msgspec.structs.astuple(reading.memory) if size is not None]
                    if reading.memory
                    else []
                )
                assert all(math.isfinite(value) and value > 0 for value in told), (
                    original.name,
                    key,
                )
