"""A table as JSON: the numbers, and for each metric what it is, where its tokens come from and its clock."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import __version__
from llmbench.redact import spelled

if TYPE_CHECKING:
    from llmbench.report import Page
    from llmbench.results.record import Stop
    from llmbench.results.table import Numbers, Table

FORMAT = 1
"""The shape of this export; its history: 1, the first."""


def render(table: Table, page: Page) -> str:
    """Return the table as JSON; the page does not matter. What is absent is null."""
    del page
    whole = {
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
    return spelled(msgspec.json.format(msgspec.json.encode(whole), indent=1).decode()) + "\n"


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
            "stopped": _stopped(table.stops[number]),
            "values": {key: values[number] for key, values in columns if values[number]},
            **{words.key: words.values[number] or None for words in table.sides},
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
