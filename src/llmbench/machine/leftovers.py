"""Files that outlive a killed process: shared memory, named sockets, and a session's temporary folders.

A process that exits normally removes its files; a killed one cannot. A file is removed only if a killed process
made it: it did not exist before, it is in the usual place under a name that the libraries use, it belongs to this
user, and no living process holds it. Weights, a cache or an environment in shared memory do not qualify.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

SHARED = Path("/dev/shm")  # noqa: S108 - the system's own place for it
MAPPED = re.compile(rf"^\S+ \S+ \S+ \S+ \S+\s+({SHARED}/\S+)$", re.MULTILINE)
TRANSIENT = re.compile(r"psm_\w+|torch_\d+_\w+|nccl-\w+|cuda\.shm\.\w+(\.\w+)*")
"""Names that Python's shared_memory, torch, NCCL and CUDA give to memory that only their processes need."""

CLOCKS_WITHIN_S = 0.1
"""A file system and a process table differ by less; both have a resolution of 10 ms."""


class Existing(NamedTuple):
    """Names in shared memory and paths of sockets that existed before a worker."""

    shared: frozenset[str]
    sockets: frozenset[str]

    @classmethod
    def now(cls) -> Existing:
        """Look."""
        with contextlib.suppress(OSError):
            names = frozenset(path.name for path in SHARED.iterdir())
            return cls(names, frozenset(_bound()))
        return cls(frozenset(), frozenset(_bound()))


class Held:
    """Files held by killed processes, which may have to be removed."""

    def __init__(self, before: Existing | None) -> None:
        """Begin with none; without `before`, a file older than its holder counts as existing before."""
        self.before = before
        self.found: set[Path] = set()

    def note(self, process: psutil.Process) -> None:
        """Note the files that a process holds now and may have made (Linux)."""
        held = {path for path in _mapped(process.pid) if self._is_shared(path, process)}
        with contextlib.suppress(psutil.Error, OSError, NotImplementedError):
            for one in process.net_connections(kind="unix"):
                if self._is_socket(str(one.laddr)):
                    held.add(Path(str(one.laddr)))
        self.found |= held

    def remove(self) -> None:
        """Remove the files that no living process holds."""
        if not self.found:
            return
        mapped = {path for process in psutil.process_iter() for path in _mapped(process.pid)}
        for path in self.found - mapped - {Path(place) for place in _bound()}:
            with contextlib.suppress(OSError):
                if path.lstat().st_uid == os.getuid():
                    path.unlink()

    def _is_shared(self, path: Path, process: psutil.Process) -> bool:
        if path.parent != SHARED or not TRANSIENT.fullmatch(path.name):
            return False
        if self.before:
            return path.name not in self.before.shared
        with contextlib.suppress(psutil.Error, OSError):
            return path.lstat().st_ctime >= _began(process) - CLOCKS_WITHIN_S
        return False

    def _is_socket(self, place: str) -> bool:
        if not place.startswith("/") or (self.before and place in self.before.sockets):
            return False
        path = Path(place)
        with contextlib.suppress(OSError):
            return path.is_relative_to(tempfile.gettempdir()) and stat.S_ISSOCK(
                path.lstat().st_mode
            )
        return False


def prefix(session: str | None) -> str:
    """Return the prefix of a session's temporary folders; a worker run by hand has no session."""
    return f"llmbench-{session or 'by-hand'}-"


def remove_folders(session: str) -> None:
    """Remove the temporary folders of a finished session, found by its token."""
    if session.isalnum():  # one of our tokens, not a pattern
        for folder in Path(tempfile.gettempdir()).glob(f"{prefix(session)}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _began(process: psutil.Process) -> float:
    """Return when a process began, in seconds since 1970; psutil counts from the whole second of the boot."""
    since_boot = process.create_time() - psutil.boot_time()
    return float(since_boot + time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))


def _mapped(pid: int) -> set[Path]:
    with contextlib.suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape")
        return {Path(path) for path in MAPPED.findall(maps)}
    return set()


def _bound() -> set[str]:
    """Return the paths of all named sockets that a living process holds (Linux)."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="surrogateescape")
        rows = (line.split(maxsplit=7) for line in lines.splitlines())
        return {row[7] for row in rows if len(row) > 7}
    return set()
