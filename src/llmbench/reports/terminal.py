"""A table as aligned text, which any terminal shows and a pipe passes on.

Metrics that do not fit beside the others stand in a further block, under the same rows' names.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rich.cells import cell_len

from llmbench.redact import shown
from llmbench.reports import _words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llmbench.reports import Page
    from llmbench.table import Table

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


def render(table: Table, page: Page) -> str:
    """Return the table as lines of text, none longer than the page is wide if that can be done."""
    signs = signs_for(page.encoding)
    parts = [
        "\n".join(_caption(table, page)),
        *_blocks(table, page, signs),
        "\n".join(_failures(table, page)),
        "\n".join(_notes(table, page, signs)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def signs_for(encoding: str) -> Signs:
    """Return the signs that an encoding can say."""
    try:
        "".join(FANCY).encode(encoding)
    except UnicodeEncodeError:
        return ASCII
    return FANCY


def _caption(table: Table, page: Page) -> Iterator[str]:
    name = shown(_words.title(table))
    cells = _words.plural(len(table.cells), "cell")
    yield from _wrapped(f"{name}: {cells}; {_words.progress(table.progress)}", page, BOLD)
    if table.plan:
        yield from _wrapped(shown(table.plan.why), page)
    same = _words.constants(table)
    if same:
        yield from _wrapped(", ".join(f"{key} {shown(value)}" for key, value in same.items()), page)


def _blocks(table: Table, page: Page, signs: Signs) -> Iterator[str]:
    rows = table.rows
    if not rows:
        if table.progress.ended:
            yield "No cell has a valid session."
        return
    left = list(_axes(table, rows, signs))
    right = [*_metrics(table, rows, signs), *_sides(table, rows), *_warnings(table, rows)]
    while right:
        count = _fitting(left, right, page.width)
        yield _block(left + right[:count], page, signs)
        right = right[count:]


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


def _axes(table: Table, rows: Sequence[int], signs: Signs) -> Iterator[Column]:
    for axis in table.axes:
        values = [axis.values[row] for row in rows]
        head = _words.head(axis.name)
        if all(isinstance(value, int | float) for value in values):
            yield _figures((head, ""), list(map(str, values)))
        else:
            texts = [_cut(shown(_words.value_of(value)), signs.dots) for value in values]
            yield _foreign(head, texts)
    counts = _words.session_counts(table)
    if counts:
        yield _figures(("sessions", ""), counts)


def _metrics(table: Table, rows: Sequence[int], signs: Signs) -> Iterator[Column]:
    for numbers in table.headline:
        figures = _words.figures(numbers, rows, signs.plus_minus)
        texts = _figures(("", ""), figures.values).texts
        if any(figures.spreads):
            spreads = _figures(("", ""), figures.spreads, str.ljust).texts
            texts = list(map(" ".join, zip(texts, spreads, strict=True)))
        yield _figures((numbers.metric.label, numbers.metric.unit.word), texts)


def _sides(table: Table, rows: Sequence[int]) -> Iterator[Column]:
    for words in _words.sides(table):
        texts = [words.values[row] or _words.ABSENT for row in rows]
        yield _figures(words.head, texts, str.ljust)


def _warnings(table: Table, rows: Sequence[int]) -> Iterator[Column]:
    texts = [_words.warnings(table.warnings[row], int(table.valid[row])) for row in rows]
    if any(texts):
        yield _foreign("warnings", [shown(text) for text in texts])


def _figures(head: tuple[str, str], texts: list[str], place: Place = str.rjust) -> Column:
    """Return a column of our own signs, each of which is one cell wide."""
    width = max(map(len, (*head, *texts)))
    return Column(head, [place(text, width) for text in texts], width)


def _foreign(head: str, texts: list[str]) -> Column:
    """Return a column of names from anywhere, whose characters may be two cells wide."""
    width = max(map(cell_len, (head, *texts)))
    padded = [text + " " * (width - cell_len(text)) for text in texts]
    return Column((head.ljust(width), ""), padded, width)


def _cut(text: str, dots: str) -> str:
    if len(text) <= LONGEST_NAME:
        return text
    half = (LONGEST_NAME - len(dots)) // 2
    return text[:half] + dots + text[-half:]


def _failures(table: Table, page: Page) -> Iterator[str]:
    if not table.failures:
        return
    count = sum(failure.sessions for failure in table.failures)
    yield from _wrapped(f"Without a number: {_words.plural(count, 'session')}", page, YELLOW)
    for failure in table.failures:
        text = f"{failure.sessions:>4}  {_words.how(failure)}: {shown(failure.reason)}"
        yield from _wrapped(text, page, indent=6)
        cells = "; ".join(_words.cells_of(failure, table))
        yield from _wrapped(f"      {shown(cells)}", page, indent=6)


def _notes(table: Table, page: Page, signs: Signs) -> Iterator[str]:
    for notice in table.notices:
        yield from _wrapped(shown(notice), page, YELLOW)
    if not table.rows:
        return
    if table.everywhere:
        yield from _wrapped(
            f"Every number: {', '.join(map(shown, table.everywhere))}.", page, YELLOW
        )
    for line in _words.legend(table, signs.plus_minus):
        yield from _wrapped(line, page, indent=2)


def _wrapped(text: str, page: Page, style: str = "", indent: int = 0) -> list[str]:
    """Return a text as lines of the page's width, styled if the page is."""
    lines = [text]
    if page.width is not None:
        lines = textwrap.wrap(
            text, page.width, subsequent_indent=" " * indent, drop_whitespace=True
        )
    return [f"{style}{line}{PLAIN}" if style and page.colour else line for line in lines]
