"""Facts about a machine saved between runs: one file per machine in the user's state folder.

A file is replaced atomically. One that cannot be read causes a notice and never stops a sweep.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from llmbench import files
from llmbench.errors import RunError
from llmbench.redact import redact

STATE = "LLMBENCH_STATE"
"""The environment variable that replaces the default folder."""

FORMAT = 1


class OfMachine(msgspec.Struct, frozen=True, kw_only=True):
    """The first fields of every such file: its format, a digest of its machine, and a checksum.

    Without the checksum, a changed figure would look like any other.
    """

    format: int = FORMAT
    machine: str
    crc32: str = ""


T = TypeVar("T", bound=OfMachine)


class Shelf(NamedTuple, Generic[T]):
    """The files of one kind: their folder, the noun for one, its struct, and how to create it again."""

    folder: str
    noun: str
    kind: type[T]
    again: str

    def find(self, digest: str) -> tuple[T | None, str | None]:
        """Return the saved value of a machine, or the reason if it could not be read. Never raises."""
        path = self.path(digest)
        try:
            value = msgspec.json.decode(files.read(path), type=self.kind)
        except FileNotFoundError:
            return None, None
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            return None, self._unused(path, getattr(error, "strerror", None) or str(error))
        if value.format > FORMAT:
            return None, self._unused(path, f"a newer llmbench wrote it (format {value.format})")
        if value.machine != digest:
            return None, self._unused(path, "it was measured on another machine")
        if value.crc32 not in ("", _checksum(value)):  # the first files had no checksum
            return None, self._unused(path, "its checksum does not match")
        return msgspec.structs.replace(value, crc32=""), None

    def keep(self, value: T) -> Path:
        """Save a value, replacing the machine's last one; return the file.

        Raises:
            RunError: the file cannot be written; the previous one is unchanged.

        """
        path = self.path(value.machine)
        sealed = msgspec.structs.replace(value, crc32=_checksum(value))
        data = msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(path, data, 0o600)
        except OSError as error:
            raise RunError(
                f"{redact(str(path))}: the {self.noun} cannot be saved: {error.strerror or error}. Set "
                f"{STATE} to a writable folder."
            ) from error
        return path

    def path(self, digest: str) -> Path:
        """Return the file of a machine."""
        return folder() / self.folder / f"{digest}.json"

    def _unused(self, path: Path, reason: str) -> str:
        return f"{redact(str(path))}: the saved {self.noun} was ignored: {reason}; {self.again}."


def folder() -> Path:
    """Return the state folder: from the variable, else according to XDG."""
    if named := os.environ.get(STATE):
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # noqa: PTH117 - XDG: a relative one is to be ignored
        return Path(state, "llmbench")
    return Path(os.path.expanduser("~"), ".local", "state", "llmbench")  # noqa: PTH111 - pathlib raises without a home


def _checksum(value: OfMachine) -> str:
    plain = msgspec.structs.replace(value, crc32="")
    return f"{zlib.crc32(msgspec.json.encode(plain)):08x}"
