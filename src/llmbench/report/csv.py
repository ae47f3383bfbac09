"""A document as CSV: its sheet, keys as heads. Text that a spreadsheet would run gets an apostrophe in front."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from llmbench.redact import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmbench.report import Page
    from llmbench.report.document import Document

FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")
"""Characters at which a spreadsheet may begin to read a formula or a command."""


def render(document: Document, page: Page) -> str:
    """Return the sheet as CSV; the page does not matter."""
    del page
    columns = [(key, _column(values)) for key, values in document.sheet]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(safe(key) for key, _ in columns)
    writer.writerows(zip(*(fields for _, fields in columns), strict=True))
    return stream.getvalue()


def safe(text: str) -> str:
    """Return foreign text as a spreadsheet takes it for text."""
    text = shown(text)
    return f"'{text}" if text.startswith(FORMULA) else text


def _column(values: Sequence[object]) -> Iterable[object]:
    """Return the fields of a column: an array, which holds measured numbers, with nine digits, NaN empty."""
    if hasattr(values, "tolist"):
        return ["" if value != value else f"{value:.9g}" for value in values.tolist()]  # noqa: PLR0124 - NaN
    texts = {
        text: safe(text) for text in {value for value in values if type(value) is str}
    }  # most are repeated
    return [texts[value] if type(value) is str else _field(value) for value in values]


def _field(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return "" if value != value else value  # noqa: PLR0124 - NaN
    return safe("; ".join(map(str, value)) if isinstance(value, list) else str(value))
