"""Runs as a document with every plot: what was found, the results, then the plots and the conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.numbers import plural
from llmbench.report import plots, words
from llmbench.report.document import Document, Note, Section, foreign
from llmbench.report.figures import cells as figures_cells
from llmbench.report.figures import (
    conditions,
    context,
    memory,
    outcomes,
    pareto,
    roofline,
    serving,
    spread,
)
from llmbench.report.figures.cells import ReportedRun
from llmbench.report.views import compare, facts
from llmbench.report.views import table as views_table
from llmbench.results import table
from llmbench.results.aggregate import Tally
from llmbench.results.metrics import BY_KEY, METRICS
from llmbench.results.table import RunProgress
from llmbench.spec.sweep import NOT_SAID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llmbench.compare import Comparison
    from llmbench.report.figures.cells import Dot, ShownNumber
    from llmbench.results.metrics import Metric
    from llmbench.results.store import Log

FOUND = (
    ("goodput_rps", "capacity_rps"),
    ("output_tok_s", "steady_output_tok_s", "served_output_tok_s"),
    ("ttft_s", "served_ttft_s", "request_ttft_s", "tpot_s", "served_tpot_s", "request_tpot_s"),
)
"""The metrics of each sentence about what was found; those that were measured are named."""
MOST_NAMED = 3
"""Models, engines or machines that a title names; more are counted."""


def seen(log: Log, label: str) -> ReportedRun:
    """Read a run once, for a document in which it is called by this label."""
    tally = Tally(log)
    return ReportedRun(label, table.tabulate(log, tally), tally)


def document(runs: Sequence[ReportedRun], compared: Comparison | str | None = None) -> Document:
    """Return the document of some runs.

    Args:
        runs: in the order of their colours.
        compared: the runs compared with the first, or why they cannot be; None leaves it out.

    """
    dots = figures_cells.dots(runs)
    return Document(
        _title(runs),
        _sections(runs, dots, compared),
        _sheet(runs),
        lambda: _data(runs, compared),
        _found(runs, dots, compared),
        notes=_notes(runs),
    )


def _title(runs: Sequence[ReportedRun]) -> str:
    """Return what was measured, with which engine, where and when."""
    cells = [cell for run in runs for cell in run.table.cells]
    plans = [run.table.plan for run in runs if run.table.plan]
    machines = [str(plan.machine.get("name") or "") for plan in plans]
    machines += [run.table.imported.machine for run in runs if run.table.imported]
    days = sorted({plan.at[:10] for plan in plans})
    when = " to ".join(dict.fromkeys((*days[:1], *days[-1:])))
    models = _listed([cell.model for cell in cells], "model")
    named = [
        ("", models or _listed([words.title(run.table) for run in runs], "sweep")),
        (" with ", _listed([cell.backend for cell in cells], "engine")),
        (" on ", _listed(machines, "machine")),
        (", ", plural(len(runs), "run") if len(runs) > 1 else ""),
        (", ", foreign(when) if when else ""),
    ]
    return "".join(before + text for before, text in named if text)


def _listed(names: Iterable[str], noun: str) -> str:
    """Return the different names as a list in words, or how many they are."""
    said = (name for name in names if name not in {"", NOT_SAID})
    different = [foreign(name) for name in figures_cells.short(said).values()]
    if len(different) > MOST_NAMED:
        return f"{len(different):,} {noun}s"
    return " and ".join(filter(None, (", ".join(different[:-1]), *different[-1:])))


def _found(
    runs: Sequence[ReportedRun], dots: Sequence[Dot], compared: Comparison | str | None
) -> Iterator[Note]:
    """Yield what was found, in three sentences: the rates, the times, the verdicts; and what copies are."""
    for keys in FOUND:
        measured = filter(None, (_extremes(dots, BY_KEY[key]) for key in keys))
        if said := "; ".join(measured):
            yield Note(f"{said}.")
    said = "; ".join([*_verdicts(compared), _validity(runs)])
    yield Note(f"{said[0].upper()}{said[1:]}.")
    for run in runs:
        if judged := run.table.trust:
            note = words.trust(judged)
            where = f"Run {foreign(run.label)}: " if len(runs) > 1 else ""
            yield Note(f"{where}{note.text}", note.level)
    yield from map(Note, words.copies(dot.cell.model for dot in dots))


def _extremes(dots: Sequence[Dot], metric: Metric) -> str:
    """Return the best and the worst cell of a metric in words; empty if it was not measured."""
    known = [(number, dot) for dot in dots if (number := dot.number(metric))]
    if not known:
        return ""
    known.sort(key=lambda one: one[0].value, reverse=metric.better == "higher")
    extremes = ("highest at", "lowest at")
    extremes = extremes if metric.better == "higher" else extremes[::-1]
    label = f"{metric.label[0].upper()}{metric.label[1:]}"
    parts = [
        f"{extreme} {_figure(number, metric)}{f' with {foreign(dot.name)}' if dot.name else ''}"
        for extreme, (number, dot) in zip(extremes, (known[0], known[-1]), strict=True)
    ]
    if len(known) == 1:
        return f"{label} is {parts[0].removeprefix(extremes[0]).strip()}"
    return f"{label} is {', and '.join(parts)}{_overlap(known[0][0], known[-1][0])}"


def _figure(number: ShownNumber, metric: Metric) -> str:
    """Return a number with its unit: `926 ±51 tok/s`, `1.51 ms (1.27 to 1.80)`."""
    value, _, around = number.text.partition(" ")
    parts = (
        (value, around, metric.unit.word)
        if around.startswith("±")
        else (value, metric.unit.word, around)
    )
    return " ".join(filter(None, parts))


def _overlap(one: ShownNumber, other: ShownNumber) -> str:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return ""
    apart = one.high < other.low or other.high < one.low
    return "" if apart else ", with intervals that overlap"


def _verdicts(compared: Comparison | str | None) -> Iterator[str]:
    """Yield what a comparison found, of each candidate."""
    if isinstance(compared, str):
        yield "The runs are not compared, for the reason below"
    elif compared is not None and len(compared.contrasts) > MOST_NAMED:
        yield f"{len(compared.contrasts)} runs are compared with {foreign(compared.baseline)} below"
    elif compared is not None:
        label, baseline = compared.asked.metric.label, foreign(compared.baseline)
        for of in compared.contrasts:
            yield f"{label} of {foreign(of.name)} against {baseline}: {compare.summary(compared, of)}"


def _validity(runs: Sequence[ReportedRun]) -> str:
    """Return how many sessions have a number, and what became of the others."""
    whole = RunProgress(*map(sum, zip(*(run.table.progress for run in runs), strict=True)))
    if not whole.planned:
        return "no session was planned"
    valid, planned = whole.valid + whole.warned, plural(whole.planned, "session")
    if whole.planned == valid == 1:
        return f"the only session has a number{', with warnings' if whole.warned else ''}"
    of = "all" if valid == whole.planned else f"{valid:,} of"
    parts = [f"{of} {planned} have a number"]
    warned = "all" if whole.warned == valid else f"{whole.warned:,}"
    parts += [f"{warned} of them with warnings"] if whole.warned else []
    lost = list(words.counts(whole).items())[2:]
    return ", ".join([*parts, *(f"{count:,} {word}" for word, count in lost if count)])


def _purpose(run: ReportedRun) -> Note:
    """Return what a run is called and why it was made."""
    why = f": {foreign(run.table.plan.why)}" if run.table.plan and run.table.plan.why else ""
    return Note(f"Run {foreign(run.label)}{why}")


def _sections(
    runs: Sequence[ReportedRun], dots: Sequence[Dot], compared: Comparison | str | None
) -> Iterator[Section]:
    if isinstance(compared, str):
        yield plots.section(compare.TITLE, f"Left out: {foreign(compared)}")
    elif compared is not None:
        yield from compare.sections(compared)
    yield from _results(runs)
    served = list(serving.figures(dots))
    yield from served
    if not served or any(dot.number(BY_KEY["e2e_s"]) for dot in dots):
        for each in (pareto, context, memory, roofline, spread):
            yield from each.figures(dots)
    yield outcomes.sessions(runs)
    yield outcomes.failures(runs)
    yield outcomes.warnings(runs)
    yield conditions.of_runs(runs)


def _results(runs: Sequence[ReportedRun]) -> Iterator[Section]:
    """Yield the cells of each run, as `llmbench table` shows them."""
    for run in runs:
        title = f"Results of {foreign(run.label)}" if len(runs) > 1 else "Results"
        if not run.table.rows:
            yield Section([_purpose(run), Note("No cell has a valid session.")], title)
            continue
        rows = figures_cells.thinned(run.table.rows, figures_cells.MOST_POINTS // len(runs))
        left = plots.thinning(len(rows), len(run.table.rows), "cells")
        notes = [
            _purpose(run),
            *(Note(note, "warning") for note in left),
            *words.repeated(run.table),
            *words.places(run.table),
        ]
        yield Section([*notes, views_table.of_cells(run.table, rows)], title)


def _notes(runs: Sequence[ReportedRun]) -> Iterator[Note]:
    yield from outcomes.notices(runs)
    yield from (Note(line, "legend") for line in dict.fromkeys(_meanings(runs)))


def _meanings(runs: Sequence[ReportedRun]) -> Iterator[str]:
    """Yield what the signs and the words mean."""
    tables = [run.table for run in runs if run.table.rows]
    plotted = {numbers.metric.key for of in tables for numbers in of.numbers} & plots.PLOTTED
    for of in tables:
        yield from (line for line in words.legend(of) if line not in words.COPIES.values())
    yield from (words.meaning(metric) for metric in METRICS if metric.key in plotted)


def _sheet(runs: Sequence[ReportedRun]) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield the columns of every run's table; a run is called as on the page."""
    rows: list[dict[str, object]] = []
    for run in runs:
        columns = dict(views_table.sheet(run.table))
        texts = (
            getattr(values, "tolist", lambda values=values: values)() for values in columns.values()
        )
        rows += (
            dict(zip(columns, row, strict=True)) | {"run": run.label}
            for row in zip(*texts, strict=True)
        )
    return facts.sheet(rows)


def _data(runs: Sequence[ReportedRun], compared: Comparison | str | None) -> dict[str, object]:
    whole = compared if compared is None or isinstance(compared, str) else compare.data(compared)
    return {
        "runs": [{"label": run.label, **views_table.data(run.table)} for run in runs],
        "comparison": whole,
    }
