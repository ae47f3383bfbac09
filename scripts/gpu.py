"""Measures on a GPU within a time budget, the most important steps first, and packs the results.

    python3 scripts/gpu.py --budget 540 [--only NAME,...] [--new-environment] [--rehearse] [--list] [-o gpu.tar.gz]

All output is in .gpu/: runs, logs, the probe, and the list of finished steps. If .gpu/ is kept, the next call
continues an interrupted step, because a sweep resumes; on another machine, which has another card, with
--new-environment only. It needs no .venv: any Python that imports llmbench and the engines will do, so a bare
machine needs no network. A call that is killed stops its step, which the next call goes on with.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".gpu"
DONE = PLACE / "done"
SWEEPS = ROOT / "configs" / "sweeps"

TO_STOP_S = 20
"""The time that a sweep needs after Ctrl-C to end its worker, wait for the device's memory and write its table."""
TO_PACK_S = 15
SHORTEST_S = 30
"""With less time left no step is started, because loading a model would take all of it."""

PR_SET_PDEATHSIG = 1

MARK = "pytest.mark.gpu"
SLOWER = 3
"""A rehearsal's device is this many times slower at the products of the probe and of the tests."""
WITHOUT_SPEED = "tokens_are or weights_are or model_that_fits"
"""The GPU tests that hold on a device that is no GPU."""
CUT_OFF = 128 + signal.SIGINT
NOT_RUN = (2, 4, CUT_OFF)
"""Exit codes of steps that must run again: refused or not begun, disk full, interrupted."""


class Step(NamedTuple):
    """A step: its name, and the arguments of `python -m`, in which `{runs}` is the folder of runs.

    After `limit_s` seconds it is cut off, so that a slow one does not take the time of all others.
    """

    name: str
    words: tuple[str, ...]
    why: str
    limit_s: float = 420


def sweep(name: str, why: str) -> Step:
    """Return the step that measures a sweep file, or continues its run."""
    file = f"{{sweeps}}/{name}.yaml"
    return Step(name, ("llmbench", "sweep", file, "-o", f"{{runs}}/{name}"), why)


def gpu_tests() -> tuple[str, ...]:
    """Return the files with GPU tests; others may import packages that a bare machine lacks."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return tuple(f"tests/{file.name}" for file in files if MARK in file.read_text(encoding="utf-8"))


STEPS = (
    Step(
        "tests",
        ("pytest", "-m", "gpu", "-q", "--timeout", "300", *gpu_tests()),
        "the CUDA path works at all",
        limit_s=180,
    ),
    sweep("gpu-7b", "LLaMA-7B and MPT-7B as users run them"),
    Step(
        "probe",
        ("llmbench", "sweep", "configs/sweeps/gpu-7b.yaml", "--probe", "--dry-run"),
        "the ceilings that shares are taken of, the GPU's only, and what is to be expected",
        limit_s=120,
    ),
    sweep("gpu-vllm", "LLaMA-7B on vLLM"),
    sweep("gpu-vllm-mpt", "MPT-7B on vLLM"),
    sweep("gpu-7b-compiled", "LLaMA-7B with a static cache and a compiled step"),
    sweep("claims-gpu", "the claims' own questions"),
    sweep("gpu-families", "the other families at 6 to 8 billion parameters"),
    sweep("gpu-frontier", "where memory ends"),
    sweep("gpu-large", "13 to 65 billion parameters"),
    sweep("claims-gpu-context", "what a context costs"),
    sweep("claims-gpu-baseline", "the conditions of published figures"),
    sweep("claims-gpu-quality", "accuracy against cost"),
    sweep("claims-gpu-tiers", "what a level of memory costs"),
    sweep("claims-gpu-edge", "what small models do"),
    sweep("gpu-spread", "how far sessions differ"),
)
"""What the project is for comes first: LLaMA-7B and MPT-7B over batch and context, then vLLM beside it, then claims."""


def main() -> int:
    """Run the steps that are not done, in order, within the budget."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--budget", type=float, default=540, help="seconds for all [540]")
    parser.add_argument("--only", default="", help="these steps, by name, done or not")
    parser.add_argument(
        "--new-environment", action="store_true", help="go on with runs that another machine began"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="measure tiny copies, to see that every step runs"
    )
    parser.add_argument("--list", action="store_true", help="say what would run and stop")
    parser.add_argument("-o", "--output", type=Path, help="pack .gpu/ into this .tar.gz at the end")
    asked = parser.parse_args()
    ends = time.monotonic() + asked.budget - (TO_PACK_S if asked.output else 0)
    chosen = chosen_steps(asked.only)
    if asked.list:
        print(*(f"{step.name:14} {step.why}" for step in chosen), sep="\n")
        return 0
    if not gpus():
        print("gpu: found no NVIDIA GPU, or no driver for it; nothing was run.", file=sys.stderr)
        return 2
    if said := unusable():
        print(
            f"gpu: {sys.executable} cannot run llmbench: {said}; nothing was run.", file=sys.stderr
        )
        return 2
    PLACE.mkdir(exist_ok=True)
    held = alone()
    if held is None:
        print(f"gpu: {PLACE} is in use by another call of this script.", file=sys.stderr)
        return 2
    sweeps = rehearsal() if asked.rehearse else SWEEPS
    by_name = {"tests": ("-k", WITHOUT_SPEED)} if asked.rehearse else {}
    codes = {}
    for step in chosen:
        left_s = ends - time.monotonic() - TO_STOP_S
        if left_s < SHORTEST_S:
            print(f"gpu: {step.name}: no time left", flush=True)
            continue
        more = by_name.get(step.name, ())
        if asked.new_environment and "sweep" in step.words:
            more = (*more, "--new-environment")
        step = step._replace(words=(*step.words, *more))  # noqa: PLW2901 - the same step, asked for in full
        limit_s = step.limit_s * (SLOWER if asked.rehearse else 1)
        codes[step.name] = run(step, min(left_s, limit_s), sweeps, held)
    if asked.output:
        pack(asked.output)
    return max(codes.values(), default=0)


