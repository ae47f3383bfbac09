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
BEGINNING = f"import sys\nsys.path.append({str(TESTS)!r})\nfrom standin_cuda import driver\ndriver.install()\n"
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
exec "$@"
"""


def boxes(bench: Bench, *names: str, gpus: int = 2, more: str = "") -> tuple[str, ...]:
    """Return the arguments of a sweep on boxes of these names; `more` are lines of bash in each."""
    written = write(bench.folder, gpus, more)
    return ("--places", f"command:{shlex.quote(str(written))} {{host}}", "--hosts", ",".join(names))


def write(folder: Path, gpus: int, more: str = "") -> Path:
    """Write the script that runs a command on a box with so many GPUs, and return its path."""
    script, begin = folder / "box.sh", folder / "box"
    script.write_text(SCRIPT.format(gpus=gpus, first=GPUS_OF_A_BOX, folder=folder, more=more))
    script.chmod(0o755)
    begin.mkdir(exist_ok=True)
    (begin / "sitecustomize.py").write_text(BEGINNING)
    return script


def agent(bench: Bench, name: str) -> psutil.Process:
    """Return the agent of a box."""
    for process in bench.alive():
        with contextlib.suppress(psutil.Error):
            named = process.environ().get("LLMBENCH_HOST") == name
            if named and process.cmdline()[-1:] == ["agent"]:
                return process
    raise AssertionError(f"no agent of {name}")
