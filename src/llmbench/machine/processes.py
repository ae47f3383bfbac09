"""Finding and killing the processes that a session left behind, and no others.

A process belongs to a session if it descends from the fork server that started the worker, or carries the session's
random token in its environment. A fork server adopts the orphans of its workers, and a sweep those of a fork server
that died. A process that existed before the sweep is never killed, whatever its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import psutil

from llmbench.machine import leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from llmbench.machine.leftovers import Existing

RUN_VARIABLE = "LLMBENCH_RUN"
"""The environment variable that names the run and the sweep in every process that a sweep starts."""
SESSION_VARIABLE = "LLMBENCH_SESSION"
"""The environment variable that names the session in every process that a worker starts."""
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
DAEMONS = ("raylet", "gcs_server", "ray::", "ray-", "slurmd", "slurmstepd", "kubelet")
"""How the names of processes of cluster engines begin. Ray's used 75 ms of CPU a second on an idle machine."""
PATIENCE_S = 10.0
"""How long to wait for killed processes to exit; one in uninterruptible sleep may never do."""
BUSIEST_OVER_S = 0.5
"""How long processes are watched to see which are busy: fifty ticks of the clock that counts their time."""
MOST_NAMED, NAMED_OVER = 3, 0.02
"""The most processes that are named as busy, and the share of all CPUs from which one is."""

unkillable: set[psutil.Process] = set()
"""Killed processes that did not exit in time. They are not waited for again."""


class Mark(NamedTuple):
    """The mark in the environment of every process of a sweep: the run, its folder, and the sweep's process.

    A copy of the run has the same id, and may have the same inode on another file system. That is harmless while
    the sweep that carries the mark is alive, because its processes are then not leftovers.
    """

    run: str
    folder: str
    namespace: str
    sweep: str

    @classmethod
    def of_run(cls, run: str, folder: Path) -> Self:
        """Return the mark for processes that this process starts for a run in a folder."""
        at = folder.stat()
        mine = f"{os.getpid()}.{start_ticks(os.getpid())}"
        return cls(run, f"{boot_id()}.{at.st_dev}.{at.st_ino}", _namespace(os.getpid()), mine)

    @classmethod
    def of_agent(cls, run: str, host: str) -> Self:
        """Return the mark for processes that this process starts for a run whose folder is on another machine."""
        mine = f"{os.getpid()}.{start_ticks(os.getpid())}"
        return cls(run, f"{boot_id()}.{host.replace('/', '-')}", _namespace(os.getpid()), mine)

    @classmethod
    def of(cls, process: psutil.Process) -> Self | None:
        """Return the mark that a process carries, or None."""
        parts = _environment(process).get(RUN_VARIABLE, "").split("/")
        return cls(*parts) if len(parts) == len(cls._fields) else None

    def __str__(self) -> str:
        return "/".join(self)

    def leaves_over(self, other: Mark) -> bool:
        """Return whether a process with the mark `other` is left over from an earlier sweep of this run."""
        pid, _, ticks = other.sweep.partition(".")
        same = self[:3] == other[:3] and self.sweep != other.sweep
        return same and pid.isdecimal() and start_ticks(int(pid)) != ticks


class SessionProcesses(NamedTuple):
    """The facts that identify a session's processes.

    Attributes:
        token: the session's token in the environment.
        fork_server: the process that forked the worker, unless it was reaped; all its descendants belong to the
            session.
        others: our processes to spare, such as other fork servers.
        before: files that existed before the worker.

    """

    token: str
    fork_server: int | None
    others: frozenset[int]
    before: Existing


_adopts = False


def adopt_orphans() -> None:
    """Adopt orphaned descendants, unless orphans of other programs could come with them (Linux).

    In `sleep 300 & exec llmbench sweep ...` the sleep is a child of the sweep; process 1 of a container gets all
    orphans.
    """
    global _adopts  # noqa: PLW0603 - a property of this process, as the kernel keeps it
    if os.getpid() == 1 or _is_subreaper() or psutil.Process().children():
        return
    become_subreaper()
    _adopts = sys.platform == "linux"


def become_subreaper() -> None:
    """Make this process, instead of init, adopt orphaned descendants (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_session(family: SessionProcesses, worker: int) -> list[str]:
    """Kill a session's processes including the worker; return a line for each other than the worker."""
    strays = kill(lambda: _of_session(family), worker, family.before)
    leftovers.remove_folders(family.token)
    return strays


def kill_left_over(mark: Mark) -> list[str]:
    """Kill processes of this run left over from a sweep that was killed; return a line for each."""

    def found() -> list[psutil.Process]:
        marks = ((process, Mark.of(process)) for process in psutil.process_iter())
        return _alive(process for process, other in marks if other and mark.leaves_over(other))

    sessions = {_environment(process).get(SESSION_VARIABLE) for process in found()}
    strays = kill(found, os.getpid(), None)
    for session in filter(None, sessions):
        leftovers.remove_folders(session)
    return strays


