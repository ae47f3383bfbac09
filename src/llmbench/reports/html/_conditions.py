"""What the runs were made under: command, machine, versions and settings, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from llmbench.redact import shown
from llmbench.reports import _words
from llmbench.reports.html import _figure
from llmbench.reports.html._dots import MOST_POINTS, cut, thinned
from llmbench.reports.html._figure import Figure, Grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.record import Plan
    from llmbench.reports.html._dots import Dot, Run

LONGEST_VALUE = 400
MOST_FACTS = 200


def conditions(runs: Sequence[Run]) -> Figure:
    """Return the facts of all runs, a column each; a fact that differs between them is marked."""
    columns = [dict(_facts(run)) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))[:MOST_FACTS]
    rows = []
    for name in names:
        values = [column.get(name, "not known") for column in columns]
        differs = len(set(values)) > 1
        rows.append((f"{name} (differs)" if differs else name, *values))
    heads = ("condition", *(run.label for run in runs))
    return Figure("Conditions", "What a number of this page holds for.", grid=Grid(heads, rows))


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    for name, value in _words.constants(run.table).items():
        yield f"every cell: {shown(name)}", _short(value)
    if run.table.plan:
        yield from _planned(run.table.plan)
    if run.table.imported:
        yield from _flat("", msgspec.to_builtins(run.table.imported))


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
            _figure.head(numbers.metric): number.text
            for numbers in dot.run.table.headline
            if (number := dot.number(numbers.metric))
        }
        records.append(_figure.record(dot, told))
    return Figure(
        "Every cell",
        "" if records else "No cell has a valid session.",
        grid=_figure.grid(records) if records else None,
        notes=_figure.thinning(len(kept), len(found), "cells"),
    )
