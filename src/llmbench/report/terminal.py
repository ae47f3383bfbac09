"""A document as aligned text, which any terminal shows and a pipe passes on.

Numbers that do not fit stand in a further block, after the same keys. Where several columns hold long
words, these stand below their row.
"""

from __future__ import annotations

import textwrap
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len

from llmbench.redact import shown
from llmbench.report.document import ABSENT, Note, Plot, cut, unmarked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llmbench.report import Page
    from llmbench.report.document import Column, Document, Grid, Section

LONG_WORDS = 36
"""Words of more characters may stand below their row."""
READABLE = 100
"""Columns of lines that are wrapped where nothing says how wide the screen is."""
GAP, BELOW = "  ", "    "
BOLD, YELLOW, PLAIN = "\x1b[1m", "\x1b[33m", "\x1b[0m"
STYLES = {"strong": BOLD, "warning": YELLOW}

RULE = "─"
ASCII = str.maketrans({"±": "+-", "─": "-", "…": "...", "–": "-", "≥": ">=", "≤": "<="})  # noqa: RUF001 - a range's own sign
"""Our signs beyond ASCII, and what stands for them where they cannot be shown."""


class PlacedColumn(NamedTuple):
    """A column with a head of two lines and a text for each row, all of one width."""

    title: str
    head: tuple[str, str]
    texts: list[str]
    width: int
    breaks: bool

    @property
    def long(self) -> bool:
        """Return whether these are words that may stand below their row."""
        return self.breaks and self.width > LONG_WORDS


