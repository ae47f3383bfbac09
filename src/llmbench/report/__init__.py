"""One document, six formats: each is a module with `render(document, page) -> str`, listed here and nowhere else."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

from llmbench.errors import SpecError
from llmbench.report.document import unmarked

if TYPE_CHECKING:
    from typing import IO

    from llmbench.report.document import Document

Format: TypeAlias = Literal["terminal", "markdown", "csv", "json", "html"]
FORMATS: tuple[str, ...] = get_args(Format)
"""Every format, which is the name of its module; html is written to a file."""
CheckedFormat: TypeAlias = Literal["terminal", "markdown", "csv", "json", "html", "junit"]
"""The formats of an answer that has suites of checks, too."""


class Page(NamedTuple):
    """The screen or file that a document is written for.

    Attributes:
        width: characters in a line; None if lines may be of any length, as in a file.
        encoding: what the characters must fit into.
        colour: whether it may be styled.
        command: whose answer it is, for the page that names it.

    """

    width: int | None = None
    encoding: str = "utf-8"
    colour: bool = False
    command: str = "llmbench"


class Destination(NamedTuple):
    """The place of a command's answer: a file if there is a path, else standard output."""

    command: str
    format: str
    path: Path | None

    def write(self, document: Document, remark: str = "") -> None:
        """Write a document; a file is named on standard output with its size and a remark."""
        if self.path is None:
            if self.format == "csv":  # which has no place for a warning
                document = warned(document)
            show(document, self.format)
            return
        files = importlib.import_module("llmbench.report.files")
        page = render(document, self.format, Page(command=self.command))
        print(f"{files.write(self.path, page)}{remark}.")


def destination(
    command: str, format: str, output: Path | None = None, *, force: bool = False
) -> Destination:
    """Return where an answer goes; raise LlmbenchError, before any work is done, if it cannot go there."""
    if format == "html":
        default = Path(f"{command}.html")
        files = importlib.import_module("llmbench.report.files")
        files.check(output or default, default, force=force)
        return Destination(command, format, output or default)
    if output is not None:
        raise SpecError(
            f"--output: only applies to --format html; send --format {format} to a file with >."
        )
    return Destination(command, format, None)


def warned(document: Document) -> Document:
    """Print a document's warnings on standard error, and return it."""
    notes = tuple(document.notes)
    for note in notes:
        if note.level == "warning":
            print(unmarked(note.text), file=sys.stderr)
    return replace(document, notes=notes)


def render(document: Document, format: str, page: Page | None = None) -> str:
    """Return a document as text in one of the formats, with its last newline."""
    renderer = importlib.import_module(f"llmbench.report.{format}")
    text: str = renderer.render(document, page or Page())
    return text


def show(document: Document, format: str = "terminal", stream: IO[str] | None = None) -> None:
    """Write a document to a stream, standard output unless said; escape what its encoding cannot say."""
    stream = stream or sys.stdout
    page = page_of(stream)
    text = render(document, format, page)
    stream.write(text.encode(page.encoding, "backslashreplace").decode(page.encoding))


def page_of(stream: IO[str]) -> Page:
    """Return the width, encoding and colours of a stream; only a screen has a width."""
    screen = stream.isatty()
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return Page(
        width=shutil.get_terminal_size().columns if screen or "COLUMNS" in os.environ else None,
        encoding=getattr(stream, "encoding", None) or "utf-8",
        colour=screen and not plain,
    )
