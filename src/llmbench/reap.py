"""Finding and killing what a session left behind, and nothing else.

A process belongs to a session if it descends from the worker, shares its process session, was orphaned to
us, or carries the session's random token in its environment. Innocent processes have none of these, so a
reused process id is no danger.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from typing import TYPE_CHECKING

import psutil

from llmbench import leavings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUN_VARIABLE = "LLMBENCH_RUN"
"""Names the run in the environment of everything that a sweep starts."""
PR_SET_CHILD_SUBREAPER = 36
PATIENCE_S = 10.0
"""How long killed processes may take to be gone; one in uninterruptible sleep cannot be waited for longer."""

undying: set[psutil.Process] = set()
"""Those that were not gone by then. Nobody waits for one of them a second time."""


def become_subreaper() -> None:
    """Have orphaned descendants handed to this process instead of to init, so that none escapes (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_session(token: str, worker: int, spared: set[int]) -> list[str]:
    """Kill a session's processes, the worker too; return a line for each that was not the worker.

    Args:
        token: the session's token, as found in the environment.
        worker: the worker's process id.
        spared: children of ours that live on, such as nurseries.

    """
    strays = kill(lambda: _of_session(token, worker, spared), worker)
    leavings.remove_folders(token)
    return strays


def token_of(run: str, folder: Path) -> str:
    """Return what every process of a run carries: the run's id, and of its folder what a copy has not."""
    return f"{run}-{folder.stat().st_ino}"


def kill_run(token: str) -> list[str]:
    """Kill every process of a run, left over from a harness that was killed itself.

    The token was read from a file that may be anybody's: only under its own name does it mark a process.
    """
    return kill(
        lambda: [process for process in psutil.process_iter() if _is_of_run(process, token)],
        os.getpid(),
    )


def kill(find: Callable[[], list[psutil.Process]], unnamed: int) -> list[str]:
    """Kill what `find` finds until it finds nothing, and remove the files that only the killed held.

    Returns:
        A line for each process but `unnamed`, and for any that outlives being killed.

    """
    strays: dict[int, str] = {}
    held: set[Path] = set()
    deadline = time.monotonic() + PATIENCE_S
    while found := [one for one in find() if one.pid != os.getpid() and one not in undying]:
        if time.monotonic() > deadline:
            undying.update(found)
            strays |= {
                one.pid: f"{_described(one)} (still there after {PATIENCE_S:.0f} s)"
                for one in found
            }
            break
        held |= leavings.held_by(found)
        for process in found:
            if process.pid != unnamed:
                strays.setdefault(process.pid, _described(process))
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.2)
    leavings.remove(held)
    return list(strays.values())


def _of_session(token: str, worker: int, spared: set[int]) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in spared or process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                _bury(process)
            elif (
                process.pid == worker
                or os.getsid(process.pid) == worker
                or _carries(process, token)
            ) or (process.ppid() == os.getpid() and process.pid not in spared):
                found[process.pid] = process
    for process in list(found.values()):
        with contextlib.suppress(psutil.Error):
            found |= {
                child.pid: child
                for child in process.children(recursive=True)
                if child.pid not in spared
            }
    return [
        process for process in found.values() if process.is_running() and not _is_zombie(process)
    ]


def _carries(process: psutil.Process, token: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return process.pid != os.getpid() and token in process.environ().values()
    return False


def _is_of_run(process: psutil.Process, token: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return bool(process.environ().get(RUN_VARIABLE) == token)
    return False


def _is_zombie(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def _bury(process: psutil.Process) -> None:
    """Collect an orphan that was handed to us, so that it does not stay in the process table."""
    if process.ppid() == os.getpid():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def _described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {process.name()}"
    return str(process.pid)
