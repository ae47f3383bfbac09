"""The formats of a comparison, one file each, after those of a table: `render(comparison, page) -> str`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from llmbench.report import page_of, write

if TYPE_CHECKING:
    from rich.console import Console

    from llmbench.compare import Comparison
    from llmbench.report import Page


def render(made: Comparison, format: str, page: Page) -> str:
    """Return a comparison as text in one of the formats."""
    report = importlib.import_module(f"llmbench.report.comparison.{format}")
    text: str = report.render(made, page)
    return text


def show(made: Comparison, format: str, console: Console) -> None:
    """Write a comparison to a console's file."""
    write(render(made, format, page_of(console)), console)
