"""scripts/gpu.py: steps in order within a budget, resumable, and all of it in one archive."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from llmbench.machine import info
from llmbench.results import store
from llmbench.results.record import Record, Status
from llmbench.run.plan import plan
from llmbench.spec import sweep
from standin_cuda import BEGIN
from sweeps import PATIENCE_S

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
        "gpus": lambda: 1,
        "unusable": lambda: None,
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


def test_without_a_gpu_nothing_is_run_and_nothing_is_done(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: 0)

    code = given(gpu, monkeypatch, first="platform")

    assert code == 2
    assert "found no NVIDIA GPU" in capsys.readouterr().err
    assert not gpu.PLACE.exists()


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


@pytest.mark.parametrize("code", [2, 4, 130])
def test_a_step_that_was_refused_runs_again(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (gpu.PLACE.parent / "ends.py").write_text(f"raise SystemExit({code})")
    monkeypatch.setenv("PYTHONPATH", str(gpu.PLACE.parent))

    assert given(gpu, monkeypatch, refused="ends", good="platform") == code

    assert gpu.DONE.read_text().split() == ["good"]


def test_runs_that_another_machine_began_go_on_when_told(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gpu.PLACE.parent / "says.py").write_text("import sys; print(sys.argv[1:])")
    monkeypatch.setenv("PYTHONPATH", str(gpu.PLACE.parent))

    given(gpu, monkeypatch, "--new-environment", runs="says sweep x.yaml", other="says machine")

    assert "['sweep', 'x.yaml', '--new-environment']" in (gpu.PLACE / "runs.log").read_text()
    assert "['machine']" in (gpu.PLACE / "other.log").read_text()


def test_the_tests_for_a_gpu_need_no_hypothesis(gpu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "hypothesis.py").write_text("raise ImportError")
    tests = next(step for step in gpu.STEPS if step.name == "tests")
    plain = ("--collect-only", "-p", "no:hypothesispytest", "-p", "no:cacheprovider")

    done = subprocess.run(
        (sys.executable, "-m", *tests.words, *plain),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_memory_adds_up" in done.stdout


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
    assert all(Path(file.format(sweeps=gpu.SWEEPS)).exists() for file in files)


def test_a_slow_step_does_not_take_the_time_of_the_others(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gpu.PLACE.parent / "sleeps.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(gpu.PLACE.parent))
    slow = gpu.Step("slow", ("sleeps",), "a test", limit_s=0.5)
    monkeypatch.setattr(gpu, "STEPS", (slow, gpu.Step("next", ("platform",), "a test")))
    monkeypatch.setattr(sys, "argv", ["gpu"])

    assert gpu.main() == 130

    assert gpu.DONE.read_text().split() == ["next"]  # the slow one goes on with the next call


def test_a_python_that_lacks_a_package_runs_nothing_and_nothing_is_done(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import a_package_that_is_not_here")
    code = called(tmp_path, "gpu.STEPS = (gpu.Step('one', ('platform',), 'a test'),)", checked=True)

    done = subprocess.run(
        (sys.executable, "-c", code), env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "No module named 'a_package_that_is_not_here'; nothing was run." in done.stderr
    assert not (tmp_path / ".gpu").exists()


def called(folder: Path, steps: str, *words: str, checked: bool = False) -> str:
    """Return a program that calls the script with a place in this folder and other steps."""
    return f"""
import importlib.util, sys
from pathlib import Path
source = importlib.util.spec_from_file_location("gpu", {str(ROOT / "scripts" / "gpu.py")!r})
gpu = importlib.util.module_from_spec(source)
source.loader.exec_module(gpu)
gpu.PLACE = Path({str(folder)!r}) / ".gpu"
gpu.DONE, gpu.SHORTEST_S, gpu.gpus = gpu.PLACE / "done", 0, lambda: 1
gpu.SWEEPS, gpu.unusable = Path({str(folder)!r}), {"gpu.unusable" if checked else "lambda: None"}
{steps}
sys.argv = ["gpu", *{words!r}, "-o", {str(folder / "home.tar.gz")!r}]
sys.exit(gpu.main())
"""


SIZES = (1, 2)
ON_THE_FAKE_ENGINE = {
    "why": "Show what survives.",
    "axes": {
        "model": "llama-7b@tiny", "backend": {"fake": {"ttft_ms": 20.0, "tpot_ms": 100.0}}, "device": "cpu",
        "batch_size": list(SIZES), "input_len": 8, "output_len": 8,
    },
    "protocol": {
        "sessions": 2, "max_sessions": 2, "iterations": 3, "min_time_s": 0.001, "warmup": 1, "warmup_budget_s": 0,
    },
}  # fmt: skip


def sessions(folder: Path, name: str) -> Counter[tuple[str, int, str]]:
    """Return how often each session of a step's run was measured, and how it ended."""
    run = folder / ".gpu" / "runs" / name
    if not (run / store.RECORDS).exists():
        return Counter()
    records = [line for line in store.read(run) if isinstance(line, Record)]
    measured = [one for one in records if one.status is not Status.INTERRUPTED]
    return Counter((one.cell.id, one.session, one.status.value) for one in measured)