def kill(
    find: Callable[[], list[psutil.Process]], unnamed: int, before: Existing | None
) -> list[str]:
    """Kill the processes that `find` returns until it returns none, and remove files that only they made and held.

    Returns:
        A line for each process except `unnamed`, and for any that survives the kill.

    """
    strays: dict[int, str] = {}
    held = leftovers.Held(before)
    deadline = time.monotonic() + PATIENCE_S
    while alive := [one for one in find() if one.pid != os.getpid() and one not in unkillable]:
        if time.monotonic() > deadline:
            unkillable.update(alive)
            strays |= {
                one.pid: f"{_described(one)} (still there after {PATIENCE_S:.0f} s)"
                for one in alive
            }
            break
        for process in alive:
            held.note(process)
            if process.pid != unnamed:
                strays.setdefault(process.pid, _described(process))
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=0.2)
    held.remove()
    return list(strays.values())


def daemons() -> list[str]:
    """Return the names of the processes of cluster engines that run on this machine."""
    names = {_name(process) for process in psutil.process_iter()}
    return sorted(name for name in names if name.startswith(DAEMONS))


def sweep_cpu_s() -> float:
    """Return the CPU time of all other processes that this process's sweep started on this machine, in seconds.

    They are the ranks of this engine, and other sessions. A worker that has ended counts with its fork server.
    """
    mark, used_s = os.environ.get(RUN_VARIABLE), 0.0
    for process in psutil.process_iter() if mark else ():
        if _environment(process).get(RUN_VARIABLE) == mark:  # never of this process itself
            with contextlib.suppress(psutil.Error):
                used_s += sum(process.cpu_times()[:4])
    return used_s


def busiest(over_s: float = BUSIEST_OVER_S) -> str:
    """Return which processes of others use the CPUs most, in words, by watching them for a moment."""
    seen = CpuTimes()
    time.sleep(over_s)
    return seen.busiest()


class CpuTimes:
    """The CPU time of all processes at a moment."""

    def __init__(self) -> None:
        """Read it, which takes a millisecond for a hundred processes."""
        self.at, self.cpu_s = time.monotonic(), _cpu_s()

    def busiest(self) -> str:
        """Return which processes of others have used the CPUs most since then, in words.

        Such as `pytest (pid 4242) 25%`, of all CPUs; empty if none can be seen, as from inside a container.
        """
        return _busiest(self.cpu_s, time.monotonic() - self.at)


def _busiest(before: dict[psutil.Process, float], over_s: float) -> str:
    own = {os.getpid(), *_descendants(os.getpid())}
    room_s = over_s * (os.cpu_count() or 1)
    shares = {
        one: (used_s - before[one]) / room_s
        for one, used_s in _cpu_s().items()
        if one in before and one.pid not in own
    }
    most = sorted(shares, key=lambda one: -shares[one])[:MOST_NAMED]
    return ", ".join(
        f"{_name(one)} (pid {one.pid}) {shares[one]:.0%}"
        for one in most
        if shares[one] >= NAMED_OVER
    )


def _cpu_s() -> dict[psutil.Process, float]:
    """Return the CPU time of every process that can be seen, in seconds."""
    used: dict[psutil.Process, float] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            used[process] = sum(process.cpu_times()[:2])
    return used


def start_ticks(pid: int) -> str:
    """Return a process's start in the kernel's ticks since boot, whatever the clock; "" if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _start_s(pid) if sys.platform != "linux" else ""
    return stat.rpartition(")")[2].split()[19]


def _start_s(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return str(psutil.Process(pid).create_time())
    return ""


def _of_session(family: SessionProcesses) -> list[psutil.Process]:
    by_pid: dict[int, psutil.Process] = {}
    for parent in (family.fork_server, os.getpid() if _adopts else None):
        by_pid |= _descendants(parent) if parent else {}
    for process in psutil.process_iter():
        if family.token in _environment(process).values():
            by_pid |= {process.pid: process} | _descendants(process.pid)
    if _adopts:
        _reap(by_pid.values(), family.others)
    return _alive(process for process in by_pid.values() if process.pid not in family.others)


def _descendants(pid: int) -> dict[int, psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return {child.pid: child for child in psutil.Process(pid).children(recursive=True)}
    return {}


def _alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and not _is_zombie(process)]


def _environment(process: psutil.Process) -> Mapping[str, str]:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ() if process.pid != os.getpid() else {}
    return {}


def _is_zombie(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def _reap(processes: Iterable[psutil.Process], others: frozenset[int]) -> None:
    """Reap adopted orphans that have exited, to remove them from the process table."""
    for process in processes:
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if process.pid not in others and process.ppid() == os.getpid() and _is_zombie(process):
                os.waitpid(process.pid, os.WNOHANG)


def _is_subreaper() -> bool:
    if sys.platform != "linux":
        return False
    answer = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def boot_id() -> str:
    """Return the identifier of this boot of the system: process ids mean nothing across two boots."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return str(int(psutil.boot_time()))


def _namespace(pid: int) -> str:
    """Return the PID namespace of a process (Linux)."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115 - a text, not a path
    return ""


def _described(process: psutil.Process) -> str:
    return f"{process.pid} {_name(process)}".rstrip()


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return str(process.name())
    return ""
