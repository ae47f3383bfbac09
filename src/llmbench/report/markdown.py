"""A table as Markdown that pastes into an issue: aligned source, pipes escaped, names in code spans."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmbench.redact import shown
from llmbench.report.layout import FANCY
from llmbench.report.views import columns as views_columns
from llmbench.report.views import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.report import Page
    from llmbench.results.table import Table


HARMLESS = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9 .,:;%()/+=-]|(?<=[A-Za-z0-9])[@_](?=[A-Za-z0-9]))*"
)
"""Text in which Markdown finds nothing to do; all other text goes into a code span."""


def render(table: Table, page: Page) -> str:
    """Return the table as Markdown; the page does not matter."""
    del page
    parts = [
        "\n".join(_caption(table)),
        "\n".join(_rows(table)),
        "\n".join(_failures(table)),
        "\n".join(_notes(table)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """Return foreign text so that it stays one piece of text, in a table's cell too."""
    text = shown(text)
    if HARMLESS.fullmatch(text) or not text:
        return text
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}".replace("|", r"\|")


def aligned(columns: views_columns.Columns) -> Iterator[str]:
    """Yield the lines of a table."""
    padded = []
    for column in (*columns.left, *columns.right):
        figures = column.kind == "figures"
        texts = column.joined if figures else map(_cell, column.joined)
        texts = [plain(column.title), *texts]
        width = max(3, *map(len, texts))
        place = str.rjust if figures else str.ljust
        head, *body = (place(text, width) for text in texts)
        ruler = "-" * (width - 1) + ":" if figures else ":" + "-" * (width - 1)
        padded.append([head, ruler, *body])
    for line in zip(*padded, strict=True):
        yield f"| {' | '.join(line)} |"


def _cell(text: str) -> str:
    return text if text == run.ABSENT else plain(text)


def _caption(table: Table) -> Iterator[str]:
    name = plain(run.title(table))
    cells = run.plural(len(table.cells), "cell")
    origin = run.origin(table)
    where = f", {plain(origin)}" if origin else ""
    yield f"**{name}**{where}: {cells}; {run.progress(table.progress)}."
    yield from run.everywhere(table, plain)
    same = run.constants(table)
    if same:
        yield ", ".join(f"{plain(key)} {plain(value)}" for key, value in same.items()) + "."
    if made := table.plan or table.imported:
        yield f"Made by {plain(made.command)}."


def _rows(table: Table) -> Iterator[str]:
    if table.rows:
        yield from aligned(views_columns.of_table(table, FANCY.plus_minus))


def _failures(table: Table) -> Iterator[str]:
    if not table.failures:
        return
    count = sum(failure.sessions for failure in table.failures)
    yield f"**Without a number: {run.plural(count, 'session')}**"
    yield ""
    yield from aligned(views_columns.of_failures(table))


def _notes(table: Table) -> Iterator[str]:
    for notice in table.notices:
        yield f"- {plain(notice)}"
    if not table.rows:
        return
    if stopped := run.stops(table, FANCY.plus_minus):
        yield f"- {stopped}"
    for line in run.legend(table, FANCY.plus_minus):
        yield f"- {line}"
