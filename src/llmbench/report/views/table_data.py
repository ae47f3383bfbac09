"""A run for programs: every cell with every coordinate and metric, as the columns of a sheet and as data."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llmbench import __version__
from llmbench.results.table import AXES_AFTER, AXES_BEFORE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.results.record import Stop
    from llmbench.results.table import Integers, Numbers, Table

FORMAT = 1
"""The shape of the data; its history: 1, the first."""


def sheet(table: Table) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield every coordinate, count, metric and warning as a column: a row for every cell."""
    yield from _coordinates(table)
    yield from _sessions(table)
    for numbers in table.numbers:
        yield from _metric_columns(numbers)
    for side in table.sides:
        yield side.key, side.values
    yield from _codes(table)


def _coordinates(table: Table) -> Iterator[tuple[str, Sequence[object]]]:
    yield "cell", [cell.id for cell in table.cells]
    for name in AXES_BEFORE:
        yield name, [str(getattr(cell, name)) for cell in table.cells]
    for name in dict.fromkeys(name for cell in table.cells for name in cell.options):
        yield name, [str(cell.options.get(name, "")) for cell in table.cells]
    for name in AXES_AFTER:
        yield name, [getattr(cell, name) for cell in table.cells]


def _sessions(table: Table) -> Iterator[tuple[str, Sequence[object]]]:
    yield "sessions_valid", table.valid.tolist()
    yield "iterations_fewest", _known(table.iterations[0])
    yield "iterations_most", _known(table.iterations[1])
    failed: Counter[str] = Counter()
    for failure in table.failures:
        failed.update(failure.cells)
    yield "sessions_without_number", [failed[cell.id] for cell in table.cells]
    yield "sessions_to_come", table.to_come.tolist()
    yield "stopped", [stop.reason if stop else "" for stop in table.stops]


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


def _codes(table: Table) -> Iterator[tuple[str, Sequence[object]]]:
    always = " ".join(table.everywhere)
    yield (
        "warnings",
        [
            " ".join((always, *codes)).strip() if valid else ""
            for codes, valid in zip(table.warnings, table.valid.tolist(), strict=True)
        ],
    )
    ends: defaultdict[str, list[str]] = defaultdict(list)
    for failure in table.failures:
        how = f"{failure.status}/{failure.phase}" if failure.phase else str(failure.status)
        for name, count in failure.cells.items():
            ends[name].append(f"{count} {how}")
    yield "failures", ["; ".join(ends[cell.id]) for cell in table.cells]


def data(table: Table) -> dict[str, Any]:
    """Return the numbers, and for each metric what it is, where its tokens come from and its clock."""
    return {
        "format": FORMAT,
        "llmbench": __version__,
        "run": _run(table),
        "imported": table.imported,
        "progress": table.progress._asdict() | {"to_come": table.progress.to_come},
        "metrics": {numbers.metric.key: _metric(numbers) for numbers in table.numbers},
        "cells": _cells(table),
        "failures": _failures(table),
        "warnings_everywhere": table.everywhere,
        "notices": table.notices,
    }


def _run(table: Table) -> dict[str, Any] | None:
    if table.plan is None:
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
    return {name: getattr(table.plan, name) for name in names}


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


def _cells(table: Table) -> list[dict[str, Any]]:
    columns = [(numbers.metric.key, _values(numbers)) for numbers in table.numbers]
    return [
        {
            **msgspec.structs.asdict(cell),
            "sessions": {"valid": int(table.valid[number]), "to_come": int(table.to_come[number])},
            "iterations": {
                "fewest": int(table.iterations[0, number]) or None,
                "most": int(table.iterations[1, number]) or None,
            },
            "stopped": _stopped(table.stops[number]),
            "values": {key: values[number] for key, values in columns if values[number]},
            **{side.key: side.values[number] or None for side in table.sides},
            "warnings": dict(table.warnings[number]),
        }
        for number, cell in enumerate(table.cells)
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


def _failures(table: Table) -> list[dict[str, Any]]:
    return [
        {
            "status": failure.status,
            "phase": failure.phase,
            "reason": failure.reason,
            "sessions": failure.sessions,
            "cells": dict(failure.cells),
        }
        for failure in table.failures
    ]
