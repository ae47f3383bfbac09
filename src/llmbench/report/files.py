"""A page as a file: written whole or not at all, and over nothing but another page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llmbench import files
from llmbench.errors import LlmbenchError, WriteError
from llmbench.report.html import GENERATOR

if TYPE_CHECKING:
    from pathlib import Path

HEAD_BYTES = 1024
"""A page says within so many bytes that it is one."""


def check(output: Path, default: Path, *, force: bool = False) -> None:
    """Raise LlmbenchError, before any work is done, if a page would destroy something or has no folder.

    Args:
        output: where it is to be written.
        default: where it would be, for the user to choose that.
        force: overwrite a file that is no page, too.

    """
    if output.is_dir():
        raise LlmbenchError(f"{output}: is a folder. Name a file in it: {output / default}.")
    if not output.parent.is_dir():
        raise LlmbenchError(f"{output}: there is no folder {output.parent}.")
    if str(output) == "-" or (output.exists() and not output.is_file()):
        raise LlmbenchError(f"{output}: is no file, and a page is written to one: -o {default}.")
    if output.exists() and not force and not _written_by_us(output):
        raise LlmbenchError(
            f"{output}: exists and is not a page of llmbench. Name another file, or remove this one."
        )


def write(path: Path, page: str) -> str:
    """Write the page whole or not at all, and return what it is called and how large; raise WriteError."""
    data = page.encode()
    try:
        files.replace(path, data)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}.") from error
    size = f"{len(data) / 1e6:.1f} MB" if len(data) >= 1e5 else f"{len(data) / 1e3:.0f} kB"
    return f"{path}: {size}"


def _written_by_us(path: Path) -> bool:
    """Return whether a file says at its top that it is a page."""
    try:
        with os.fdopen(files.open_regular(path), "rb") as stream:
            return GENERATOR.encode() in stream.read(HEAD_BYTES)
    except OSError as error:
        raise LlmbenchError(f"{path}: cannot be read: {error.strerror}.") from error
