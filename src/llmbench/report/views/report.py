"""Runs as a document with every plot: what a page to be handed on holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.numbers import plural
from llmbench.report import plots, words
from llmbench.report.document import Document, Note, Section, foreign
from llmbench.report.figures import cells as figures_cells
from llmbench.report.figures import conditions, context, memory, outcomes, pareto, roofline, spread
from llmbench.report.figures.cells import ReportedRun
from llmbench.report.views import compare, facts
from llmbench.report.views import table as views_table
from llmbench.results import table
from llmbench.results.aggregate import Tally
from llmbench.results.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.compare import Comparison
    from llmbench.results.store import Log


def seen(log: Log, label: str) -> ReportedRun:
    """Read a run once, for a document in which it is called by this label."""
    tally = Tally(log)
    return ReportedRun(label, table.tabulate(log, tally), tally)


def document(runs: Sequence[ReportedRun], compared: Comparison | str | None = None) -> Document:
    """Return the document of some runs.

    Args:
        runs: in the order of their colours and shapes.
        compared: the runs compared with the first, or why they cannot be; None leaves it out.

    """
    return Document(
        ", ".join(foreign(run.label) for run in runs),
        _sections(runs, compared),
        _sheet(runs),
        lambda: _data(runs, compared),
        [note for run in runs for note in _about(run, several=len(runs) > 1)],
        notes=_notes(runs),
    )


def _about(run: ReportedRun, *, several: bool) -> Iterator[Note]:
    label = f"{foreign(run.label)}: " if several else ""
    cells = plural(len(run.table.cells), "cell")
    why = f" {foreign(run.table.plan.why)}" if run.table.plan else ""
    yield Note(f"{label}{cells}; {words.progress(run.table.progress)}.{why}")
    yield from (Note(f"{label}{note.text}", note.level) for note in words.repeated(run.table))


def _sections(runs: Sequence[ReportedRun], compared: Comparison | str | None) -> Iterator[Section]:
    dots = figures_cells.dots(runs)
    yield outcomes.verdicts(runs)
    if isinstance(compared, str):
        yield plots.section(compare.TITLE, f"Left out: {foreign(compared)}")
    elif compared is not None:
        yield from compare.sections(compared)
    yield from pareto.figures(dots)
    yield from context.figures(dots)
    yield from memory.figures(dots)
    yield from roofline.figures(dots)
    yield from spread.figures(dots)
    yield outcomes.failures(runs)
    yield outcomes.warnings(runs)
    yield conditions.of_runs(runs)
    yield from _every_cell(runs)


def _every_cell(runs: Sequence[ReportedRun]) -> Iterator[Section]:
    """Yield the cells of each run, as `llmbench table` shows them."""
    for run in runs:
        title = f"Every cell of {foreign(run.label)}" if len(runs) > 1 else "Every cell"
        if not run.table.rows:
            yield Section([Note("No cell has a valid session.")], title)
            continue
        rows = figures_cells.thinned(run.table.rows, figures_cells.MOST_POINTS // len(runs))
        notes = plots.thinning(len(rows), len(run.table.rows), "cells")
        yield plots.section(title, table=views_table.of_cells(run.table, rows), notes=notes)


def _notes(runs: Sequence[ReportedRun]) -> Iterator[Note]:
    yield from outcomes.notices(runs)
    yield from (Note(line, "legend") for line in dict.fromkeys(_meanings(runs)))


def _meanings(runs: Sequence[ReportedRun]) -> Iterator[str]:
    """Yield what the signs and the words mean."""
    tables = [run.table for run in runs if run.table.rows]
    plotted = {numbers.metric.key for of in tables for numbers in of.numbers} & plots.PLOTTED
    for of in tables:
        yield from words.legend(of)
    yield from (words.meaning(metric) for metric in METRICS if metric.key in plotted)


def _sheet(runs: Sequence[ReportedRun]) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield the columns of every run's table, with the run's name before them."""
    rows: list[dict[str, object]] = []
    for run in runs:
        columns = dict(views_table.sheet(run.table))
        texts = (
            getattr(values, "tolist", lambda values=values: values)() for values in columns.values()
        )
        rows += (
            {"run": run.label} | dict(zip(columns, row, strict=True))
            for row in zip(*texts, strict=True)
        )
    return facts.sheet(rows)


def _data(runs: Sequence[ReportedRun], compared: Comparison | str | None) -> dict[str, object]:
    whole = compared if compared is None or isinstance(compared, str) else compare.data(compared)
    return {
        "runs": [{"label": run.label, **views_table.data(run.table)} for run in runs],
        "comparison": whole,
    }
