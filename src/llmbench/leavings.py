"""Files that outlive a kill: shared memory, sockets with a name, and a session's folders of its own.

Whoever ends in order removes its own; whoever is killed cannot. Only what a killed process held, that belongs
to us and that no living process still maps is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

SHARED = "/dev/shm/"  # noqa: S108 - the system's own place for it
MAPPED = re.compile(rf"^\S+ \S+ \S+ \S+ \S+\s+({SHARED}\S+)$", re.MULTILINE)


def prefix(session: str | None) -> str:
    """Return how the names of a session's temporary folders begin; by hand there is no session."""
    return f"llmbench-{session or 'by-hand'}-"


def remove_folders(session: str) -> None:
    """Remove the temporary folders of a session that is over."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix(session)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def held_by(processes: Iterable[psutil.Process]) -> set[Path]:
    """Return the shared memory and the named sockets that these processes hold at this moment (Linux)."""
    held: set[Path] = set()
    for process in processes:
        held |= _mapped(process.pid)
        with contextlib.suppress(psutil.Error, OSError, NotImplementedError):
            places = [str(one.laddr) for one in process.net_connections(kind="unix")]
            held |= {Path(place) for place in places if place.startswith("/")}
    return held


def remove(held: set[Path]) -> None:
    """Remove the files that nobody alive holds any more; leave what is not ours."""
    if not held:
        return
    alive = {path for process in psutil.process_iter() for path in _mapped(process.pid)}
    for path in held - alive:
        with contextlib.suppress(OSError):
            found = path.lstat()
            known = stat.S_ISSOCK(found.st_mode) or str(path).startswith(SHARED)
            if known and found.st_uid == os.getuid():
                path.unlink()


def _mapped(pid: int) -> set[Path]:
    with contextlib.suppress(OSError):
        return {
            Path(path)
            for path in MAPPED.findall(Path(f"/proc/{pid}/maps").read_text(encoding="utf-8"))
        }
    return set()
