"""The distance of each session from the middle of its cell, from which the interval is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench.report import plots
from llmbench.report.figures.cells import MOST_POINTS, ReportedRun, thinned
from llmbench.results.metrics import BY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report.document import Section
    from llmbench.report.figures.cells import Dot, ShownNumber
    from llmbench.report.plots import Row, Spec

E2E = BY_KEY["e2e_s"]
TITLE = "Spread between sessions"
AGAINST = "each session against the middle (%)"
ABOUT = (
    f"Each dot is one session, a fresh process: the median {E2E.label} of its iterations against the middle of its "
    "cell's sessions. Dots above one another are the same cell. A number is as good as its sessions agree."
)


class CellSpread(NamedTuple):
    """A cell with several sessions: their medians in order of running, relative to the cell's middle."""

    dot: Dot
    middle: ShownNumber
    apart: list[float]

    @property
    def width(self) -> float:
        """Return how far the outermost sessions lie apart, as a share."""
        return max(self.apart) - min(self.apart)


def figures(dots: Sequence[Dot]) -> Iterator[Section]:
    """Yield the figure."""
    spreads = list(_spreads(dots))
    if not spreads:
        yield plots.section(TITLE, "Left out: no cell has more than one valid session.")
        return
    most = max(1, MOST_POINTS // max(len(spread.apart) for spread in spreads))
    kept = thinned(spreads, most)
    rows, colour = plots.arranged(
        [row for spread in kept for row in _rows(spread)],
        "all",
        "series",
        [dot.series for dot in dots],
    )
    drawn = {row["series"] for row in rows}
    kept = [spread for spread in kept if spread.dot.series in drawn]
    kept.sort(key=lambda spread: -spread.width)
    yield plots.section(
        TITLE,
        ABOUT,
        _spec(rows, colour),
        plots.table([_record(spread) for spread in kept], ("cell", AGAINST)),
        plots.thinning(len(kept), len(spreads), "cells"),
    )


def _spreads(dots: Sequence[Dot]) -> Iterator[CellSpread]:
    medians: dict[ReportedRun, list[list[float]]] = {}
    for dot in dots:
        if dot.run not in medians:
            medians[dot.run] = _medians(dot.run)
        sessions, middle = medians[dot.run][dot.row], dot.number(E2E)
        if middle and len(sessions) > 1:
            apart = [value * E2E.unit.factor / middle.value - 1 for value in sessions]
            yield CellSpread(dot, middle, apart)


def _medians(run: ReportedRun) -> list[list[float]]:
    """Return the sessions' medians of each cell, in seconds."""
    values: list[list[float]] = [[] for _ in run.table.cells]
    for owner, value in zip(run.owners.tolist(), E2E.value(run.sessions).tolist(), strict=True):
        if np.isfinite(value):
            values[owner].append(value)
    return values


def _rows(spread: CellSpread) -> Iterator[Row]:
    for number, apart in enumerate(spread.apart, 1):
        yield {
            "all": "",
            "series": spread.dot.series,
            "x": plots.rounded(spread.middle.value),
            "y": plots.rounded(apart),
            "record": plots.record(
                spread.dot,
                {
                    plots.head(E2E): spread.middle.text,
                    "this session": f"{number} of {len(spread.apart)}: {apart:+.1%}",
                },
            ),
        }


def _record(spread: CellSpread) -> dict[str, str]:
    return {
        "cell": spread.dot.name or "the only cell",
        plots.head(E2E): spread.middle.text,
        "sessions apart (%)": f"{spread.width:.1%}".rstrip("%"),
        AGAINST: ", ".join(f"{apart:+.1%}".rstrip("%") for apart in spread.apart),
    }


def _spec(rows: Sequence[Row], colour: Spec) -> Spec:
    x = plots.axis("x", f"the cell's {plots.head(E2E)}", (row["x"] for row in rows))
    percent = {"axis": {"format": "+.1~%", "tickCount": 5}, "scale": {}}
    y = plots.linear("y", "session against cell") | percent
    middle = plots.layer({"type": "rule", "opacity": 0.5}, y={"datum": 0})
    point = {"type": "point", "size": 40, "filled": True, "opacity": 0.75}
    marks = plots.layer(point, rows, x=x, y=y, color=colour)
    return plots.panels(rows, [middle, marks])
