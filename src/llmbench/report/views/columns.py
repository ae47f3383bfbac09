"""Columns of a table for people, made once for all formats: each lays them out and escapes them in its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from llmbench.report.views import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.results.table import Axis, Numbers, Table

Kind: TypeAlias = Literal["figures", "name", "words"]
"""Figures are our own signs and stand to the right. Names and words come from anywhere; a long name may be cut."""


class Column(NamedTuple):
    """One column.

    Attributes:
        head: what stands above it, with a line break where a terminal may break it.
        texts: one for each row.
        kind: what the texts are.
        unit: of the figures; nothing for what has none.
        spreads: what stands behind each figure, in a place of its own; nothing if no figure has a spread.

    """

    head: str
    texts: Sequence[str]
    kind: Kind = "figures"
    unit: str = ""
    spreads: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Return the head in one line, with the unit."""
        head = self.head.replace("\n", " ")
        return f"{head} ({self.unit})" if self.unit else head

    @property
    def joined(self) -> list[str]:
        """Return the texts, each with its spread."""
        if not self.spreads:
            return list(self.texts)
        pairs = zip(self.texts, self.spreads, strict=True)
        return [" ".join(pair).rstrip() for pair in pairs]


class Columns(NamedTuple):
    """The columns that say which row is which, and those that stand beside them."""

    left: list[Column]
    right: list[Column]


def of_table(table: Table, plus_minus: str) -> Columns:
    """Return the columns of a run's table."""
    rows = table.rows
    left = [axis(one, rows) for one in table.axes]
    if counts := run.session_counts(table):
        left.append(Column("sessions", counts))
    right = [_metric(numbers, rows, plus_minus) for numbers in table.headline]
    return Columns(left, [*right, *_sides(table, rows), *_warnings(table, rows)])


def axis(axis: Axis, rows: Sequence[int]) -> Column:
    """Return the column of one coordinate of the cells."""
    values = [axis.values[row] for row in rows]
    numeric = all(isinstance(value, int | float) for value in values)
    texts = [run.value_of(value) for value in values]
    return Column(run.head(axis.name), texts, "figures" if numeric else "name")


def _metric(numbers: Numbers, rows: Sequence[int], plus_minus: str) -> Column:
    metric, figures = numbers.metric, run.figures(numbers, rows, plus_minus)
    spreads = figures.spreads if any(figures.spreads) else ()
    return Column(metric.label, figures.values, unit=metric.unit.word, spreads=spreads)


def _sides(table: Table, rows: Sequence[int]) -> Iterator[Column]:
    for words in run.sides(table):
        texts = [words.values[row] or run.ABSENT for row in rows]
        yield Column("\n".join(filter(None, words.head)), texts, "words")


def _warnings(table: Table, rows: Sequence[int]) -> Iterator[Column]:
    texts = [run.warnings(table.warnings[row], int(table.valid[row])) for row in rows]
    if any(texts):
        yield Column("warnings", texts, "words")


def of_failures(table: Table) -> Columns:
    """Return how sessions ended that have no number, how many and why."""
    found = table.failures
    return Columns(
        [Column("sessions", [str(failure.sessions) for failure in found])],
        [
            Column("how", [run.how(failure) for failure in found], "words"),
            Column("why", [failure.reason for failure in found], "words"),
            Column("cells", ["; ".join(run.cells_of(one, table)) for one in found], "words"),
        ],
    )
