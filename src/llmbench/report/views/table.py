"""A run as a document: a row a cell, then what has no number and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.numbers import plural
from llmbench.report import words
from llmbench.report.document import ABSENT, Column, Document, Grid, Note, Section, foreign
from llmbench.report.views import table_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.results.table import Axis
    from llmbench.results.table import Table as Run


def document(run: Run, remarks: Sequence[str] = ()) -> Document:
    """Return a run as a document; the remarks stand before what the signs mean."""
    name = ", ".join(filter(None, (words.title(run), words.origin(run))))
    cells = plural(len(run.cells), "cell")
    return Document(
        f"{foreign(name)}: {cells}; {words.progress(run.progress)}",
        _sections(run),
        table_data.sheet(run),
        lambda: table_data.data(run),
        _about(run),
        words.constants(run),
        _notes(run, remarks),
    )


def _about(run: Run) -> Iterator[Note]:
    yield from words.everywhere(run)
    if run.plan and run.plan.why:
        yield Note(foreign(run.plan.why))
    if made := run.plan or run.imported:
        yield Note(f"Made by {foreign(made.command)}.")
    yield from words.repeated(run)


def _sections(run: Run) -> Iterator[Section]:
    if run.rows:
        yield Section([of_cells(run)])
    elif run.progress.ended:
        yield Section([Note("No cell has a valid session.")])
    if run.failures:
        count = sum(failure.sessions for failure in run.failures)
        title = f"Without a number: {plural(count, 'session')}"
        yield Section([of_failures(run)], title)


def of_cells(run: Run) -> Grid:
    """Return the cells that have a number: coordinates that vary, the usual metrics, warnings."""
    rows = run.rows
    keys = [coordinate(axis, rows) for axis in run.axes]
    if counts := words.session_counts(run):
        keys.append(Column("sessions", counts))
    return Grid(
        [*keys, *_metrics(run, rows), *_ceilings(run, rows), *_warnings(run, rows)], len(keys)
    )


def coordinate(axis: Axis, rows: Sequence[int]) -> Column:
    """Return the column of one coordinate of the cells."""
    values = [axis.values[row] for row in rows]
    numeric = all(isinstance(value, int | float) for value in values)
    texts = [words.value_of(value) for value in values]
    return Column(words.head(axis.name), texts, "number" if numeric else "name")


def _metrics(run: Run, rows: Sequence[int]) -> Iterator[Column]:
    for numbers in run.headline:
        metric, figures = numbers.metric, words.figures(numbers, rows)
        spreads = figures.spreads if any(figures.spreads) else ()
        yield Column(metric.label, figures.values, unit=metric.unit.word, spreads=spreads)


def _ceilings(run: Run, rows: Sequence[int]) -> Iterator[Column]:
    for side in words.sides(run):
        texts = [side.values[row] or ABSENT for row in rows]
        yield Column("\n".join(filter(None, side.head)), texts, "words")


def _warnings(run: Run, rows: Sequence[int]) -> Iterator[Column]:
    texts = [words.warnings(run.warnings[row], int(run.valid[row])) for row in rows]
    if any(texts):
        yield Column("warnings", texts, "words")


def of_failures(run: Run) -> Grid:
    """Return how sessions ended that have no number, how many and why."""
    failures = run.failures
    cells = ["; ".join(words.cells_of(failure, run)) for failure in failures]
    return Grid(
        [
            Column("sessions", [str(failure.sessions) for failure in failures]),
            Column("how", [words.how(failure) for failure in failures], "words"),
            Column("why", [failure.reason for failure in failures], "words"),
            Column("cells", cells, "words"),
        ]
    )


def _notes(run: Run, remarks: Sequence[str]) -> Iterator[Note]:
    for notice in (*run.notices, *remarks):
        yield Note(foreign(notice), "warning")
    if run.rows:
        if stopped := words.stops(run):
            yield Note(stopped)
        yield from (Note(line, "legend") for line in words.legend(run))
