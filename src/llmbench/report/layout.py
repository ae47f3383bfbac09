"""Columns of text side by side, as wide as a terminal allows, in characters that it can show."""

from __future__ import annotations

import textwrap
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len

from llmbench.redact import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report import Page
    from llmbench.report.views.columns import Column, Columns

LONGEST_NAME = 40
"""A longer name is cut in its middle; the end of a path tells as much as its beginning."""
GAP = "  "
BOLD, YELLOW, PLAIN = "\x1b[1m", "\x1b[33m", "\x1b[0m"


class Signs(NamedTuple):
    """The characters beyond ASCII that a table uses, or what stands for them where they cannot be shown."""

    plus_minus: str
    line: str
    dots: str
    dash: str


FANCY, ASCII = Signs("±", "─", "…", "–"), Signs("+-", "-", "...", "-")  # noqa: RUF001 - a range's own sign


class Placed(NamedTuple):
    """A head of two lines and a text for each row, all of one width; words may be broken into lines."""

    head: tuple[str, str]
    texts: list[str]
    width: int
    breaks: bool = False


def signs_for(encoding: str) -> Signs:
    """Return the signs that an encoding can say."""
    try:
        "".join(FANCY).encode(encoding)
    except UnicodeEncodeError:
        return ASCII
    return FANCY


def blocks(columns: Columns, page: Page, signs: Signs) -> Iterator[str]:
    """Yield the columns side by side; those that do not fit follow in further blocks, beside the same left ones.

    A further block leaves out the rows of which it has nothing to say.
    """
    left = [placed(column, signs) for column in columns.left]
    right = [placed(column, signs) for column in columns.right]
    rows: Sequence[int] = range(len(right[0].texts)) if right else ()
    while right:
        count = _fitting(left, right, page.width)
        yield _block([*left, *right[:count]], rows, page, signs)
        right = right[count:]
        rows = [row for row in rows if any(column.texts[row].strip() for column in right)]


def placed(column: Column, signs: Signs) -> Placed:
    """Return a column with all its texts of one width; characters of foreign ones may be two cells wide."""
    first, _, second = column.head.partition("\n")
    head = cut(shown(first), signs.dots), shown(second or column.unit)
    if column.kind == "figures":
        texts = _figures(column)
        width = max(map(len, (*head, *texts)))
        return Placed(head, [text.rjust(width) for text in texts], width)
    texts = list(map(shown, column.texts))
    if column.kind == "name":
        texts = [cut(text, signs.dots) for text in texts]
    width = max(map(cell_len, (*head, *texts)))
    return Placed(
        (_padded(head[0], width), _padded(head[1], width)),
        [_padded(text, width) for text in texts],
        width,
        breaks=column.kind == "words",
    )


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


def _figures(column: Column) -> list[str]:
    """Return figures to the right, and the spreads behind them to the left of a place of their own."""
    width = max(map(len, column.texts), default=0)
    texts = [text.rjust(width) for text in column.texts]
    behind = max(map(len, column.spreads), default=0)
    if not behind:
        return texts
    pairs = zip(texts, column.spreads, strict=True)
    return [f"{text} {spread.ljust(behind)}" for text, spread in pairs]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _fitting(left: Sequence[Placed], right: Sequence[Placed], width: int | None) -> int:
    """Return how many of the columns fit beside those on the left; one at least."""
    if width is None:
        return len(right)
    used = sum(column.width + len(GAP) for column in left) - len(GAP)
    for count, column in enumerate(right):
        used += column.width + len(GAP)
        if used > width:
            return max(1, count)
    return len(right)


def _block(columns: Sequence[Placed], rows: Sequence[int], page: Page, signs: Signs) -> str:
    heads = [
        GAP.join(column.head[line].rjust(column.width) for column in columns).rstrip()
        for line in (0, 1)
    ]
    rule = GAP.join(signs.line * column.width for column in columns)
    body = (GAP.join(column.texts[row] for column in columns).rstrip() for row in rows)
    styled = [f"{BOLD}{line}{PLAIN}" if page.colour and line else line for line in heads if line]
    if page.width is None or len(rule) <= page.width or not columns[-1].breaks:
        return "\n".join([*styled, rule, *body])
    before = len(rule) - columns[-1].width
    broken = chain.from_iterable(_broken(line, page.width, before) for line in body)
    return "\n".join([*styled, rule[: page.width], *broken])


def _broken(line: str, width: int, before: int) -> list[str]:
    """Return a row whose last column is too wide as lines, the further ones beneath that column."""
    indent = " " * min(before, width // 2)
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
