"""scripts/gpu.py: steps in order within a budget, resumable, and all of it in one archive."""

import importlib.util
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from llmbench import machine, spec
from llmbench.plan import plan

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script, with a place of its own and no time to wait."""
    source = importlib.util.spec_from_file_location("gpu", ROOT / "scripts" / "gpu.py")
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    place = tmp_path / ".gpu"
    for name, value in {
        "PLACE": place,
        "DONE": place / "done",
        "TO_STOP_S": 1,
        "SHORTEST_S": 0,
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


def given(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str, **steps: str) -> int:
    """Run the script over steps that are modules of the standard library."""
    written = tuple(gpu.Step(name, tuple(line.split()), "a test") for name, line in steps.items())
    monkeypatch.setattr(gpu, "STEPS", written)
    monkeypatch.setattr(sys, "argv", ["gpu", *words])
    return int(gpu.main())


def test_each_step_runs_once(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"first": "platform", "second": "calendar 2026 11"}

    given(gpu, monkeypatch, **steps)
    given(gpu, monkeypatch, **steps)

    assert gpu.DONE.read_text().split() == ["first", "second"]
    assert (gpu.PLACE / "second.log").read_text().count("November 2026") == 1


def test_a_step_that_ends_badly_is_told_and_does_not_hold_up_the_next(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = given(gpu, monkeypatch, bad="platform_of_nothing", good="platform")

    assert code == 1
    assert "good" in gpu.DONE.read_text().split()


def test_a_step_that_outlasts_its_time_is_cut_off_and_not_done(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = given(gpu, monkeypatch, "--budget", "2", endless="http.server 0", late="platform")

    assert code == 130
    assert not gpu.DONE.exists()
    assert not (gpu.PLACE / "late.log").exists()


def test_everything_comes_home_in_one_file(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(gpu, monkeypatch, "-o", str(tmp_path / "home.tar.gz"), only="platform")

    with tarfile.open(tmp_path / "home.tar.gz") as packed:
        assert {".gpu/done", ".gpu/only.log"} <= set(packed.getnames())


def test_an_unknown_step_is_named(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="no step 'probes'; there are probe"):
        given(gpu, monkeypatch, "--only", "probes", probe="platform")


def test_every_sweep_that_it_runs_exists(gpu: ModuleType) -> None:
    files = [step.words[2] for step in gpu.STEPS if step.words[:2] == ("llmbench", "sweep")]

    assert files
    assert all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_sweep_of_ours_asks_for_nothing_impossible(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "device", lambda: "cuda")

    planned = plan(spec.read_sweep(file))

    assert not planned.refused
