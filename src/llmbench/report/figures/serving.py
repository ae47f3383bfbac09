"""Latency and goodput of a server over the requests that it answered a second, with the knee of each curve."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from llmbench.report import plots
from llmbench.report.document import foreign
from llmbench.report.figures.cells import MOST_POINTS, thinned
from llmbench.results.metrics import BY_KEY
from llmbench.spec.load import CLOSED, LOAD, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report.document import Section
    from llmbench.report.figures.cells import Dot, ShownNumber
    from llmbench.report.plots import Row, Spec
    from llmbench.results.metrics import Metric

ANSWERED, GOODPUT, WHOLE = (BY_KEY[key] for key in ("achieved_rps", "goodput_rps", "served_e2e_s"))
LATENCIES = tuple(BY_KEY[key] for key in ("served_ttft_s", "served_tpot_s"))
RATE = BY_KEY["steady_output_tok_s"]
LOOPS = ("closed loop", "open loop")
KNEE_OF = {
    GOODPUT.key: "the highest goodput",
    WHOLE.key: "the most requests a second for each second that one takes",
}
"""How a knee is chosen: by the goodput where there are limits, else by throughput / latency (Kleinrock's power)."""
ABOUT = (
    "Each dot is a load, named beside it and placed by the requests that it had answered a second. A line joins loads "
    "of one kind, closed or open, on the same engine with the same lengths. A ring marks the knee of a line. Bars are "
    "95 % intervals between sessions."
)
AS_ABOVE = "Dots, lines, rings and bars as in the figure above."


class ServedDot(NamedTuple):
    """A load that was measured: its cell, the curve it lies on, and what it answered a second."""

    dot: Dot
    curve: str
    loop: str
    answered: ShownNumber


def figures(dots: Sequence[Dot]) -> Iterator[Section]:
    """Yield a figure for each latency, and one for the goodput, or for the tokens a second without limits."""
    placed = list(_placed(dots))
    if not placed:
        return
    knees = dict(_knees(placed))
    good = GOODPUT if any(one.dot.number(GOODPUT) for one in placed) else RATE
    about = " ".join((ABOUT, *_said(placed, knees)))
    for metric, what in (*((each, f"{each.label}") for each in LATENCIES), (good, good.label)):
        title = f"{what[0].upper()}{what[1:]} over load"
        known = [(one, number) for one in placed if (number := one.dot.number(metric))]
        if not known:
            yield plots.section(title, f"Left out: no load has a {metric.label}.")
            continue
        kept = thinned(known, MOST_POINTS)
        rows, colour = plots.arranged(
            [_row(one, number, metric, knees) for one, number in kept], "series", "loop", LOOPS
        )
        notes = (
            *plots.thinning(len(rows), len(known), "loads"),
            *_absent(len(placed) - len(known), metric),
            *plots.barless(rows),
        )
        left = ("cell", "load", "knee", "warnings")
        yield plots.figure(title, about, _spec(rows, colour, metric), rows, notes, left)
        about = AS_ABOVE


def _placed(dots: Sequence[Dot]) -> Iterator[ServedDot]:
    """Yield the loads that answered something, those that answered least first."""
    for dot in dots:
        answered = dot.number(ANSWERED)
        if answered and LOAD in dot.cell.options:
            closed = parse(str(dot.cell.options[LOAD])).kind == CLOSED
            lengths = f"in {dot.cell.input_len}, out {dot.cell.output_len}"
            curve = f"{dot.series}, {lengths}, {dot.run.label}"
            yield ServedDot(dot, curve, LOOPS[not closed], answered)


def _knees(placed: Sequence[ServedDot]) -> Iterator[tuple[str, tuple[ServedDot, Metric]]]:
    """Yield the knee of each curve of at least three loads, and the metric by which it was chosen."""
    curves: defaultdict[str, list[ServedDot]] = defaultdict(list)
    for one in placed:
        curves[f"{one.curve}, {one.loop}"].append(one)
    for name, loads in curves.items():
        good = [(number.value, one) for one in loads if (number := one.dot.number(GOODPUT))]
        power = [
            (one.answered.value / number.value, one)
            for one in loads
            if (number := one.dot.number(WHOLE))
        ]
        chosen, by = (good, GOODPUT) if good else (power, WHOLE)
        if len(chosen) > 2:
            yield name, (max(chosen, key=lambda pair: pair[0])[1], by)


def _said(placed: Sequence[ServedDot], knees: dict[str, tuple[ServedDot, Metric]]) -> Iterator[str]:
    """Yield how knees were chosen, and where they are if they are few."""
    ways = dict.fromkeys(KNEE_OF[by.key] for _, by in knees.values())
    if ways:
        yield f"A knee is the load with {' or with '.join(ways)}."
    if 0 < len(knees) <= 4:
        several = len({one.curve for one in placed}) > 1
        where = (
            f"{foreign(str(one.dot.cell.options[LOAD]))}"
            f"{f' of {foreign(one.curve)}' if several else f' of the {one.loop}'}"
            f"{', the highest measured, so that the true one may lie above' if _is_last(one, placed) else ''}"
            for one, _ in knees.values()
        )
        yield f"It is at load {' and '.join(where)}."


def _is_last(one: ServedDot, placed: Sequence[ServedDot]) -> bool:
    """Return whether no load of its curve answered more."""
    curve = (each for each in placed if (each.curve, each.loop) == (one.curve, one.loop))
    return all(each.answered.value <= one.answered.value for each in curve)


def _absent(count: int, metric: Metric) -> tuple[str, ...]:
    if not count:
        return ()
    return (f"{count:,} loads have no {metric.label}: an overloaded server's is withheld.",)


def _row(
    one: ServedDot,
    number: ShownNumber,
    metric: Metric,
    knees: dict[str, tuple[ServedDot, Metric]],
) -> Row:
    curve = f"{one.curve}, {one.loop}"
    knee = curve in knees and knees[curve][0] is one
    figures = {
        "load": foreign(str(one.dot.cell.options[LOAD])),
        plots.head(ANSWERED): one.answered.text,
        plots.head(metric): number.text,
        "knee": "here" if knee else "",
    }
    return {
        "loop": one.loop,
        "load": str(one.dot.cell.options[LOAD]),
        "curve": curve,
        "knee": knee,
        "series": one.dot.series,
        **plots.interval("x", one.answered),
        **plots.interval("y", number),
        "record": plots.record(one.dot, figures),
    }


def _spec(rows: Sequence[Row], colour: Spec, metric: Metric) -> Spec:
    x = plots.axis("x", plots.head(ANSWERED), (row["x"] for row in rows))
    y = plots.axis("y", plots.head(metric), (row["y"] for row in rows))
    along = {"detail": {"field": "curve"}, "order": {"field": "x"}}
    line = plots.layer({"type": "line", "strokeWidth": 1.5}, x=x, y=y, color=colour, **along)
    point = {"type": "point", "size": 45, "filled": True, "opacity": 1}
    marks = plots.layer(point, rows, x=x, y=y, color=colour)
    ring = {
        "transform": [{"filter": "datum.knee"}],
        **plots.layer(
            {"type": "point", "size": 260, "filled": False, "strokeWidth": 2},
            x=x,
            y=y,
            color=colour,
        ),
    }
    named = {"type": "text", "align": "left", "dx": 7, "dy": -7, "fontSize": 10}
    names = plots.layer(named, x=x, y=y, color=colour, text={"field": "load"})
    return plots.panels(rows, [line, *plots.bars(rows, x, y, colour), marks, ring, names])
