"""A document as Markdown that pastes into an issue: aligned source, pipes escaped, foreign words in code spans."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmbench.redact import shown
from llmbench.report.document import ABSENT, FROM, TO, Note, Plot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.report import Page
    from llmbench.report.document import Column, Document, Grid, Section

HARMLESS = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9 .,:;%()/+=-]|(?<=[A-Za-z0-9])[@_](?=[A-Za-z0-9]))*"
)
"""Text in which Markdown finds nothing to do; all other foreign text goes into a code span."""

MARKED = re.compile(f"{FROM}([^{TO}]*){TO}")


def render(document: Document, page: Page) -> str:
    """Return the document as Markdown; the page does not matter."""
    del page
    parts = ["\n".join(_head(document))]
    for section in document.sections:
        if not section.detail:
            parts += _section(section)
    parts.append("\n".join(f"- {sentence(note.text)}" for note in document.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """Return foreign text as one piece of text, in a table's cell too."""
    text = shown(text)
    if HARMLESS.fullmatch(text) or not text:
        return text
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}".replace("|", r"\|")


def sentence(text: str) -> str:
    """Return a sentence of ours with its foreign words made plain; nothing else in it can act either."""
    pieces = MARKED.split(text)
    return "".join(
        plain(piece) if number % 2 else shown(piece).replace("<", r"\<").replace("|", r"\|")
        for number, piece in enumerate(pieces)
    )


def _head(document: Document) -> Iterator[str]:
    if document.title:
        yield f"**{sentence(document.title)}**"
    lines = [sentence(note.text) for note in document.about]
    if document.facts:
        same = (f"{plain(name)} {plain(value)}" for name, value in document.facts.items())
        lines.append(f"{', '.join(same)}.")
    if document.title and lines:
        yield ""
    yield from lines


def _section(section: Section) -> Iterator[str]:
    if section.title:
        yield f"**{sentence(section.title)}**"
    listed: list[str] = []
    for block in section.blocks:
        if isinstance(block, Note):
            listed.append(f"- {sentence(block.text)}")
            continue
        yield "\n".join(listed)
        listed = []
        table = block.table if isinstance(block, Plot) else block
        yield "\n".join(_table(table))
    yield "\n".join(listed)


def _table(table: Grid) -> Iterator[str]:
    """Yield the lines of a table."""
    padded = []
    for column in table.columns:
        number = column.kind == "number"
        texts = [plain(column.title), *_texts(column)]
        width = max(3, *map(len, texts))
        head, *body = (text.rjust(width) if number else text.ljust(width) for text in texts)
        ruler = "-" * (width - 1) + ":" if number else ":" + "-" * (width - 1)
        padded.append([head, ruler, *body])
    for line in zip(*padded, strict=True):
        yield f"| {' | '.join(line)} |"


def _texts(column: Column) -> Iterator[str]:
    if column.kind == "number":
        return iter(column.joined)
    escaped = sentence if column.kind == "prose" else plain
    return (text if text == ABSENT else escaped(text) for text in column.texts)
