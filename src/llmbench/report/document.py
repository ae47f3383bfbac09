"""A command's answer, in no format: a title, facts, sections of tables, plots and notes, and data for programs.

A view makes a document, a renderer writes it. Nothing is worked out for a format that does not show it:
sections, notes and the sheet may be generators, and the data are a function.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llmbench.redact import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Kind: TypeAlias = Literal["number", "name", "words", "prose"]
"""The kind of a column's texts, which decides how they are placed and escaped.

A number is ours and stands to the right. Names and words come from anywhere; a long name may be cut, and
words may be broken into lines. Prose is ours, with foreign words marked."""

Outcome: TypeAlias = Literal["passed", "failure", "error", "skipped"]

ABSENT = "-"
"""The sign for a value that is not known."""

LONGEST_NAME = 40
"""A longer name is cut in its middle: its end tells as much as its beginning, and a legend has no room."""

FROM, TO = "\x0e", "\x0f"
"""Marks around foreign words inside a sentence of ours; text that was made harmless holds neither."""


def foreign(text: object) -> str:
    """Return words from anywhere, marked, to be put into a sentence of ours."""
    return f"{FROM}{shown(str(text))}{TO}"


def unmarked(text: str) -> str:
    """Return a sentence without its marks, in which nothing can act on a screen."""
    return shown(text.replace(FROM, "").replace(TO, ""))


def cut(text: str, longest: int = LONGEST_NAME, dots: str = "…") -> str:
    """Return a text without its middle, if it is long."""
    half = (longest - len(dots)) // 2
    return text if len(text) <= longest else f"{text[:half]}{dots}{text[-half:]}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        head: what stands above it, with a line break where a terminal may break it.
        texts: one for each row.
        kind: what the texts are.
        unit: of the numbers; empty if they have none.
        spreads: what stands behind each number, in a place of its own; empty if no number has a spread.

    """

    head: str
    texts: Sequence[str]
    kind: Kind = "number"
    unit: str = ""
    spreads: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Return the head in one line, with the unit."""
        head = self.head.replace("\n", " ")
        return f"{head} ({self.unit})" if self.unit else head

    @property
    def joined(self) -> Sequence[str]:
        """Return the texts, each with its spread."""
        if not self.spreads:
            return self.texts
        pairs = zip(self.texts, self.spreads, strict=True)
        return [f"{text} {spread}".rstrip() for text, spread in pairs]


@dataclass(frozen=True, slots=True)
class Grid:
    """Columns side by side; the first `keys` of them say which row is which."""

    columns: Sequence[Column]
    keys: int = 1

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns[0].texts) if self.columns else 0


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot in Vega-Lite's grammar, and the table of what it shows, which is all that other formats have.

    Attributes:
        spec: the plot.
        table: the same numbers.
        caption: how to read the plot, a paragraph a line.

    """

    spec: Mapping[str, Any]
    table: Grid
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence or more: what must be held against numbers is a warning, what signs mean is a legend."""

    text: str
    level: Literal["info", "strong", "warning", "legend"] = "info"


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under one heading.

    Attributes:
        blocks: in reading order.
        title: the heading; empty if there is none.
        detail: whether it is background, for a page with room; a terminal and Markdown leave it out.
        opened: whether the table behind a plot is as important as the plot.

    """

    blocks: Sequence[Grid | Plot | Note]
    title: str = ""
    detail: bool = False
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One of the things that a CI system counts as passed or not.

    Attributes:
        name: the same in every run, because CI systems follow a check by its name.
        outcome: failure if what was found is bad, error if it could not be found out, skipped if nobody minds.
        kind: the reason in one word; empty if it passed.
        why: the reason in one line; empty if it passed.
        detail: the figures, in lines.

    """

    name: str
    outcome: Outcome
    kind: str = ""
    why: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    """Checks under one name, and the warnings that hold for all of them."""

    name: str
    checks: Sequence[Check]
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """All that a command answers.

    Attributes:
        title: the first line; empty if the tables say it all.
        sections: in reading order.
        sheet: what CSV holds: keys and columns. An array is of measured numbers.
        data: makes what JSON holds.
        about: what the whole is about, below the title.
        facts: what is the same in every row, by name.
        notes: what must be held against the whole, and what its signs mean.
        suites: what a CI system counts; empty if the answer is no test of anything.

    """

    title: str
    sections: Iterable[Section]
    sheet: Iterable[tuple[str, Sequence[object]]]
    data: Callable[[], object]
    about: Iterable[Note] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Iterable[Note] = ()
    suites: Iterable[Suite] = ()
