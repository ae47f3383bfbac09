"""Figures with their intervals below each other, each in the range that it is held against: a forest plot."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from llmbench.report import plots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.report.plots import Row, Spec

MOST_ROWS = 100
"""Rows of a plot that are still read one by one; the table below it has the others."""
WIDEST = 10.0
"""An interval that reaches so many times its figure, or a part of it as small, is in the table and not drawn: it would
leave no room for the others."""


BEYOND = 0.06
"""The margin of a plot on either side, as a share of its range."""
BOLD = {"opacity": 0.8, "strokeWidth": 2}


class Estimate(NamedTuple):
    """A row of the plot.

    Attributes:
        name: what it is of.
        verdict: in a word; empty if there is none.
        figure: the value and the ends of its interval, NaN if it has none.
        held: the range that it is held against; an open end is 0 or infinite.
        record: its tooltip.

    """

    name: str
    verdict: str
    figure: tuple[float, float, float]
    held: tuple[float, float]
    record: Mapping[str, str]


def spec(estimates: Sequence[Estimate], title: str, verdicts: Sequence[str] = ()) -> Spec:
    """Return the plot.

    Args:
        estimates: its rows.
        title: of the axis.
        verdicts: against, for, neither and undecided, in the words that these rows have; none if they have none.

    """
    extent = _extent(estimates)
    rows = _rows(estimates, extent)
    x = plots.axis("x", title, extent)
    x["scale"] = {**x["scale"], "domain": extent, "nice": False, "padding": 0}
    bare = {"domain": False, "ticks": False, "grid": False}
    y = plots.nominal("row", sort=None, scale={"padding": 0}, axis=bare)
    named = list(dict.fromkeys(row["verdict"] for row in rows))
    domain = {"domain": list(verdicts) or [""]}
    shape = plots.nominal("verdict", scale=domain, legend={"values": named} if verdicts else None)
    colour = shape | {"scale": domain | {"range": "held"}} if verdicts else shape
    ends = {"x": {**x, "field": "from"}, "x2": {"field": "to"}}
    held = plots.layer({"type": "bar", "opacity": 0.18}, y=y, **ends)
    point = {"type": "point", "size": 55, "filled": True, "opacity": 1}
    dots = plots.layer(point, rows, x=x, y=y, color=colour, shape=shape)
    layers = [held, *plots.bars(rows, x, y, colour, BOLD), dots]
    return plots.panels(rows, layers, height={"step": 22})


def _extent(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Return where the plot begins and ends: a little beyond all that is drawn."""
    ends = [end for one in estimates for end in (*_drawn(one), *one.held) if 0 < end < math.inf]
    least, most = min(ends), max(ends)
    beyond = max((most / least) ** BEYOND, 1.01)
    return plots.rounded(least / beyond), plots.rounded(most * beyond)


def _rows(estimates: Sequence[Estimate], extent: tuple[float, float]) -> list[Row]:
    """Return the estimates as rows; a range that is open ends with the plot."""
    seen: Counter[str] = Counter()
    rows = []
    for one in estimates:
        seen[one.name] += 1
        value, *interval = _drawn(one)
        row: Row = {
            "panel": "",
            "row": one.name if seen[one.name] == 1 else f"{one.name} ({seen[one.name]})",
            "verdict": one.verdict,
            "x": plots.rounded(value),
            "from": plots.rounded(max(one.held[0], extent[0])),
            "to": plots.rounded(min(one.held[1], extent[1])),
            "record": one.record,
        }
        if interval:
            row |= dict(zip(("x_low", "x_high"), map(plots.rounded, interval), strict=True))
        rows.append(row)
    return rows


def _drawn(one: Estimate) -> tuple[float, ...]:
    """Return the figure, with the ends of its interval if they are drawn."""
    value, low, high = one.figure
    return one.figure if value / WIDEST < low <= high < value * WIDEST else (value,)
