"""Throughput against latency, and the cells that nothing else of the same work beats in both."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from llmbench.report import plots
from llmbench.report.figures.cells import MOST_POINTS, thinned
from llmbench.results.metrics import BY_KEY
from llmbench.spec.sweep import NOT_SAID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report.document import Section
    from llmbench.report.figures.cells import Dot, ShownNumber
    from llmbench.report.plots import Row, Spec
    from llmbench.results.metrics import Metric

THROUGHPUT = BY_KEY["output_tok_s"]
LATENCIES = (BY_KEY["tpot_s"], BY_KEY["ttft_s"])

ABOUT = (
    "Up is more tokens, left is less waiting. No other cell of the same model, engine and lengths beats a filled dot "
    "in both; a line joins those of one colour, hollow dots are beaten. Bars are 95 % intervals between sessions."
)


class SameWork(NamedTuple):
    """The work that all cells of one front do; only cells of the same work can beat each other."""

    input_len: int | str | None
    output_len: int | None
    kind: str
    run: str


class FrontDot(NamedTuple):
    """A dot in this plot, and whether it is on the front of its work."""

    dot: Dot
    work: SameWork
    latency: ShownNumber
    throughput: ShownNumber
    on_front: bool


def figures(dots: Sequence[Dot]) -> Iterator[Section]:
    """Yield a figure for each latency."""
    for latency in LATENCIES:
        title = f"Throughput against latency: {latency.label}"
        placed = list(_placed(dots, latency))
        if not placed:
            yield plots.section(
                title, f"Left out: no cell has a {latency.label} and its {THROUGHPUT.label}."
            )
            continue
        kept = thinned(placed, MOST_POINTS, lambda one: one.on_front)
        series = [dot.series for dot in dots]
        rows, colour = plots.arranged(_rows(kept, latency), "lengths", "series", series)
        spec, left = _spec(rows, colour, latency), ("cell", "front", "warnings")
        notes = (*plots.thinning(len(rows), len(placed), "cells"), *plots.barless(rows))
        yield plots.figure(title, ABOUT, spec, rows, notes, left)


def _placed(dots: Sequence[Dot], metric: Metric) -> Iterator[FrontDot]:
    """Yield the dots that have both numbers, those of the same work together, the quickest first."""
    works: defaultdict[SameWork, list[tuple[ShownNumber, ShownNumber, Dot]]] = defaultdict(list)
    for dot in dots:
        latency, throughput = dot.number(metric), dot.number(THROUGHPUT)
        if latency and throughput:
            cell = dot.cell
            work = SameWork(cell.asked("input_len"), cell.output_len, dot.kind, dot.run.label)
            works[work].append((latency, throughput, dot))
    for work in sorted(
        works, key=lambda work: (str(work.input_len or 0).zfill(12), work.output_len or 0)
    ):
        best = 0.0
        for latency, throughput, dot in sorted(
            works[work], key=lambda one: (one[0].value, -one[1].value)
        ):
            yield FrontDot(dot, work, latency, throughput, throughput.value > best)
            best = max(best, throughput.value)


def _rows(placed: Sequence[FrontDot], latency: Metric) -> list[Row]:
    return [
        {
            "lengths": f"in {_said(one.work.input_len)}, out {_said(one.work.output_len)}",
            "work": f"{one.work.input_len} {one.work.output_len} {one.work.run}",
            "front": one.on_front,
            "series": one.dot.series,
            **plots.interval("x", one.latency),
            **plots.interval("y", one.throughput),
            "record": plots.record(
                one.dot,
                {
                    plots.head(latency): one.latency.text,
                    plots.head(THROUGHPUT): one.throughput.text,
                    "front": "on it" if one.on_front else "beaten",
                },
            ),
        }
        for one in placed
    ]


def _said(length: int | str | None) -> str:
    return NOT_SAID if length is None else str(length)


def _spec(rows: Sequence[Row], colour: Spec, latency: Metric) -> Spec:
    x = plots.axis("x", plots.head(latency), (row["x"] for row in rows))
    y = plots.axis("y", plots.head(THROUGHPUT), (row["y"] for row in rows))
    along = {"detail": {"field": "work"}, "order": {"field": "x"}}
    line = {
        "transform": [{"filter": "datum.front"}],
        **plots.layer(
            {"type": "line", "opacity": 0.6, "strokeWidth": 1.5}, x=x, y=y, color=colour, **along
        ),
    }
    fill = {"condition": {"test": "datum.front", **colour}, "value": "transparent"}
    shape = {"shape": colour} if colour["legend"] else {}
    point = {"type": "point", "size": 60, "filled": False}
    marks = plots.layer(point, rows, x=x, y=y, color=colour, fill=fill, **shape)
    return plots.panels(rows, [line, *plots.bars(rows, x, y, colour), marks])
