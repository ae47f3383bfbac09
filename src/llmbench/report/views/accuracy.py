"""How far off the predictions of a run were: predicted beside measured, cell by cell, and over the whole run.

What was predicted was written before anything ran. An error is a factor, predicted over measured; how far it
is off counts the same in both directions.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.errors import RunError
from llmbench.redact import shown
from llmbench.report import rows
from llmbench.report.markdown import plain
from llmbench.results import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llmbench.results.prediction import Prediction
    from llmbench.results.store import Log
    from llmbench.results.table import Table
    from llmbench.spec.sweep import Point

WITHIN = 1.5
"""A time predicted within this factor is good enough to plan a sweep by."""


class Quantity(NamedTuple):
    """What is compared: its key, its name, the unit, and how a number is shown in that unit."""

    key: str
    name: str
    unit: str
    figure: Callable[[float], str]


def milliseconds(time_s: float) -> str:
    """Return a time in ms with three digits at least."""
    return f"{time_s * 1e3:.3g}" if time_s < 1 else f"{time_s * 1e3:,.0f}"


def mebibytes(size: float) -> str:
    """Return bytes in MiB."""
    return f"{size / 2**20:,.0f}"


def factor(value: float) -> str:
    """Return an error as a factor."""
    return f"{value:.2f}x"


QUANTITIES = (
    Quantity("ttft_s", "TTFT", "ms", milliseconds),
    Quantity("tpot_s", "TPOT", "ms", milliseconds),
    Quantity("peak_bytes", "peak", "MiB", mebibytes),
)

PEAKS = {"cpu": "host_peak_rss_bytes", "cuda": "peak_allocated_bytes"}
"""Which metric the predicted peak is held against: all of a process, or what torch allocated on a GPU."""

COLUMNS = (
    *(rows.Column(name, name) for name in ("model", "backend", "options", "device", "dtype")),
    rows.Column("batch_size", "batch", str),
    rows.Column("input_len", "in", str),
    rows.Column("output_len", "out", str),
    *(
        column
        for one in QUANTITIES
        for column in (
            rows.Column(f"{one.key}_measured", f"{one.name}\n({one.unit})", one.figure),
            rows.Column(f"{one.key}_predicted", f"{one.name}\npredicted", one.figure),
            rows.Column(f"{one.key}_factor", f"{one.name}\nfactor", factor),
        )
    ),
)
FACTOR = "factor: predicted over measured; above 1 the prediction was too large."
COORDINATES = {column.key for column in COLUMNS[: -3 * len(QUANTITIES)]}
ALWAYS = ("batch_size", "input_len", "output_len")


def render(log: Log, format: str) -> str:
    """Return predicted beside measured as text; raise RunError if the run holds no predictions."""
    built = table.build(log)
    if built.plan is None or not built.plan.predictions:
        raise RunError(
            "--predicted: this run holds no predictions; they are made when a sweep begins, never after."
        )
    facts = list(_facts(built, built.plan.predictions))
    sums = summary(facts)
    if format == "json":
        return rows.json({"cells": facts, "summary": sums, "within": WITHIN})
    columns = _columns(facts, format)
    names = sum(column.key in COORDINATES for column in columns)
    text = rows.rows(columns, facts, format, names)
    if format == "csv":
        return text
    bases = dict.fromkeys(told.basis for told in built.plan.predictions.values())
    quote, bullet = (plain, "- ") if format == "markdown" else (shown, "")
    notes = [FACTOR, *_sentences(sums), *(f"Predicted from: {quote(basis)}." for basis in bases)]
    return text + "\n" + rows.wrapped((f"{bullet}{note}" for note in notes), format)


def summary(facts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each quantity how many cells have both figures, the share near enough, median and worst error."""
    sums = {}
    for one in QUANTITIES:
        found = [fact[f"{one.key}_factor"] for fact in facts]
        off = [max(value, 1 / value) for value in found if value]
        if off:
            sums[one.key] = {
                "cells": len(off),
                "within_share": sum(value <= WITHIN for value in off) / len(off),
                "median_factor": statistics.median(off),
                "worst_factor": max(off),
            }
    return sums


def _sentences(sums: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for one in QUANTITIES:
        if found := sums.get(one.key):
            near = round(found["within_share"] * found["cells"])
            yield (
                f"{one.name}: {near} of {found['cells']} cells within a factor of {WITHIN};"
                f" off by {factor(found['median_factor'])} in the median, {factor(found['worst_factor'])} at worst."
            )


def _facts(built: Table, predictions: Mapping[str, Prediction]) -> Iterator[dict[str, Any]]:
    """Yield a row for each cell that was measured."""
    middles = {numbers.metric.key: numbers.middle.tolist() for numbers in built.numbers}
    for number in built.rows:
        cell = built.cells[number]
        told = predictions.get(cell.id)
        if told is None:
            continue
        measured = {
            "ttft_s": _at(middles, "ttft_s", number),
            "tpot_s": _at(middles, "tpot_s", number),
            "peak_bytes": _at(middles, PEAKS.get(cell.device, ""), number),
        }
        predicted = {"ttft_s": told.ttft_s, "tpot_s": told.tpot_s, "peak_bytes": _peak(cell, told)}
        yield {
            **{
                name: getattr(cell, name)
                for name in ("model", "backend", "device", "dtype", *ALWAYS)
            },
            "options": ", ".join(f"{key}={value}" for key, value in cell.options.items()),
            **{
                f"{key}_{word}": value
                for key, real in measured.items()
                for word, value in _compared(predicted[key], real)
            },
        }


def _compared(predicted: float | None, real: float | None) -> Iterator[tuple[str, float | None]]:
    yield "predicted", predicted
    yield "measured", real
    yield "factor", predicted / real if predicted and real else None


def _at(middles: Mapping[str, Sequence[float]], key: str, number: int) -> float | None:
    value = middles[key][number] if key in middles else math.nan
    return None if math.isnan(value) else value


def _peak(cell: Point, told: Prediction) -> float | None:
    """Return the peak as the device's metric counts it: torch's allocator knows no context."""
    if told.need_bytes is None:
        return None
    return told.need_bytes - (0 if cell.device == "cpu" else told.context_bytes or 0)


def _columns(facts: Sequence[Mapping[str, Any]], format: str) -> list[rows.Column]:
    """Return the columns that say something: of coordinates those that vary, of figures those there are."""
    if format == "csv":
        return list(COLUMNS)
    coordinates, figures = COLUMNS[: len(COORDINATES)], COLUMNS[len(COORDINATES) :]
    varying = [
        column
        for column in coordinates
        if column.key in ALWAYS or len({fact[column.key] for fact in facts}) > 1
    ]
    return [*varying, *(one for one in figures if any(fact[one.key] is not None for fact in facts))]
