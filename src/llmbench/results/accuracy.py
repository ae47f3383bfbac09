"""How far off the predictions of a run were: predicted and measured, cell by cell, and over the whole run.

What was predicted was written before anything ran. An error is a factor, predicted over measured; how far it
is off counts the same in both directions.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.results.prediction import Prediction
    from llmbench.results.table import Table
    from llmbench.spec.sweep import Point

WITHIN = 1.5
"""A time predicted within this factor is good enough to plan a sweep by."""

QUANTITIES = ("ttft_s", "tpot_s", "peak_bytes")
"""The quantities that are predicted and measured."""

PEAKS = {"cpu": "host_peak_rss_bytes", "cuda": "peak_allocated_bytes"}
"""Which metric the predicted peak is held against: all of a process, or what torch allocated on a GPU."""


def rows(built: Table, predictions: Mapping[str, Prediction]) -> Iterator[dict[str, Any]]:
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
                name: cell.asked(name)
                for name in ("model", "backend", "device", "dtype", "batch_size", "input_len", "output_len")
            },
            "options": ", ".join(f"{key}={value}" for key, value in cell.options.items()),
            **{
                f"{key}_{word}": value
                for key, real in measured.items()
                for word, value in _compared(predicted[key], real)
            },
        }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each quantity how many cells have both figures, the share near enough, median and worst error."""
    sums = {}
    for key in QUANTITIES:
        factors = [row[f"{key}_factor"] for row in rows]
        off = [max(factor, 1 / factor) for factor in factors if factor]
        if off:
            sums[key] = {
                "cells": len(off),
                "within_share": sum(value <= WITHIN for value in off) / len(off),
                "median_factor": statistics.median(off),
                "worst_factor": max(off),
            }
    return sums


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