def gpus() -> int:
    """Return the number of GPUs that the NVIDIA driver shows; 0 without a driver."""
    import pynvml  # noqa: PLC0415 - --list needs no package

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def unusable() -> str | None:
    """Return why this Python cannot import the command: else every step would end at once, and count as done."""
    done = subprocess.run(
        [sys.executable, "-c", "import llmbench.cli, torch, transformers"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


def alone() -> int | None:
    """Return a lock that the running step holds too, waiting for one that a killed call left; None if it stays held."""
    held = os.open(PLACE / "lock", os.O_RDWR | os.O_CREAT)
    ends = time.monotonic() + 2 * TO_STOP_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > ends:
                return None
            time.sleep(0.1)
        else:
            return held


def environment() -> dict[str, str]:
    """Return the environment of a step."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "PYTHONPATH": path.rstrip(os.pathsep),
        "LLMBENCH_STATE": str(PLACE / "state"),
        "HF_HUB_OFFLINE": "1",
    }


def chosen_steps(only: str) -> list[Step]:
    """Return the named steps, or all that are not done."""
    wanted = [word for word in only.split(",") if word]
    names = [step.name for step in STEPS]
    if unknown := [word for word in wanted if word not in names]:
        raise SystemExit(f"--only: no step {unknown[0]!r}; there are {', '.join(names)}.")
    if wanted:
        return [step for step in STEPS if step.name in wanted]
    done = set(DONE.read_text().split()) if DONE.exists() else set()
    return [step for step in STEPS if step.name not in done]


def rehearsal() -> Path:
    """Return a folder with copies of all sweeps that ask for little: tiny models, short lengths, one session."""
    import msgspec  # noqa: PLC0415 - --list needs no package

    sys.path.insert(0, str(ROOT / "src"))
    from llmbench.spec import grid  # noqa: PLC0415
    from llmbench.spec import sweep as spec_sweep  # noqa: PLC0415

    folder = PLACE / "rehearsal"
    folder.mkdir(exist_ok=True)
    for path in sorted(SWEEPS.glob("*gpu*.yaml")):
        asked = spec_sweep.read_sweep(path)
        names = [name.partition("@")[0] for name in grid.words(asked.axes.model)]
        axes = msgspec.structs.replace(
            asked.axes,
            model=[f"{name}@tiny" for name in names],
            batch_size=[1, 2],
            input_len=[8],
            output_len=[4],
        )
        protocol = msgspec.structs.replace(
            asked.protocol,
            sessions=1,
            max_sessions=1,
            iterations=2,
            min_time_s=0.0,
            warmup_budget_s=0.0,
        )
        whole = msgspec.structs.replace(asked, axes=axes, protocol=protocol)
        (folder / path.name).write_bytes(msgspec.json.encode(whole))  # JSON is YAML
    return folder


def run(step: Step, left_s: float, sweeps: Path, held: int) -> int:
    """Run a step within a time limit, with its output on the screen and in its log; mark it done if it finishes."""
    words = [word.format(runs=PLACE / "runs", sweeps=sweeps) for word in step.words]
    began = time.monotonic()
    print(f"gpu: {step.name}: {step.why} ({left_s:.0f} s left)", flush=True)
    with (PLACE / f"{step.name}.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT, pass_fds=(held,),
            preexec_fn=stopped_with_this,  # noqa: PLW1509 - this script has one thread
        )  # fmt: skip
        code = ended(child, left_s)
    tail = (PLACE / f"{step.name}.log").read_text(errors="replace").splitlines()[-25:]
    print(*tail, sep="\n")
    print(f"gpu: {step.name}: exit {code} after {time.monotonic() - began:.0f} s", flush=True)
    if code not in NOT_RUN:
        with DONE.open("a") as done:
            done.write(f"{step.name}\n")
    return code


def stopped_with_this() -> None:
    """Let a step stop as after Ctrl-C if this script is killed; for a child, before it runs."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def ended(child: subprocess.Popen[bytes], left_s: float) -> int:
    """Return a child's exit code; interrupt one that takes too long, and then kill it."""
    try:
        return child.wait(left_s)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(TO_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    return CUT_OFF


def pack(archive: Path) -> None:
    """Pack .gpu/ into one file."""
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(PLACE, arcname=PLACE.name)
    print(f"gpu: {archive}: {archive.stat().st_size / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
