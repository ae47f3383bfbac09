"""Columns of text side by side, as wide as a terminal allows, in characters that it can show."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rich.cells import cell_len

from llmbench.redact import shown
from llmbench.reports import _words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llmbench.reports import Page
    from llmbench.table import Axis

Place: TypeAlias = "Callable[[str, int], str]"

LONGEST_NAME = 40
"""A longer name is cut in its middle; the end of a path tells as much as its beginning."""
GAP = "  "
BOLD, YELLOW, PLAIN = "\x1b[1m", "\x1b[33m", "\x1b[0m"


class Signs(NamedTuple):
    """The characters beyond ASCII that a table uses, or what stands for them where they cannot be shown."""

    plus_minus: str
    line: str
    dots: str


FANCY, ASCII = Signs("±", "─", "…"), Signs("+-", "-", "...")


class Column(NamedTuple):
    """A head of two lines and a text for each row, all of one width."""

    head: tuple[str, str]
    texts: list[str]
    width: int


def signs_for(encoding: str) -> Signs:
    """Return the signs that an encoding can say."""
    try:
        "".join(FANCY).encode(encoding)
    except UnicodeEncodeError:
        return ASCII
    return FANCY


def blocks(
    left: Sequence[Column], right: Sequence[Column], page: Page, signs: Signs
) -> Iterator[str]:
    """Yield the columns side by side; those that do not fit follow in further blocks, beside the same left ones."""
    while right:
        count = _fitting(left, right, page.width)
        yield _block([*left, *right[:count]], page, signs)
        right = right[count:]


def axis(axis: Axis, rows: Sequence[int], signs: Signs) -> Column:
    """Return the column of one coordinate of the cells."""
    values = [axis.values[row] for row in rows]
    head = _words.head(axis.name)
    if all(isinstance(value, int | float) for value in values):
        return figures((head, ""), list(map(str, values)))
    return foreign(head, [cut(shown(_words.value_of(value)), signs.dots) for value in values])


def figures(head: tuple[str, str], texts: list[str], place: Place = str.rjust) -> Column:
    """Return a column of our own signs, each of which is one cell wide."""
    width = max(map(len, (*head, *texts)))
    return Column(head, [place(text, width) for text in texts], width)


def foreign(head: str, texts: list[str]) -> Column:
    """Return a column of names from anywhere, whose characters may be two cells wide."""
    width = max(map(cell_len, (head, *texts)))
    padded = [text + " " * (width - cell_len(text)) for text in texts]
    return Column((head.ljust(width), ""), padded, width)


def cut(text: str, dots: str) -> str:
    """Return a name without its middle if it is long."""
    if len(text) <= LONGEST_NAME:
        return text
    half = (LONGEST_NAME - len(dots)) // 2
    return text[:half] + dots + text[-half:]


def wrapped(text: str, page: Page, style: str = "", indent: int = 0) -> list[str]:
    """Return a text as lines of the page's width, styled if the page is."""
    lines = [text]
    if page.width is not None:
        lines = textwrap.wrap(
            text, page.width, subsequent_indent=" " * indent, drop_whitespace=True
        )
    return [f"{style}{line}{PLAIN}" if style and page.colour else line for line in lines]


def _fitting(left: Sequence[Column], right: Sequence[Column], width: int | None) -> int:
    """Return how many of the columns fit beside those on the left; one at least."""
    if width is None:
        return len(right)
    used = sum(column.width + len(GAP) for column in left) - len(GAP)
    for count, column in enumerate(right):
        used += column.width + len(GAP)
        if used > width:
            return max(1, count)
    return len(right)


def _block(columns: Sequence[Column], page: Page, signs: Signs) -> str:
    heads = [
        GAP.join(column.head[line].rjust(column.width) for column in columns).rstrip()
        for line in (0, 1)
    ]
    rule = GAP.join(signs.line * column.width for column in columns)
    body = map(GAP.join, zip(*(column.texts for column in columns), strict=True))
    styled = [f"{BOLD}{line}{PLAIN}" if page.colour and line else line for line in heads if line]
    return "\n".join([*styled, rule, *(line.rstrip() for line in body)])
