"""Boxes on this machine: each an agent behind a command, with a stand-in of the driver and GPUs of its own."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from sweeps import Bench

TESTS = Path(__file__).resolve().parent
BEGINNING = f"""
import os, sys
sys.path.append({str(TESTS)!r})
from standin_cuda import driver
driver.install()
import time
ahead_s = int(os.environ.get("BOX_AHEAD_S", 0))
wall, wall_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: wall() + ahead_s, lambda: wall_ns() + ahead_s * 10**9
if lost := os.environ.get("BOX_LOST"):
    import pynvml
    asked = pynvml.nvmlDeviceGetMemoryInfo
    def memory(gpu, *more):
        if gpu.number == 0 and os.path.exists(lost):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return asked(gpu, *more)
    pynvml.nvmlDeviceGetMemoryInfo = memory
"""
"""What every Python of a box with GPUs begins with: only the driver is simulated, and the clock is the real one."""
GPUS_OF_A_BOX = 16
"""The ids of a box's GPUs begin at the checksum of its name, times this."""
SCRIPT = """#!/bin/bash
# HOST COMMAND...: run a command as a box of this name would.
export LLMBENCH_HOST=$1
number=$(cksum <<<"$1" | cut -d" " -f1)
shift
export STANDIN_GPUS={gpus} STANDIN_FIRST=$((number * {first})) STANDIN_STATE={folder}/gpu$number
[ {gpus} = 0 ] || export PYTHONPATH={folder}/box
{more}
{run}
"""

SLOWER = """
import os, sys
if "llmbench.run.forkserver" in sys.orig_argv:
    import llmbench.backends.fake as fake
    true = fake.FakeEngine._milliseconds
    factor = float(os.environ.get("BOX_SLOWER", 1))
    fake.FakeEngine._milliseconds = lambda self: tuple(each * factor for each in true(self))
"""
"""A box whose engine really takes longer by a factor."""


def boxes(
    bench: Bench, *names: str, gpus: int = 2, more: str = "", run: str = 'exec "$@"'
) -> tuple[str, ...]:
    """Return the arguments of a sweep on boxes of these names; `more` are lines of bash in each."""
    written = write(bench.folder, gpus, more, run)
    return ("--places", f"command:{shlex.quote(str(written))} {{host}}", "--hosts", ",".join(names))


def write(folder: Path, gpus: int, more: str = "", run: str = 'exec "$@"') -> Path:
    """Write the script that runs a command on a box with so many GPUs, and return its path."""
    script, begin = folder / "box.sh", folder / "box"
    script.write_text(
        SCRIPT.format(gpus=gpus, first=GPUS_OF_A_BOX, folder=folder, more=more, run=run)
    )
    script.chmod(0o755)
    begin.mkdir(exist_ok=True)
    (begin / "sitecustomize.py").write_text(BEGINNING)
    return script


def slower(bench: Bench, name: str, factor: float) -> str:
    """Return lines of bash for `boxes` after which the fake engine takes longer on one box, by a factor."""
    folder = bench.folder / "slower"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOWER)
    return f'[ "$LLMBENCH_HOST" = {name} ] && export BOX_SLOWER={factor} PYTHONPATH={folder}'


def agent(bench: Bench, name: str) -> psutil.Process:
    """Return the agent of a box."""
    return one_of(bench, "agent", name)


def one_of(bench: Bench, what: str, name: str = "") -> psutil.Process:
    """Return a process with this word in its command line, of this box if one is named."""
    for process in bench.alive():
        with contextlib.suppress(psutil.Error):
            host = process.environ().get("LLMBENCH_HOST", "")
            if host and name in {"", host} and what in process.cmdline():
                return process
    raise LookupError(f"no {what} of {name or 'any box'}")
