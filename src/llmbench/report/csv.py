"""A table as CSV: every cell a row, every coordinate and metric a column, units in the heads.

Text that a spreadsheet would run as a formula is given an apostrophe in front.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from llmbench.redact import shown
from llmbench.results.table import AXES_AFTER, AXES_BEFORE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report import Page
    from llmbench.results.table import Numbers, Reals, Table

FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")
"""What a spreadsheet may take for the beginning of a formula or a command."""


def render(table: Table, page: Page) -> str:
    """Return the table as CSV; the page does not matter."""
    del page
    columns = [
        *_coordinates(table),
        *_sessions(table),
        *_metrics(table),
        *_sides(table),
        *_codes(table),
    ]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head for head, _ in columns)
    writer.writerows(zip(*(texts for _, texts in columns), strict=True))
    return stream.getvalue()


def safe(text: str) -> str:
    """Return foreign text so that it stays text in a spreadsheet."""
    text = shown(text)
    return f"'{text}" if text.startswith(FORMULA) else text


def _coordinates(table: Table) -> Iterator[tuple[str, Sequence[object]]]:
    yield "cell", [safe(cell.id) for cell in table.cells]
    for name in AXES_BEFORE:
        yield name, [safe(str(getattr(cell, name))) for cell in table.cells]
    for name in dict.fromkeys(name for cell in table.cells for name in cell.options):
        yield safe(name), [safe(str(cell.options.get(name, ""))) for cell in table.cells]
    for name in AXES_AFTER:
        values = [getattr(cell, name) for cell in table.cells]
        yield name, [safe(value) if isinstance(value, str) else value for value in values]


def _sessions(table: Table) -> Iterator[tuple[str, Sequence[object]]]:
    yield "sessions_valid", table.valid.tolist()
    failed: Counter[str] = Counter()
    for failure in table.failures:
        failed.update(failure.cells)
    yield "sessions_without_number", [failed[cell.id] for cell in table.cells]
    yield "sessions_to_come", table.to_come.tolist()
    yield "stopped", [stop.reason if stop else "" for stop in table.stops]


def _metrics(table: Table) -> Iterator[tuple[str, Sequence[object]]]:
    for numbers in table.numbers:
        key = numbers.metric.key
        yield key, _texts(numbers.middle)
        if numbers.metric.over == "mean":
            yield from _around(key, numbers)


def _sides(table: Table) -> Iterator[tuple[str, Sequence[object]]]:
    for words in table.sides:
        yield words.key, words.values


def _around(key: str, numbers: Numbers) -> Iterator[tuple[str, Sequence[object]]]:
    yield f"{key}_low", _texts(numbers.middle / (1 + numbers.half_width))
    yield f"{key}_high", _texts(numbers.middle * (1 + numbers.half_width))
    if np.isfinite(numbers.spread).any():
        yield f"{key}_half_range_in_process", _texts(numbers.middle * numbers.spread)


def _texts(values: Reals) -> list[str]:
    """Return numbers with nine digits; what is absent is empty."""
    return ["" if value != value else f"{value:.9g}" for value in values.tolist()]  # noqa: PLR0124 - NaN


def _codes(table: Table) -> Iterator[tuple[str, Sequence[object]]]:
    always = " ".join(table.everywhere)
    yield (
        "warnings",
        [
            safe(" ".join((always, *codes)).strip()) if valid else ""
            for codes, valid in zip(table.warnings, table.valid.tolist(), strict=True)
        ],
    )
    ends: defaultdict[str, list[str]] = defaultdict(list)
    for failure in table.failures:
        how = f"{failure.status}/{failure.phase}" if failure.phase else str(failure.status)
        for name, count in failure.cells.items():
            ends[name].append(f"{count} {how}")
    yield "failures", [safe("; ".join(ends[cell.id])) for cell in table.cells]
