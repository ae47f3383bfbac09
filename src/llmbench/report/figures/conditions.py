"""What runs were made under: command, machine, versions and settings, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from llmbench.redact import shown
from llmbench.report import plots
from llmbench.report.figures.cells import MOST_POINTS, cut, thinned
from llmbench.report.plots import Figure, Grid
from llmbench.report.views import run as views_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report.figures.cells import Dot, Run
    from llmbench.results.record import Import, Plan

LONGEST_VALUE = 400
MOST_FACTS = 200


class Origin(Protocol):
    """What says where a run comes from: its file, or its table."""

    @property
    def plan(self) -> Plan | None:
        """Return what was planned."""

    @property
    def imported(self) -> Import | None:
        """Return what it was read from, if it was not measured here."""


def of_runs(runs: Sequence[Run]) -> Figure:
    """Return the conditions of all runs of a page."""
    return conditions([(run.label, [*_constants(run), *facts(run.table)]) for run in runs])


def conditions(columns: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> Figure:
    """Return the facts of all runs, a column each; those that differ between them come first and are marked."""
    known = [dict(found) for _, found in columns]
    names = list(dict.fromkeys(name for found in known for name in found))
    rows = []
    for name in names:
        values = [found.get(name, "not known") for found in known]
        differs = len(set(values)) > 1
        rows.append((f"{name} (differs)" if differs else name, *values))
    rows.sort(key=lambda row: len(set(row[1:])) == 1)
    heads = ("condition", *(label for label, _ in columns))
    grid = Grid(heads, rows[:MOST_FACTS])
    return Figure("Conditions", "What a number of this page holds for.", grid=grid)


def facts(origin: Origin) -> Iterator[tuple[str, str]]:
    """Yield what a run was made under: names and values."""
    if origin.plan:
        yield from _planned(origin.plan)
    if origin.imported:
        yield from _flat("", msgspec.to_builtins(origin.imported))


def _constants(run: Run) -> Iterator[tuple[str, str]]:
    for name, value in views_run.constants(run.table).items():
        yield f"every cell: {shown(name)}", _short(value)


def _planned(plan: Plan) -> Iterator[tuple[str, str]]:
    for name in ("name", "why", "command", "at"):
        yield name, _short(str(getattr(plan, name)))
    environment = {name: value for name, value in plan.environment.items() if name != "machine"}
    settings = msgspec.to_builtins(plan.settings)
    for head, facts in (("machine", plan.machine), ("", environment), ("settings", settings)):
        yield from _flat(head, facts)


def _flat(head: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield nested facts as lines; what is not known is left out."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{head}: {name}" if head else str(name), inner)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _flat(f"{head} {number}", item)
    elif value not in (None, []):
        text = ", ".join(map(str, value)) if isinstance(value, list) else _text(value)
        yield shown(head), _short(text)


def _text(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _short(text: str) -> str:
    return cut(shown(text), LONGEST_VALUE)


def cells(dots: Sequence[Dot]) -> Figure:
    """Return the usual numbers of every cell, as `llmbench table` shows them."""
    found = [dot for dot in dots if dot.valid]
    kept = thinned(found, MOST_POINTS)
    records = []
    for dot in kept:
        told = {
            plots.head(numbers.metric): number.text
            for numbers in dot.run.table.headline
            if (number := dot.number(numbers.metric))
        }
        records.append(plots.record(dot, told))
    return Figure(
        "Every cell",
        "" if records else "No cell has a valid session.",
        grid=plots.grid(records) if records else None,
        notes=plots.thinning(len(kept), len(found), "cells"),
    )
