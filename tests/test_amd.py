"""AMD's GPUs: what amdsmi tells, and nothing that it does not; from a stand-in with the real names and units."""

from __future__ import annotations

import importlib.metadata
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from llmbench.machine import amd, chips, gpus, info, nvidia
from llmbench.measure.telemetry import DeviceCounters, Gpu, isolation

if TYPE_CHECKING:
    from pathlib import Path

POWER = {"MI300X": {"current_socket_power": 310, "average_socket_power": "N/A", "power_limit": 750}}
"""A card of this series tells only its current power."""


@pytest.fixture
def mi300x(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Two cards, and the stand-in that answers for them, which a test may change."""
    smi = SimpleNamespace(
        AmdSmiClkType=SimpleNamespace(GFX="gfx", MEM="mem"),
        AmdSmiTemperatureType=SimpleNamespace(JUNCTION="junction"),
        AmdSmiTemperatureMetric=SimpleNamespace(CURRENT="now"),
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: ["first", "second"],
        amdsmi_get_gpu_asic_info=lambda _: {"market_name": "AMD Instinct MI300X"},
        amdsmi_get_gpu_driver_info=lambda _: {"driver_version": "6.12.12"},
        amdsmi_get_gpu_device_uuid=lambda gpu: f"uuid of the {gpu}",
        amdsmi_get_gpu_vram_usage=lambda gpu: {
            "vram_total": 196592, "vram_used": {"first": 300, "second": 5000}[gpu],
        },
        amdsmi_get_power_info=lambda _: POWER["MI300X"],
        amdsmi_get_clock_info=lambda _, kind: {"clk": {"gfx": 2100, "mem": 1300}[kind], "max_clk": 2100},
        amdsmi_get_temp_metric=lambda *_: 54,
        amdsmi_get_gpu_process_list=lambda gpu: [
            {"pid": 4711, "memory_usage": {"vram_mem": 2**30}}
        ][: gpu == "second"],
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "amdsmi", smi)
    monkeypatch.setattr(nvidia, "ROOT", tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "kfd").touch()
    built_for(monkeypatch, "2.9.0+rocm6.4")
    for name in amd.VISIBLE:
        monkeypatch.delenv(name, raising=False)
    return smi


def built_for(monkeypatch: pytest.MonkeyPatch, torch: str) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: torch if name == "torch" else version(name)
    )


@pytest.mark.usefixtures("mi300x")
def test_a_card_is_found_and_known_by_its_name() -> None:
    (first, _) = info.machine()["gpus"]

    assert info.device() == "cuda"  # as torch calls it
    assert chips.match(first) == "mi300x"
    assert (first["memory_bytes"], first["power_limit_w"], first["max_sm_mhz"]) == (
        196592 * 2**20,
        750,
        2100,
    )
    assert first["driver"] == "6.12.12"
    assert (first["mig"], first["ecc"], first["cuda_driver"]) == (None, None, None)


@pytest.mark.usefixtures("mi300x")
def test_levels_are_what_the_cards_tell_and_none_where_they_do_not() -> None:
    both = Gpu(0, 1)

    assert both.levels() == {
        "sm_mhz": 2100, "mem_mhz": 1300, "temperature_c": 54, "power_w": 620, "hot": None, "power_capped": None,
    }  # fmt: skip
    assert both.used_bytes() == 5300 * 2**20
    assert (isolation(Gpu(0)), isolation(both)) == ("alone", "shared")


@pytest.mark.usefixtures("mi300x")
def test_energy_and_slowdowns_are_unknown_and_never_zero() -> None:
    counters = DeviceCounters([0])

    spent = counters.since(counters.read())

    assert spent.energy_mj is None
    assert counters.summary() == {
        "power_cap_share": None,
        "hot_share": None,
        "device_counters": "partial",
    }


def test_an_older_version_s_thousandths_of_a_degree_are_no_temperature(mi300x: Any) -> None:
    mi300x.amdsmi_get_temp_metric = lambda *_: 54_000

    assert Gpu(0).levels()["temperature_c"] is None


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HIP_VISIBLE_DEVICES", "1", ["second"]),
        ("ROCR_VISIBLE_DEVICES", "1,0", ["second", "first"]),
        ("CUDA_VISIBLE_DEVICES", "", []),
    ],
)
@pytest.mark.usefixtures("mi300x")
def test_variables_choose_among_the_cards(
    name: str, value: str, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert [gpu.handle for gpu in gpus.handles()] == shown


@pytest.mark.usefixtures("mi300x")
def test_without_amdsmi_the_card_is_used_and_nothing_is_known_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)

    assert (gpus.handles(), info.device()) == ([], "cuda")
    assert gpus.trouble() == "amdsmi is not installed or does not answer"
    assert Gpu(0).levels()["sm_mhz"] is None


@pytest.mark.usefixtures("mi300x")
def test_a_processor_s_own_graphics_are_no_gpu_to_a_torch_for_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built_for(monkeypatch, "2.13.0+cpu")

    assert info.device() == "cpu"
    assert gpus.trouble() is None
