"""Probes of this machine's ceilings: one process per kind of device, with a deadline.

A result that exceeds the peak of a known chip is refused and not saved.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from llmbench import interpreter
from llmbench.errors import RunError
from llmbench.machine import chips, nvidia, peaks, processes
from llmbench.machine.peaks import STEP, Probe
from llmbench.measure import telemetry
from llmbench.redact import redact, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROGRAM = tuple(interpreter.command("llmbench.backends.device_probe"))
DEADLINE_S = 300.0
"""For all devices of a kind; a CPU with two cores takes 50 s, a busy one several times as long."""
BUSY, LOOK_S = 0.1, 0.5
"""Share of all processors, over half a second, above which a ceiling would be too low. A load average would still
include the previous probe."""


def measure(
    kind: str,
    facts: Mapping[str, Any],
    program: Sequence[str] = (),
    deadline_s: float = DEADLINE_S,
    tell: Callable[[str], None] | None = None,
) -> tuple[list[Probe], list[str]]:
    """Return probes of all devices of a kind, `cpu` or `cuda`, of a machine, and what was left out of them.

    `program` replaces PROGRAM, which measures the kind that its last argument names; `tell` receives each step.

    Raises:
        RunError: the reason in one line: no torch, the process died or took too long, or its result is impossible.

    """
    if importlib.util.find_spec("torch") is None:
        raise RunError("--probe: needs the package torch: pip install 'llmbench[transformers]'.")
    window = telemetry.CpuWindow()
    try:
        done, said = _run((*(program or PROGRAM), kind), deadline_s, tell)
    except subprocess.TimeoutExpired:
        raise RunError(
            f"--probe: measuring {kind} took longer than {deadline_s:.0f} s and was stopped. Try again when "
            f"the machine is idle."
        ) from None
    if done.returncode:
        raise RunError(f"--probe: measuring {kind} {_death(done.returncode, said)}.")
    share = round(window.others(), 3)
    probes, left_out = _believed(kind, done.stdout, facts)
    if share > peaks.BUSY:
        left_out.append(
            f"Other processes used {share:.0%} of the CPUs meanwhile; nothing is judged or predicted by these rates. "
            "Measure again when they are done."
        )
    return [msgspec.structs.replace(probe, others_share=share) for probe in probes], left_out


def _run(
    command: Sequence[str], deadline_s: float, tell: Callable[[str], None] | None
) -> tuple[subprocess.CompletedProcess[bytes], bytes]:
    """Run a probe and tell each of its steps as it begins; return how it ended and what it said besides.

    It begins a step before it times anything, and nobody wakes up here in between.
    """
    reader, writer = os.pipe()
    said: list[bytes] = []

    def listen() -> None:
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                if not line.startswith(STEP):
                    said.append(line)
                elif tell:
                    tell(line.removeprefix(STEP).decode(errors="replace").strip())

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        environment = nvidia.ORDER | os.environ | interpreter.SAFE
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=writer,
            timeout=deadline_s,
            check=False,
            env=environment,
        )
    finally:
        os.close(writer)
        listener.join()
    return done, b"".join(said)


def measure_and_keep(
    facts: Mapping[str, Any], kinds: Sequence[str], tell: Callable[[str], None]
) -> None:
    """Measure devices and save their probes, each kind as soon as it is done.

    Raises:
        RunError: one kind could not be measured; the others are saved.

    """
    if warning := busy():
        tell(warning)
    failed: list[RunError] = []
    for kind in kinds:
        tell(f"Measuring the ceilings of {kind}: about a minute.")
        try:
            _refuse_shared(kind, facts)
            probes, left_out = measure(kind, facts, tell=tell)
            peaks.keep(facts, probes)
            for each in left_out:
                tell(each)
        except RunError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def kinds(facts: Mapping[str, Any]) -> list[str]:
    """Return the kinds of device that a machine has, GPUs first."""
    return [*(["cuda"] if facts["gpus"] else []), "cpu"]


def busy() -> str | None:
    """Return a warning if other processes are busy now, because the ceilings would be too low."""
    share = psutil.cpu_percent(interval=LOOK_S) / 100
    if share <= BUSY:
        return None
    who = processes.busiest()
    return (
        f"Other processes use {share:.0%} of the CPUs; the measured ceilings will be too low."
        f"{who and f' Busy: {who}.'}"
    )


def _refuse_shared(kind: str, facts: Mapping[str, Any]) -> None:
    indices = range(len(facts["gpus"])) if kind == "cuda" else ()
    others = {pid for index in indices for pid in telemetry.Gpu(index).others(set()) or ()}
    if others:
        who = ", ".join(map(str, sorted(others)))
        raise RunError(f"--probe: the GPU is in use by process {who}. Wait until it ends.")


def _believed(kind: str, answer: bytes, facts: Mapping[str, Any]) -> tuple[list[Probe], list[str]]:
    left_out: list[str] = []
    try:
        probes = msgspec.json.decode(answer, type=list[Probe])
        for number, probe in enumerate(probes):
            peaks.check(probe)
            probes[number] = _within_physics(probe, facts, left_out)
    except (msgspec.DecodeError, ValueError) as error:
        raise RunError(f"--probe: the result measured on {kind} is impossible: {error}.") from None
    if not probes:
        raise RunError(f"--probe: this torch sees no {kind} device.")
    return probes, left_out


def _within_physics(probe: Probe, facts: Mapping[str, Any], left_out: list[str]) -> Probe:
    """Return a probe without the dtypes that beat the datasheet of its chip, which are told in `left_out`.

    Raises:
        ValueError: its memory is faster than the chip's, or no dtype is left.

    """
    chip = _chip(probe, facts)
    beaten = {
        name: f"{name} is {reached:.0%} of what the datasheet allows"
        for name, reached in shares(probe, facts).items()
        if chip and reached > chip.slack()
    }
    kept = {name: flops_s for name, flops_s in probe.flops_s.items() if name not in beaten}
    if beaten and (not kept or beaten.keys() - probe.flops_s.keys()):
        raise ValueError("; ".join(beaten.values()))
    left_out += [f"--probe: left out, because {each}." for each in beaten.values()]
    rates = [rate for rate in probe.rates if rate.dtype not in beaten]
    return msgspec.structs.replace(probe, flops_s=kept, rates=rates)


def _chip(probe: Probe, facts: Mapping[str, Any]) -> chips.Chip | None:
    short = next((chips.match(gpu) for gpu in facts["gpus"] if gpu["name"] == probe.name), None)
    return chips.chip(short) if short and probe.device == "cuda" else None


def shares(probe: Probe, facts: Mapping[str, Any]) -> dict[str, float]:
    """Return a probe's results as shares of the dense peaks on its chip's datasheet, if known.

    float32 is compared with the float32 peak, because the probe leaves TF32 off.
    """
    chip = _chip(probe, facts)
    if chip is None:
        return {}
    bandwidth = chip.bandwidth()
    moved = {"copy": probe.copy_bytes_s, **{f"read {k}": v for k, v in probe.read_bytes_s.items()}}
    reached = {k: v / bandwidth for k, v in moved.items() if v and bandwidth}
    for dtype, flops_s in probe.flops_s.items():
        if chip.flops(dtype):
            reached[dtype] = flops_s / (chip.dense_tflops[dtype] * chips.TERA)
    return reached


def _death(code: int, stderr: bytes) -> str:
    """Return how a process ended, and its last line of output."""
    if code < 0:
        hint = " (is there enough memory?)" if code == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"
    lines = stderr.decode(errors="replace").strip().splitlines()
    return (
        f"failed: {shown(redact(lines[-1])).rstrip('.')}" if lines else f"failed with exit {code}"
    )