def render(document: Document, page: Page) -> str:
    """Return the document as lines of text, none longer than the page is wide if that can be done."""
    sign = _signs(page.encoding)
    shown_here = [section for section in document.sections if not section.detail]
    parts = [
        "\n".join(_head(document, page, sign)),
        *("\n".join(_section(section, page, sign)) for section in shown_here),
        "\n".join(line for note in document.notes for line in _note(note, page, sign)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _signs(encoding: str) -> Callable[[str], str]:
    """Return a function that spells our signs in an encoding."""
    try:
        "±─…–≥≤".encode(encoding)  # noqa: RUF001 - a range's own sign
    except UnicodeEncodeError:
        return lambda text: text.translate(ASCII)
    return lambda text: text


def _head(document: Document, page: Page, sign: Callable[[str], str]) -> Iterator[str]:
    if document.title:
        yield from _note(Note(document.title, "strong"), page, sign)
    for note in document.about:
        yield from _note(note, page, sign)
    if document.facts:
        same = (f"{shown(name)} {shown(value)}" for name, value in document.facts.items())
        yield from _note(Note(", ".join(same)), page, sign)


def _note(note: Note, page: Page, sign: Callable[[str], str]) -> Iterator[str]:
    style = STYLES.get(note.level, "") if page.colour else ""
    for line in _wrapped(sign(unmarked(note.text)), page.width, "  "):
        yield f"{style}{line}{PLAIN}" if style else line


def _wrapped(text: str, width: int | None, indent: str, first: str = "") -> list[str]:
    """Return a text as lines, the further ones indented; one line if there is no width."""
    if width is None:
        return [first + text]
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent)


def _section(section: Section, page: Page, sign: Callable[[str], str]) -> Iterator[str]:
    """Yield the lines of a section: notes one below the other, a table between empty lines."""
    if section.title:
        yield from _note(Note(section.title, "strong"), page, sign)
    before: object = None
    for block in section.blocks:
        if before is not None and not (isinstance(block, Note) and isinstance(before, Note)):
            yield ""
        before = block
        if isinstance(block, Note):
            yield from _note(block, page, sign)
        else:
            table = block.table if isinstance(block, Plot) else block
            yield "\n\n".join(_table(table, page, sign))


def _table(table: Grid, page: Page, sign: Callable[[str], str]) -> Iterator[str]:
    """Yield a table as blocks, each with the keys; a further one leaves out rows of which it has nothing to say."""
    placed = [_placed(column, sign) for column in table.columns]
    keys, right = placed[: table.keys], placed[table.keys :]
    if right and _fitting([], keys, page.width) < len(keys):
        used = sum(column.width for column in (*keys, right[0])) + len(GAP) * len(keys)
        beyond = used - (page.width or 0)
        keys = [_narrowed(key, key.width - beyond) if key.long else key for key in keys]
    below = [column for column in right if column.long]
    if len(below) < 2 or _fitting(keys, right, page.width or READABLE) == len(right):
        below = []
    right = [column for column in right if column not in below]
    rows: Sequence[int] = range(len(table))
    while right or below:
        count = _fitting(keys, right, page.width)
        last = count == len(right)
        columns = [*keys, *right[:count]]
        yield _block(columns, below if last else (), rows, page, sign(RULE))
        right = right[count:]
        below = below if not last else []
        rows = [row for row in rows if any(one.texts[row].strip() for one in (*right, *below))]


def _placed(column: Column, sign: Callable[[str], str]) -> PlacedColumn:
    """Return a column with all its texts of one width; characters of foreign ones may be two cells wide."""
    title = shown(column.title)
    first, _, second = column.head.partition("\n")
    head = cut(shown(first), dots=sign("…")), shown(second or column.unit)
    if column.kind == "number":
        texts = [sign(text) for text in _numbers(column)]
        width = max(map(len, (*head, *texts)))
        texts = [text.rjust(width) for text in texts]
        return PlacedColumn(
            column.title, (head[0].rjust(width), head[1].rjust(width)), texts, width, breaks=False
        )
    harmless = unmarked if column.kind == "prose" else shown
    texts = [sign(harmless(text)) for text in column.texts]
    if column.kind == "name":
        texts = [cut(text, dots=sign("…")) for text in texts]
    width = max(map(cell_len, (*head, *texts)))
    return PlacedColumn(
        title,
        (_padded(head[0], width), _padded(head[1], width)),
        [_padded(text, width) for text in texts],
        width,
        breaks=column.kind != "name",
    )


def _narrowed(column: PlacedColumn, width: int) -> PlacedColumn:
    """Return a column of long words with texts of several lines, which remains wide enough to read."""
    width = max(LONG_WORDS, width)
    texts = ["\n".join(textwrap.wrap(text, width, break_on_hyphens=False)) for text in column.texts]
    first, second = (_padded(line.rstrip(), width) for line in column.head)
    return column._replace(head=(first, second), texts=texts, width=width)


def _numbers(column: Column) -> list[str]:
    """Return numbers to the right, and the spreads behind them to the left of a place of their own."""
    if not column.spreads:
        return list(column.texts)
    width = max(map(len, column.texts), default=0)
    behind = max(map(len, column.spreads), default=0)
    pairs = zip(column.texts, column.spreads, strict=True)
    return [f"{text:>{width}} {spread:<{behind}}" for text, spread in pairs]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _fitting(keys: Sequence[PlacedColumn], right: Sequence[PlacedColumn], width: int | None) -> int:
    """Return how many of the columns fit next to the keys; one at least, if there is one."""
    if width is None:
        return len(right)
    used = sum(column.width + len(GAP) for column in keys) - len(GAP)
    for count, column in enumerate(right):
        used += column.width + len(GAP)
        if used > width:
            return max(1, count)
    return len(right)


def _block(
    columns: Sequence[PlacedColumn],
    below: Sequence[PlacedColumn],
    rows: Sequence[int],
    page: Page,
    rule: str,
) -> str:
    """Return columns side by side; words below their row begin with their heads."""
    heads = [GAP.join(column.head[line] for column in columns).rstrip() for line in (0, 1)]
    ruler = GAP.join(rule * column.width for column in columns)
    lines = [f"{BOLD}{line}{PLAIN}" if page.colour and line else line for line in heads if line]
    lines.append(ruler[: page.width])
    for place, row in enumerate(rows):
        if below and place:
            lines.append("")
        row_lines = _row_lines(columns, row)
        too_long = page.width is not None and len(ruler) > page.width and columns[-1].breaks
        if too_long and len(row_lines) == 1:
            before = len(ruler) - columns[-1].width
            row_lines = _broken(row_lines[0], page.width or 0, before)
        lines += row_lines
        for column in below:
            if (text := column.texts[row].strip()) not in {"", ABSENT}:
                entry = f"{column.title}: {text}"
                lines += _wrapped(entry, page.width or READABLE, BELOW + GAP, BELOW)
    return "\n".join(lines)


def _row_lines(columns: Sequence[PlacedColumn], row: int) -> list[str]:
    """Return a row as lines: one, or as many as its longest narrowed text has."""
    parts = zip_longest(*(column.texts[row].split("\n") for column in columns), fillvalue="")
    return [
        GAP.join(
            _padded(text, column.width) for text, column in zip(line, columns, strict=True)
        ).rstrip()
        for line in parts
    ]


def _broken(line: str, width: int, before: int) -> list[str]:
    """Return a row whose last column is too wide as lines, the further ones beneath that column."""
    indent = " " * min(before, width // 2)
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
