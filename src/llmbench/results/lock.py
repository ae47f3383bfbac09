"""A lock file that one process at a time can hold and that names its holder.

The kernel releases it when the process ends in any way; no lock is ever stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from typing import TYPE_CHECKING

import msgspec

from llmbench import files
from llmbench.errors import RunLocked
from llmbench.machine.info import utc_now

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_HOLDER = 4096


def take(path: Path) -> int:
    """Return the descriptor that holds the lock until it is released or the process ends.

    A program that this process starts does not inherit it; a fork that does not exec would.

    Raises:
        RunLocked: another process holds it; the message says which, where and since when.
        OSError: the file cannot be created, is a link, or its file system has no locks.

    """
    while True:
        lock = files.open_regular(path, os.O_RDWR | os.O_CREAT, own=True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                break
        except BlockingIOError:
            holder = _holder(lock)
            os.close(lock)
            raise RunLocked(f"{path.parent}: is in use by {holder}.") from None
        except FileNotFoundError:
            pass  # its holder released and unlinked it between our two steps
        except OSError:
            os.close(lock)
            raise
        os.close(lock)
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
    os.ftruncate(lock, 0)
    os.pwrite(lock, msgspec.json.encode(who), 0)
    return lock


def release(path: Path, lock: int) -> None:
    """Release the lock and remove the file; it is unlinked while still held, which `take` handles."""
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(lock)


def _holder(lock: int) -> str:
    try:
        who = msgspec.json.decode(os.pread(lock, LONGEST_HOLDER, 0), type=dict[str, str | int])
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (msgspec.DecodeError, KeyError):
        return "another process"