@pytest.mark.slow
def test_a_list_that_was_killed_or_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"name": name, **ON_THE_FAKE_ENGINE}))
    steps = "gpu.STEPS = (gpu.sweep('first', 'a test'), gpu.sweep('second', 'a test'){})"
    command = (sys.executable, "-c", called(tmp_path, steps.format("._replace(limit_s=6.0)")))
    whole = [1] * 2 * len(SIZES)

    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ends = time.monotonic() + PATIENCE_S
    while sessions(tmp_path, "first").total() < 1:
        assert killed.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.02)
    killed.kill()  # its sweep is not killed with it, and stops by itself
    killed.wait()
    cut = subprocess.run(command, capture_output=True, text=True, check=False)
    after_the_limit = sessions(tmp_path, "second")
    again = (sys.executable, "-c", called(tmp_path, steps.format("")))
    last = subprocess.run(again, capture_output=True, text=True, check=False)

    assert cut.returncode == 130, cut.stdout
    assert 0 < after_the_limit.total() < len(whole)
    assert "gpu: first:" not in last.stdout
    assert (tmp_path / ".gpu" / "done").read_text().split() == ["first", "second"]
    for step in ("first", "second"):
        assert list(sessions(tmp_path, step).values()) == whole
        assert {status for *_, status in sessions(tmp_path, step)} == {"ok"}
    with tarfile.open(tmp_path / "home.tar.gz") as packed:
        assert {".gpu/done", ".gpu/runs/first/records.jsonl"} <= set(packed.getnames())


@pytest.mark.slow
@pytest.mark.usefixtures("_cuda")
@pytest.mark.timeout(1800)
def test_the_whole_list_is_rehearsed_and_survives_being_killed(tmp_path: Path) -> None:
    sweeps = "gpu.SWEEPS = gpu.ROOT / 'configs' / 'sweeps'"
    whole = called(tmp_path, sweeps, "--rehearse", "--budget", "1500", checked=True)
    environment = {
        **os.environ, "PYTHONPATH": str(BEGIN), "STANDIN_STATE": str(tmp_path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = (sys.executable, "-c", whole)

    killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 900
    while sessions(tmp_path, "gpu-families").total() < 2:
        assert killed.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    before = sessions(tmp_path, "gpu-families")
    went_on = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = (tmp_path / ".gpu" / "done").read_text().split()
    steps = [line.split()[0] for line in listed()]
    assert [step for step in steps if step not in done] == NEEDS_VLLM, went_on.stdout[-4000:]
    assert len(done) == len(set(done))
    assert sessions(tmp_path, "gpu-families") >= before
    with tarfile.open(tmp_path / "home.tar.gz") as packed:
        names = set(packed.getnames())
    for step in (step for step in done if step not in {"tests", "probe"}):
        measured = sessions(tmp_path, step)
        assert measured, step
        assert set(measured.values()) == {1}, step
        assert {status for *_, status in measured} <= {"ok", "unsupported"}, step
        assert f".gpu/runs/{step}/records.jsonl" in names


NEEDS_VLLM = ["gpu-vllm", "gpu-vllm-mpt"]
"""Steps that are refused where vLLM is not installed, and run with the next call."""


def listed() -> list[str]:
    """Return the lines of the list of steps."""
    script = str(ROOT / "scripts" / "gpu.py")
    done = subprocess.run(
        (sys.executable, script, "--list"), capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_a_rehearsal_has_every_sweep_small(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.PLACE.mkdir()
    monkeypatch.setattr(info, "device", lambda: "cuda")

    folder = gpu.rehearsal()

    steps = {step.name for step in gpu.STEPS if step.words[1] == "sweep" and step.name != "probe"}
    assert {path.stem for path in folder.iterdir()} >= steps
    for path in folder.iterdir():
        cells = plan(sweep.read_sweep(path)).cells
        assert all(cell.model.endswith("@tiny") for cell in cells), path.stem
        assert max(cell.batch_size * cell.input_len for cell in cells) == 16


def adapter(folder: Path) -> None:
    """Write the settings of an adapter, and something for its weights."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": ["q_proj"]}))
    (folder / "adapter_model.safetensors").write_bytes(b"x")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=pytest.mark.slow if file.stem == "all-tiny" else (), id=file.stem)
        for file in SWEEPS
    ],
)
def test_a_sweep_of_ours_asks_for_nothing_impossible(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info, "device", lambda: "cuda")
    monkeypatch.chdir(tmp_path)
    for name in ("LICENSE", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("smollm2-adapter", "smollm2-adapter-2"):
        adapter(tmp_path / "models" / name)
    draft = tmp_path / "models" / "smollm2-draft"
    draft.mkdir()
    (draft / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 49_152}))

    planned = plan(sweep.read_sweep(file))

    assert not planned.refused
