"""Chips: files read strictly, names matched whole, and no share of a value that nobody verified."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmbench import cli
from llmbench.errors import SpecError
from llmbench.machine import chips, info
from llmbench.spec import configs
from test_startup import ENGINES, loaded_by

Output = pytest.CaptureFixture[str]
GIB = 2**30

every_chip = pytest.mark.parametrize("short", chips.known())


def gpu(name: str | None, memory_gib: float | None, **more: Any) -> dict[str, Any]:
    """Return what a driver says of a GPU."""
    return {"name": name, "memory_bytes": memory_gib and int(memory_gib * GIB), **more}


@pytest.mark.parametrize(
    ("name", "memory_gib", "short"),
    [
        ("NVIDIA H200", 140.4, "h200"),
        ("NVIDIA H100 80GB HBM3", 79.6, "h100-sxm"),
        ("NVIDIA H100 PCIe", 79.6, "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", 80, "a100-80gb-sxm"),
        ("NVIDIA A100-SXM4-40GB", 40, "a100-40gb-sxm"),
        ("A100-SXM4-40GB", 39.6, "a100-40gb-sxm"),  # older drivers leave the maker out
        ("NVIDIA A100 80GB PCIe", 80, "a100-80gb-pcie"),
        ("NVIDIA L40S", 45, "l40s"),
        ("Tesla T4", 15, "t4"),
        ("NVIDIA GeForce RTX 4090", 24, "rtx-4090"),
    ],
)
def test_a_chip_is_known_by_the_drivers_name(name: str, memory_gib: float, short: str) -> None:
    assert chips.match(gpu(name, memory_gib)) == short


@pytest.mark.parametrize(
    "found",
    [
        gpu("NVIDIA H200 NVL", 140.4),
        gpu("NVIDIA H20", 96),
        gpu("NVIDIA GeForce RTX 4090 D", 24),
        gpu("NVIDIA H200", 80),  # the name says one thing, the memory another
        gpu("NVIDIA H200", 140.4, mig=1),
        gpu("Radeon", 24),
        gpu("", 24),
        gpu(None, None),
        {},
    ],
)
def test_an_unknown_chip_is_none(found: dict[str, Any]) -> None:
    assert chips.match(found) is None


@every_chip
def test_a_file_is_read_strictly_and_names_its_sources(short: str) -> None:
    found = chips.chip(short)

    assert found.bandwidth_gb_s > 0
    assert all(peak > 0 for peak in found.dense_tflops.values())
    stated = {"dense_tflops", "bandwidth_gb_s"} if "everything" not in found.sources else set()
    assert stated <= set(found.sources)
    for price in found.prices:
        assert (price.usd_per_hour is None) != (price.usd_per_hour_range is None)
        assert price.date is None or re.fullmatch(r"20\d\d-\d\d", price.date)


@every_chip
def test_what_is_general_knowledge_is_marked_as_unverified(short: str) -> None:
    found = chips.chip(short)

    for field, source in found.sources.items():
        guessed = "general knowledge" in source
        fields = ["bandwidth_gb_s", "dense_tflops"] if field == "everything" else [field]
        assert not guessed or set(fields) <= set(found.unverified)


@every_chip
def test_a_file_names_no_place_outside_the_public(short: str) -> None:
    text = (configs.folder("machines") / f"{short}.yaml").read_text()

    assert not re.search(r"https?:|localhost|/work|/home|/root|/tmp| \n", text)


def test_no_two_chips_have_one_name() -> None:
    names = [name for short in chips.known() for name in chips.chip(short).driver_names]

    assert len(names) == len(set(names))


def test_ceilings_are_in_whole_units() -> None:
    h200 = chips.chip("h200")

    assert h200.bandwidth() == 4.8e12
    assert h200.flops("bfloat16") == 989e12
    assert h200.flops("float32") == 494.5e12  # tfloat32 may be used for it
    assert chips.chip("v100-16gb-sxm2").flops("float32") == 15.7e12


@pytest.mark.parametrize(
    ("short", "dtype"),
    [("a10g", "bfloat16"), ("h100-nvl", "float16"), ("t4", "bfloat16"), ("xeon-8480", "bfloat16")],
)
def test_what_is_not_verified_or_not_there_is_no_ceiling(short: str, dtype: str) -> None:
    assert chips.chip(short).flops(dtype) is None


@pytest.mark.parametrize(
    ("short", "expected"),
    [("h200", 143_771 * 2**20), ("h100-pcie", 80 * 2**30), ("xeon-8480", None)],
)
def test_memory_is_what_a_program_finds_or_what_is_sold(short: str, expected: int | None) -> None:
    assert chips.chip(short).memory_bytes() == expected


def test_bandwidth_that_is_not_verified_is_no_ceiling() -> None:
    assert chips.chip("xeon-8480").bandwidth() is None
    assert chips.chip("a10g").bandwidth() == 600e9


def test_a_doubt_about_no_field_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (configs.folder("machines") / "h200.yaml").read_text()
    (tmp_path / "h200.yaml").write_text(text.replace("  - launch_date\n", "  - lunch_date\n"))
    monkeypatch.setattr(configs, "folder", lambda _: tmp_path)

    with pytest.raises(SpecError, match="there is no field 'lunch_date'"):
        chips.chip("h200")


def test_a_chip_that_is_not_there_is_a_mistake(capsys: Output) -> None:
    assert cli.run(["machine", "h2000"]) == 2
    assert "'h2000' is not a known chip. Did you mean 'h200'?" in capsys.readouterr().err


def test_one_chip_is_shown_with_its_prices(capsys: Output) -> None:
    assert cli.run(["machine", "h200"]) == 0

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "bandwidth gb s 4,800" in lines
    assert "prices: date 2026-03" in lines
    assert "prices: provider AWS p5en.48xlarge, an eighth of $63.296" in lines


def told(monkeypatch: pytest.MonkeyPatch, capsys: Output, *gpus: dict[str, Any]) -> Any:
    """Return what the command says in JSON on a machine with these GPUs."""
    monkeypatch.setattr(info, "_gpus", lambda: list(gpus))
    assert cli.run(["machine", "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_machine_says_which_chip_it_has(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    (found,) = told(monkeypatch, capsys, gpu("NVIDIA H200", 140.4))["gpus"]

    assert (found["chip"], found["chip_name"], found["remark"]) == ("h200", "H200 141GB SXM", None)
    assert found["bandwidth_gb_s"] == 4800
    assert found["dense_tflops"]["bfloat16"] == 989


def test_a_chip_in_doubt_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    doubtful, unknown = told(monkeypatch, capsys, gpu("NVIDIA A10G", 22.5), gpu("NVIDIA H20", 96))[
        "gpus"
    ]

    assert (doubtful["chip"], doubtful["dense_tflops"]) == ("a10g", {})
    assert "verified" in doubtful["remark"]
    assert (unknown["chip"], "bandwidth_gb_s" in unknown) == (None, False)
    assert "No known chip" in unknown["remark"]


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    found = told(monkeypatch, capsys)

    assert found["gpus"] == []
    assert found["cpu_count"] >= 1
    assert "No NVIDIA driver" in found["remark"]


def test_the_terminal_shows_every_gpu(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(info, "_gpus", lambda: [gpu("NVIDIA H200", 140.4), gpu("Odd\x1b", 1)])

    cli.run(["machine"])

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "gpus: 1: name NVIDIA H200" in lines
    assert "gpus: 1: chip h200" in lines
    assert r"gpus: 2: name Odd\x1b" in lines


def test_the_command_loads_no_engine() -> None:
    assert loaded_by("machine").isdisjoint(ENGINES)


SAME_RATE = {"gaudi3": "float8", "tpu-v6e": "float8", "tpu-v4": "int8", "mi250x": "int8"}
"""Chips on which a smaller number is no faster, and the number."""
CONSUMER = {"rtx-3090", "rtx-4090", "rtx-5090"}
"""GeForce sums 16-bit products in float32 at half rate, so int8 is four times as fast."""
DOUBLE = {"float8": 2.0, "int8": 2.0, "float4": 4.0, "tfloat32": 0.5}
"""A dense peak over that of 16-bit numbers; a sparse figure among dense ones would be twice as much, or half."""
FLOPS_A_BYTE = (70, 600)
"""Of 16-bit matrix products; from the RTX 3090 to the TPU v6e."""


@pytest.mark.parametrize("name", [name for name in chips.known() if "epyc" not in name])
def test_the_peaks_of_a_chip_stand_in_the_ratios_of_dense_ones(name: str) -> None:
    chip = chips.chip(name)
    peaks = chip.dense_tflops
    wide = peaks.get("bfloat16", peaks.get("float16"))
    if wide is None:
        assert set(peaks) <= {"float32"}
        return

    for dtype, ratio in DOUBLE.items():
        expected = 1.0 if SAME_RATE.get(name) == dtype else ratio
        if name in CONSUMER and dtype == "int8":
            expected = 4.0
        if name == "v100-16gb-sxm2" and dtype == "int8":
            expected = 0.5  # no tensor cores for it
        if name == "gaudi3" and dtype == "tfloat32":
            expected = peaks["float16"] / wide  # its 16-bit floats but bfloat16 are as slow
        if dtype in peaks:
            assert peaks[dtype] / wide == pytest.approx(expected, rel=0.03), dtype
    if bandwidth := chip.bandwidth():
        assert FLOPS_A_BYTE[0] <= wide * 1e12 / bandwidth <= FLOPS_A_BYTE[1]


def test_the_fastest_peak_is_of_any_type_of_number() -> None:
    h200 = chips.chip("h200")

    assert h200.fastest() == max(h200.dense_tflops.values()) * 1e12
    assert h200.fastest() > h200.flops("bfloat16")  # type: ignore[operator]
    assert msgspec.structs.replace(h200, unverified=["dense_tflops"]).fastest() is None
