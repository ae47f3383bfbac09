"""Plain facts as text: rows aligned for a terminal, as Markdown, as CSV, as JSON; or one thing with all it has.

Figures are rounded for people only: CSV and JSON carry the numbers themselves.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llmbench.redact import shown, spelled
from llmbench.report import Page, layout, screen
from llmbench.report.csv import safe
from llmbench.report.markdown import aligned
from llmbench.report.views import columns as _columns
from llmbench.report.views.columns import Columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


ABSENT = "-"
INDENT = "  "
SHORT = 40
"""Characters of a list's item that still leave the list on one line."""


class Column(NamedTuple):
    """One fact of every row: its key, its head for people, and how a number is shown to them."""

    key: str
    head: str
    figure: Callable[[Any], str] | None = None


def rows(
    columns: Sequence[Column], facts: Sequence[Mapping[str, Any]], format: str, names: int = 1
) -> str:
    """Return rows as text in one of the formats, with its last newline.

    The first `names` columns say which row is which: a narrow screen repeats them beside what does not fit.
    """
    if format == "terminal":
        return _terminal(columns, facts, names)
    return _FORMATS[format](columns, facts)


def wrapped(lines: Iterable[str], format: str = "terminal") -> str:
    """Return sentences, a line or more each, as wide as the screen if they are for one."""
    page = screen() if format == "terminal" else Page()
    return "".join(
        f"{part}\n"
        for line in lines
        for part in (layout.wrapped(line, page, indent=2) if line else [""])
    )


def columns(
    columns: Sequence[Column], facts: Sequence[Mapping[str, Any]], names: int = 0
) -> Columns:
    """Return rows as the columns that every report can lay out."""
    found = [
        _columns.Column(
            column.head,
            [_text(column, row[column.key]) for row in facts],
            "figures" if column.figure else "words",
        )
        for column in columns
    ]
    return Columns(found[:names], found[names:])


def one(facts: Mapping[str, Any]) -> str:
    """Return everything about one thing, a line or more a fact; what is not known is left out."""
    page = screen()
    return "".join(
        f"{part}\n"
        for line in _lines(facts, 0)
        for part in layout.wrapped(line, page, indent=len(line) - len(line.lstrip()) + len(INDENT))
    )


def json(value: object) -> str:
    """Return a value as indented JSON."""
    return spelled(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()) + "\n"


def _text(column: Column, value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return column.figure(value) if column.figure else str(value)


def _terminal(named: Sequence[Column], facts: Sequence[Mapping[str, Any]], names: int) -> str:
    found = columns(named, facts, names)
    return "\n".join(f"{block}\n" for block in layout.blocks(found, screen(), layout.ASCII))


def _markdown(named: Sequence[Column], facts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"{line}\n" for line in aligned(columns(named, facts)))


def _csv(columns: Sequence[Column], facts: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(safe(column.key) for column in columns)
    writer.writerows([_csv_cell(row[column.key]) for column in columns] for row in facts)
    return stream.getvalue()


def _csv_cell(value: Any) -> object:
    if value is None or isinstance(value, int | float):
        return value
    return safe("; ".join(map(str, value)) if isinstance(value, list) else str(value))


def _json(_columns: Sequence[Column], facts: Sequence[Mapping[str, Any]]) -> str:
    return json(facts)


_FORMATS: Mapping[str, Callable[[Sequence[Column], Sequence[Mapping[str, Any]]], str]] = {
    "markdown": _markdown,
    "csv": _csv,
    "json": _json,
}


def _lines(facts: Mapping[str, Any], depth: int) -> Iterator[str]:
    indent = INDENT * depth
    for key, value in facts.items():
        name = f"{indent}{shown(key.replace('_', ' ') if depth == 0 else key)}:"
        if value is None or value in ({}, []):
            continue
        if isinstance(value, dict):
            yield name
            yield from _lines(value, depth + 1)
        elif isinstance(value, list) and not _short(value):
            yield name
            for item in value:
                yield from _item(item, depth + 1)
        else:
            yield f"{name} {shown(_plain(value))}"


def _short(items: Sequence[object]) -> bool:
    """Return whether a list reads well in one line."""
    return all(isinstance(item, int | float | str) and len(str(item)) <= SHORT for item in items)


def _item(item: object, depth: int) -> Iterator[str]:
    """Yield one item of a list, marked as such in its first line."""
    indent = INDENT * depth
    if not isinstance(item, dict):
        yield f"{indent}- {shown(str(item))}"
        return
    for number, line in enumerate(_lines(item, depth + 1)):
        yield line if number else f"{indent}- {line.removeprefix(indent + INDENT)}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.0f}" if abs(value) >= 1 and value == int(value) else str(value)
    return str(value)
