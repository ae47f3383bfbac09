"""Formatting of numbers for people: few digits, a unit, thousands separated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.stats.interval import Interval

MOST_SYMMETRIC = 0.1
"""An interval of a logarithm that reaches so far above its figure, as a share of it, reaches a tenth less far below; a
wider one is shown by its two ends."""

RATES = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


LARGE = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


BINARY = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def count(value: float) -> str:
    """Return a large count with three digits: 6.74B."""
    return _scaled(value, LARGE, "")


def rate(value: float, unit: str) -> str:
    """Return a rate with three digits and a decimal prefix: 12.3 GB/s."""
    return f"{_scaled(value, RATES, ' ')}{unit}"


def binary(value: float) -> str:
    """Return bytes with three digits, a space before the unit: 512 KiB."""
    return _scaled(value, BINARY, " ") + ("" if value >= BINARY[-1][0] else " B")


def whole(value: float) -> str:
    """Return a number with thousands separators."""
    return f"{value:,}"


def plural(count: int, noun: str) -> str:
    """Return a count and its noun: `1 session`, `2 sessions`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def digits(value: float) -> str:
    """Return a figure with three digits at any size: 1,280, 64.3, 0.00412."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    rounded = float(f"{value:.3g}")  # 9.999 has three digits as 10.0
    places = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{places}f}"


def plus_minus(figure: Interval) -> str:
    """Return a figure with ± its interval, or with both ends of a wide one; `one session` if there is none."""
    if not figure.known:
        return f"{digits(figure.value)} (one session)"
    spread = figure.high - figure.value
    if spread <= 0:
        return digits(figure.value)
    if spread > MOST_SYMMETRIC * figure.value:
        return interval(figure)
    places = max(0, 1 - math.floor(math.log10(spread)))
    return f"{figure.value:,.{places}f} ±{spread:,.{places}f}"


def interval(figure: Interval) -> str:
    """Return a figure with both ends of its interval in brackets."""
    if not figure.known:
        return f"{digits(figure.value)} (no interval)"
    around = f" ({digits(figure.low)} to {digits(figure.high)})" if figure.low < figure.high else ""
    return digits(figure.value) + around


def _scaled(value: float, units: Sequence[tuple[float, str]], space: str) -> str:
    for size, unit in units:
        if value >= size:
            return f"{_three_digits(value / size)}{space}{unit}"
    return f"{value:,}"


def _three_digits(value: float) -> str:
    places = 2 if value < 10 else 1 if value < 100 else 0
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if places else text
