"""The conditions of runs: command, machine, versions and settings, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmbench.redact import shown
from llmbench.report import plots, words
from llmbench.report.document import Column, Grid, cut
from llmbench.report.views import facts as views_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.report.document import Section
    from llmbench.report.figures.cells import ReportedRun
    from llmbench.results.store import Log
    from llmbench.results.table import Table

LONGEST_VALUE = 400
MOST_FACTS = 200


def of_runs(runs: Sequence[ReportedRun]) -> Section:
    """Return the conditions of all runs of a page."""
    return conditions([(run.label, [*_constants(run), *facts(run.table)]) for run in runs])


def conditions(columns: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> Section:
    """Return the facts of all runs, a column each; those that differ between them come first and are marked."""
    known = [dict(facts) for _, facts in columns]
    values = {
        name: [facts.get(name, "not known") for facts in known] for name in plots.heads(known)
    }
    differing = [name for name, row in values.items() if len(set(row)) > 1]
    names = list(dict.fromkeys((*differing, *values)))[:MOST_FACTS]
    marked = [f"{name} (differs)" if name in differing else name for name in names]
    sides = [
        Column(label, [values[name][place] for name in names], "words")
        for place, (label, _) in enumerate(columns)
    ]
    table = Grid([Column("condition", marked, "words"), *sides])
    about = "What a number of this page holds for."
    return plots.section("Conditions", about, table=table, detail=True)


def facts(origin: Log | Table) -> Iterator[tuple[str, str]]:
    """Yield the conditions of a run: names and values."""
    if plan := origin.plan:
        yield from (
            (name, _short(str(getattr(plan, name)))) for name in ("name", "why", "command", "at")
        )
        environment = {key: value for key, value in plan.environment.items() if key != "machine"}
        settings = msgspec.to_builtins(plan.settings)
        yield from _named({"machine": plan.machine, **environment, "settings": settings})
    if origin.imported:
        yield from _named(msgspec.to_builtins(origin.imported))


def _named(whole: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    return ((shown(name), _short(text)) for name, text in views_facts.named(whole))


def _constants(run: ReportedRun) -> Iterator[tuple[str, str]]:
    for name, value in words.constants(run.table).items():
        yield f"every cell: {shown(name)}", _short(value)


def _short(text: str) -> str:
    return cut(shown(text), LONGEST_VALUE)
