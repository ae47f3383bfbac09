"""Files opened so that nothing in their place can do harm: regular files only, no waiting, and never more than a limit.

A pipe makes its reader wait for ever, a device never ends, and a folder that came from somebody else may hold either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

MOST_JSON_BYTES = 2**24
"""The largest of our own small files, and of a checkpoint's configuration; the usual size is some kilobytes."""


def open_regular(path: Path, flags: int = os.O_RDONLY, *, own: bool = False) -> int:
    """Return a descriptor of a regular file. `own` is for a file that must have no other name, by no link of any kind.

    Raises:
        OSError: it cannot be opened, or is no such file; `strerror` is a clause that says what it is instead.

    """
    with contextlib.suppress(FileNotFoundError):  # which is for `open` to make or to miss
        _check(path, _stat(path, own=own), own=own)  # some devices act on being opened
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if own else 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        _check(path, os.fstat(descriptor), own=own)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def why_not(path: Path, *, own: bool = False) -> str | None:
    """Return what has a name that a regular file should have, as a clause; None if one has it, or nothing."""
    try:
        _check(path, _stat(path, own=own), own=own)
    except FileNotFoundError:
        return "is a broken link" if path.is_symlink() else None
    except OSError as error:
        return error.strerror or str(error)
    return None


def read(path: Path, most: int = MOST_JSON_BYTES) -> bytes:
    """Return the content of a regular file; raise OSError if it is none, or holds more than `most` bytes."""
    with os.fdopen(open_regular(path), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        data = stream.read(most + 1) if size <= most else None
    if data is None or len(data) > most:
        raise OSError(errno.EFBIG, f"is larger than {most >> 20} MiB", str(path))
    return data


def read_text(path: Path, most: int = MOST_JSON_BYTES) -> str:
    """Return the content of a regular file as text whose lines end in newlines; raise UnicodeDecodeError for others."""
    return read(path, most).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def write_new(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file under a name that is free, to the disk; what could not be written whole is not left behind.

    Raises:
        FileExistsError: the name is taken, by whatever it may be.
        OSError: it cannot be written.

    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file whole in place of the one before; raise OSError, which leaves that one as it was."""
    new = path.with_name(f".{secrets.token_hex(8)}.new")
    write_new(new, data, mode)
    try:
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _stat(path: Path, *, own: bool) -> os.stat_result:
    return path.lstat() if own else path.stat()


def _check(path: Path, found: os.stat_result, *, own: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for fits, words in KINDS if fits(found.st_mode)), "not a regular file")
        raise OSError(errno.EINVAL, f"is {kind}", str(path))
    if own and found.st_nlink > 1:
        text = "has a second name (a hard link), and writing here would change both"
        raise OSError(errno.EMLINK, text, str(path))
