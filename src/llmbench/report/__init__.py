"""The formats of a table, one file each: the file's name is the format's, and nothing else registers it.

A report declares `render(table, page) -> str`, the whole text with its last newline. Every foreign string
in it (model names come from anywhere) is escaped for its format.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

    from llmbench.results.table import Table

FORMATS = {
    "csv": "llmbench.report.csv",
    "json": "llmbench.report.json",
    "markdown": "llmbench.report.markdown",
    "terminal": "llmbench.report.terminal",
}
"""Each format and the module that writes it."""


class Page(NamedTuple):
    """Where a report is going.

    Attributes:
        width: characters in a line; None if lines may be of any length, as in a file.
        encoding: what the characters must fit into.
        colour: whether it may be styled.

    """

    width: int | None = None
    encoding: str = "utf-8"
    colour: bool = False


def known() -> list[str]:
    """Return the names of all formats: in order."""
    return list(FORMATS)


def render(table: Table, format: str, page: Page | None = None) -> str:
    """Return a table as text in one of the known formats."""
    report = importlib.import_module(f"llmbench.report.{format}")
    text: str = report.render(table, page or Page())
    return text


def show(table: Table, format: str, console: Console) -> None:
    """Write a table to a console's file; rich itself lays out 30,000 rows in a minute, so it does not."""
    write(render(table, format, page_of(console)), console)


def page_of(console: Console) -> Page:
    """Return what a console's file can take; only a screen has a width."""
    on_screen = console.is_terminal or "COLUMNS" in os.environ
    return Page(
        width=console.width if on_screen else None,
        encoding=console.encoding,
        colour=console.is_terminal and not console.no_color,
    )


def screen() -> Page:
    """Return what standard output can take, for what is written there without a style."""
    on_screen = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Page(width=shutil.get_terminal_size().columns if on_screen else None)


def write(text: str, console: Console) -> None:
    """Write text to a console's file, escaping what its encoding cannot say."""
    console.file.write(text.encode(console.encoding, "backslashreplace").decode(console.encoding))
