"""Safe reading and writing of files: regular files only, without blocking, and up to a size limit.

A pipe can block its reader forever, a device never ends, and a folder from somebody else may contain either.
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
"""The size limit of our own small files and of a checkpoint's configuration; the usual size is a few kilobytes."""


def open_regular(path: Path, flags: int = os.O_RDONLY, *, own: bool = False) -> int:
    """Return a descriptor of a regular file. With `own`, the file must have no symbolic or hard link.

    Raises:
        OSError: it cannot be opened or is not a regular file; `strerror` says what it is, as a clause.

    """
    with contextlib.suppress(FileNotFoundError):  # `open` creates it or reports it
        _check(
            path, _stat(path, own=own), own=own
        )  # before opening, because opening some devices has effects
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if own else 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        _check(path, os.fstat(descriptor), own=own)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def why_not(path: Path, *, own: bool = False) -> str | None:
    """Return why a path is not a regular file, as a clause; None if it is one or does not exist."""
    try:
        _check(path, _stat(path, own=own), own=own)
    except FileNotFoundError:
        return "is a broken link" if path.is_symlink() else None
    except OSError as error:
        return error.strerror or str(error)
    return None


def read(path: Path, most: int = MOST_JSON_BYTES) -> bytes:
    """Return the content of a regular file; raise OSError for other files and for more than `most` bytes."""
    with os.fdopen(open_regular(path), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        data = stream.read(most + 1) if size <= most else None
    if data is None or len(data) > most:
        raise OSError(errno.EFBIG, f"is larger than {most >> 20} MiB", str(path))
    return data


def read_text(path: Path, most: int = MOST_JSON_BYTES) -> str:
    """Return the text of a regular file with normalised line ends; raise UnicodeDecodeError if it is not UTF-8."""
    return read(path, most).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def write_new(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a new file durably; an incomplete file is removed.

    Raises:
        FileExistsError: the path exists.
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
    """Replace a file atomically; on OSError the old file is unchanged."""
    new = path.with_name(f".{secrets.token_hex(8)}.new")
    write_new(new, data, mode)
    try:
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _stat(path: Path, *, own: bool) -> os.stat_result:
    return path.lstat() if own else path.stat()


def _check(path: Path, status: os.stat_result, *, own: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((words for fits, words in KINDS if fits(status.st_mode)), "not a regular file")
        raise OSError(errno.EINVAL, f"is {kind}", str(path))
    if own and status.st_nlink > 1:
        text = "has a second name (a hard link), and writing here would change both"
        raise OSError(errno.EMLINK, text, str(path))
