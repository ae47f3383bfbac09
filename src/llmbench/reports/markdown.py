"""A table as Markdown that pastes into an issue: aligned source, pipes escaped, names in code spans."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmbench.redact import shown
from llmbench.reports import _words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.reports import Page
    from llmbench.table import Axis, Table

PLUS_MINUS = "±"

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


def coordinates(axis: Axis, rows: Sequence[int]) -> list[str]:
    """Return the column of one coordinate of the cells: its head, its ruler, its texts."""
    values = [axis.values[row] for row in rows]
    numeric = all(isinstance(value, int | float) for value in values)
    ruler = "--:" if numeric else ":--"
    return [_words.head(axis.name), ruler, *(plain(_words.value_of(value)) for value in values)]


def aligned(columns: Sequence[list[str]]) -> Iterator[str]:
    """Yield the lines of a table; each column is its head, its ruler, and its texts."""
    padded = []
    for column in columns:
        width = max(map(len, column))
        to_the_right = column[1].endswith(":")
        texts = [text.rjust(width) if to_the_right else text.ljust(width) for text in column]
        texts[1] = "-" * (width - 1) + ":" if to_the_right else ":" + "-" * (width - 1)
        padded.append(texts)
    for line in zip(*padded, strict=True):
        yield f"| {' | '.join(line)} |"


def _caption(table: Table) -> Iterator[str]:
    name = plain(_words.title(table))
    cells = _words.plural(len(table.cells), "cell")
    yield f"**{name}**: {cells}; {_words.progress(table.progress)}."
    same = _words.constants(table)
    if same:
        yield ", ".join(f"{key} {plain(value)}" for key, value in same.items()) + "."
    if made := table.plan or table.imported:
        yield f"Made by {plain(made.command)}."


def _rows(table: Table) -> Iterator[str]:
    rows = table.rows
    if not rows:
        return
    columns = [
        *_axes(table, rows),
        *_numbers(table, rows),
        *_sides(table, rows),
        *_warnings(table, rows),
    ]
    yield from aligned(columns)


def _axes(table: Table, rows: Sequence[int]) -> Iterator[list[str]]:
    for axis in table.axes:
        yield coordinates(axis, rows)
    counts = _words.session_counts(table)
    if counts:
        yield ["sessions", "--:", *counts]


def _numbers(table: Table, rows: Sequence[int]) -> Iterator[list[str]]:
    for numbers in table.headline:
        figures = _words.figures(numbers, rows, PLUS_MINUS)
        head = f"{numbers.metric.label} ({numbers.metric.unit.word})"
        yield [head, "--:", *(" ".join(pair).rstrip() for pair in zip(*figures, strict=True))]


def _sides(table: Table, rows: Sequence[int]) -> Iterator[list[str]]:
    for words in _words.sides(table):
        texts = [words.values[row] or _words.ABSENT for row in rows]
        yield [" ".join(words.head).strip(), ":--", *texts]


def _warnings(table: Table, rows: Sequence[int]) -> Iterator[list[str]]:
    texts = [_words.warnings(table.warnings[row], int(table.valid[row])) for row in rows]
    if any(texts):
        yield ["warnings", ":--", *(plain(text) for text in texts)]


def _failures(table: Table) -> Iterator[str]:
    if not table.failures:
        return
    count = sum(failure.sessions for failure in table.failures)
    yield f"**Without a number: {_words.plural(count, 'session')}**"
    yield ""
    heads = (["sessions", "--:"], ["how", ":--"], ["why", ":--"], ["cells", ":--"])
    rows = [
        (
            str(failure.sessions),
            plain(_words.how(failure)),
            plain(failure.reason),
            plain("; ".join(_words.cells_of(failure, table))),
        )
        for failure in table.failures
    ]
    texts = zip(*rows, strict=True)
    yield from aligned([[*head, *column] for head, column in zip(heads, texts, strict=True)])


def _notes(table: Table) -> Iterator[str]:
    for notice in table.notices:
        yield f"- {plain(notice)}"
    if not table.rows:
        return
    if table.everywhere:
        yield f"- Every number: {', '.join(map(plain, table.everywhere))}."
    if stopped := _words.stops(table, PLUS_MINUS):
        yield f"- {stopped}"
    for line in _words.legend(table, PLUS_MINUS):
        yield f"- {line}"
