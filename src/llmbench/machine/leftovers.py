"""Files that outlive a kill: shared memory, sockets with a name, and a session's folders of its own.

Whoever ends in order removes its own; whoever is killed cannot. Only what a killed process made goes: it must
have been absent before, lie where such files lie, be named as the libraries name them that make them, belong to
us, and be held by nobody alive. Weights, a cache or an environment in shared memory are none of these.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple

import psutil

SHARED = Path("/dev/shm")  # noqa: S108 - the system's own place for it
MAPPED = re.compile(rf"^\S+ \S+ \S+ \S+ \S+\s+({SHARED}/\S+)$", re.MULTILINE)
TRANSIENT = re.compile(r"psm_\w+|torch_\d+_\w+|nccl-\w+|cuda\.shm\.\w+(\.\w+)*")
"""How Python's shared_memory, torch, NCCL and CUDA name memory that lasts no longer than its processes."""


class Existing(NamedTuple):
    """What was there before a worker: names in shared memory, and places of sockets."""

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
    """Files that killed processes held, and that may have to go with them."""

    def __init__(self, before: Existing | None) -> None:
        """Begin with none; without `before`, what is older than its holder is taken to have been there."""
        self.before = before
        self.found: set[Path] = set()

    def note(self, process: psutil.Process) -> None:
        """Note what a process holds at this moment that may be of its own making (Linux)."""
        held = {path for path in _mapped(process.pid) if self._is_shared(path, process)}
        with contextlib.suppress(psutil.Error, OSError, NotImplementedError):
            for one in process.net_connections(kind="unix"):
                if self._is_socket(str(one.laddr)):
                    held.add(Path(str(one.laddr)))
        self.found |= held

    def remove(self) -> None:
        """Remove what nobody alive holds any more."""
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
            return bool(path.lstat().st_ctime >= process.create_time() - 1)  # both to 10 ms
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
    """Return how the names of a session's temporary folders begin; by hand there is no session."""
    return f"llmbench-{session or 'by-hand'}-"


def remove_folders(session: str) -> None:
    """Remove the temporary folders of a session that is over: nobody else knows its token."""
    if session.isalnum():  # a token of ours, and no pattern
        for folder in Path(tempfile.gettempdir()).glob(f"{prefix(session)}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _mapped(pid: int) -> set[Path]:
    with contextlib.suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape")
        return {Path(path) for path in MAPPED.findall(maps)}
    return set()


def _bound() -> set[str]:
    """Return the places of all named sockets that somebody alive holds (Linux)."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="surrogateescape")
        rows = (line.split(maxsplit=7) for line in lines.splitlines())
        return {row[7] for row in rows if len(row) > 7}
    return set()
