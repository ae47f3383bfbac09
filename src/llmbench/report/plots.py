"""Parts of plots: Vega-Lite's grammar, the same numbers as a table, and sentences about numbers left out.

Whatever can be seen in a plot stands in its table, from the same rows. Colours and fonts are the page's own
(page.js sets them): a plot says only which field decides what.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

from llmbench.report.document import Column, Grid, Note, Plot, Section, unmarked
from llmbench.report.figures.cells import MOST_PANELS, distinct, thinned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmbench.report.figures.cells import Dot, ShownNumber
    from llmbench.results.metrics import Metric

Spec: TypeAlias = "dict[str, Any]"
Row: TypeAlias = "dict[str, Any]"

PLOTTED = {
    "achieved_rps",
    "served_e2e_s",
    "ttft_s",
    "tpot_s",
    "output_tok_s",
    "e2e_s",
    "weights_bytes",
    "kv_cache_bytes",
}
"""The metrics whose definition a reader of the plots needs, headlines or not."""

DECADE = 10.0
"""Values whose largest is this many times the smallest are shown on a logarithmic axis."""
MOST_TICKS = 8
MOST_SERIES = 7
"""Colours of one plot, which are as many as the page has and can be told apart."""
MOST_BARS = 200
"""Intervals in one plot that do not yet hide what they belong to."""


def section(
    title: str,
    about: str = "",
    spec: Spec | None = None,
    table: Grid | None = None,
    notes: Iterable[str] = (),
    *,
    detail: bool = False,
) -> Section:
    """Return a figure as a section: what it is about, what was left out, the plot with its table or either."""
    blocks: list[Note | Plot | Grid] = [Note(note, "warning") for note in notes]
    if spec and table:
        blocks.append(Plot(spec, table, about))
    else:
        blocks += [*([Note(about)] if about else []), *([table] if table else [])]
    return Section(blocks, title, detail)


def figure(
    title: str,
    about: str,
    spec: Spec,
    rows: Sequence[Row],
    notes: Iterable[str],
    left: Iterable[str] = ("cell", "warnings"),
) -> Section:
    """Return a plot of rows as a section, with their records as its table."""
    return section(title, about, spec, table([row["record"] for row in rows], left), notes)


def head(metric: Metric) -> str:
    """Return a metric's label with its unit."""
    return f"{metric.label} ({metric.unit.word})"


def record(dot: Dot, numbers: Mapping[str, str]) -> dict[str, str]:
    """Return the tooltip of a point: which cell it is, numbers, sessions, warnings."""
    return {
        "cell": dot.name or "the only cell",
        **numbers,
        "sessions": str(dot.valid),
        "warnings": dot.warnings or "none",
    }


def interval(name: str, number: ShownNumber) -> Row:
    """Return a number as the fields of a row: its value, and the ends of its interval if there is one."""
    row: Row = {name: rounded(number.value)}
    if number.low is not None and number.high is not None:
        row |= {f"{name}_low": rounded(number.low), f"{name}_high": rounded(number.high)}
    return row


def rounded(value: float) -> float:
    """Return a value with the digits that a plot can show."""
    return float(f"{value:.5g}")


def heads(records: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """Return the keys of all records, in order of appearance."""
    return tuple(dict.fromkeys(name for record in records for name in record))


def tooltip(rows: Sequence[Row]) -> list[Spec]:
    """Return the channel that shows the `record` of a row; `panels` writes its fields."""
    return [
        {"field": f"t{number}", "type": "nominal", "title": name}
        for number, name in enumerate(heads(row["record"] for row in rows))
    ]


def axis(field: str, title: str, values: Iterable[float]) -> Spec:
    """Return a position on a linear axis, or on a logarithmic one if the values span a decade."""
    values = list(values)
    wide = bool(values) and 0 < DECADE * min(values) <= max(values)
    return logarithmic(field, title, values) if wide else linear(field, title)


def nominal(field: str, **more: Any) -> Spec:
    """Return a channel of names without a title."""
    return {"field": field, "type": "nominal", "title": None, **more}


def linear(field: str, title: str) -> Spec:
    """Return a position on a linear axis that need not begin at zero."""
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, "padding": 12},
        "axis": {"format": ",~r", "tickCount": 5, "labelOverlap": "greedy", "labelSeparation": 6},
    }


def logarithmic(field: str, title: str, values: Iterable[float]) -> Spec:
    """Return a position on a logarithmic axis, with ticks at 1, 2 and 5, or at powers of ten if they suffice."""
    values = list(values)
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if last - first < MOST_TICKS / 2 else (1,)
    return {
        "field": field,
        "type": "quantitative",
        "title": _log(title),
        "scale": {"type": "log", "nice": False, "padding": 12},
        "axis": {
            "format": ",~r",
            "labelOverlap": "greedy",
            "labelSeparation": 6,
            "values": [
                step * 10.0**power for power in range(first - 1, last + 1) for step in steps
            ],
        },
    }


def _log(title: str) -> str:
    """Return the title of a logarithmic axis: `TPOT (ms, log)`."""
    return f"{title[:-1]}, log)" if title.endswith(")") else f"{title} (log)"


def lengths(field: str, title: str, values: Iterable[int]) -> Spec:
    """Return a position on a logarithmic axis of token counts, with a tick at each that occurs."""
    ticks_at = sorted(set(values))
    ticks = {"values": ticks_at} if len(ticks_at) <= MOST_TICKS else {"tickCount": 5}
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"type": "log", "base": 2, "nice": False, "padding": 12},
        "axis": {"format": ",d", "labelOverlap": "greedy", "labelSeparation": 6, **ticks},
    }


THIN = {"opacity": 0.45}


def bars(
    rows: Sequence[Row], x: Spec, y: Spec, colour: Spec, style: Mapping[str, float] = THIN
) -> list[Spec]:
    """Return the intervals of rows that have them, as thin lines along both axes; none of too many rows."""
    if len(rows) > MOST_BARS:
        return []
    across = {"x": {**x, "field": "x_low"}, "x2": {"field": "x_high"}, "y": y}
    along = {"x": x, "y": {**y, "field": "y_low"}, "y2": {"field": "y_high"}}
    return [
        {
            "transform": [{"filter": f"isValid(datum.{name}_low)"}],
            "mark": {"type": "rule", **style},
            "encoding": {**places, "color": colour},
        }
        for name, places in (("x", across), ("y", along))
        if any(f"{name}_low" in row for row in rows)
    ]


def barless(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the sentence that says that intervals are not drawn, if they are not."""
    if len(rows) <= MOST_BARS:
        return ()
    return ("So many intervals would hide the points; tooltips and the table have them.",)


def arranged(
    rows: Sequence[Row], panel: str, colour: str, domain: Iterable[str] = ()
) -> tuple[list[Row], Spec]:
    """Return rows with a panel and a colour each, and the channel of the colour.

    One of the two fields makes the panels, the other the colours, as named here or the other way round: a panel has
    at most MOST_SERIES colours, none of them twice. If neither field is that short, each series has a panel.

    Args:
        rows: of a plot, each with the fields named.
        panel: the field that makes the panels, if it can.
        colour: the field that makes the colours, if it can.
        domain: its values all over the page, which then have one colour in every plot.

    """
    counts = {field: distinct(row[field] for row in rows) for field in (panel, colour)}
    ways = [each for each in ((panel, colour), (colour, panel)) if counts[each[1]] <= MOST_SERIES]
    fitting = [each for each in ways if counts[each[0]] <= MOST_PANELS]
    apart, told = (fitting or ways or [("series", "")])[0]
    names = set(thinned(list(dict.fromkeys(row[apart] for row in rows)), MOST_PANELS))
    placed = [
        row | {"panel": row[apart], "colour": row[told] if told else ""}
        for row in rows
        if row[apart] in names
    ]
    here = list(dict.fromkeys(row["colour"] for row in placed))
    whole = list(dict.fromkeys(domain)) if told == colour else here
    whole = whole if len(whole) <= MOST_SERIES else here
    legend = {"values": here} if len(whole) > 1 else None
    return placed, nominal("colour", scale={"domain": whole}, legend=legend)


def layer(mark: Spec, rows: Sequence[Row] = (), /, **channels: Any) -> Spec:
    """Return marks of one kind; those of rows have their records as tooltips."""
    tooltips = {"tooltip": tooltip(rows)} if rows else {}
    return {"mark": mark, "encoding": {**channels, **tooltips}}


def panels(rows: Sequence[Row], layers: list[Spec], **more: Any) -> Spec:
    """Return layers over rows, in a panel for each value of the field `panel` if there are several."""
    order = list(dict.fromkeys(row["panel"] for row in rows))
    whole: Spec = {"data": {"values": _plain(rows)}, "usermeta": {"panels": len(order)}, **more}
    if len(order) == 1:
        return whole | {"layer": layers}
    return whole | {"facet": nominal("panel", sort=order), "spec": {"layer": layers}}


def _plain(rows: Sequence[Row]) -> list[Row]:
    """Return rows with each entry of their `record` as a field; Vega reads marks in a field's name as paths."""
    names = heads(row["record"] for row in rows)
    return [
        {name: value for name, value in row.items() if name != "record"}
        | {f"t{number}": row["record"].get(name, "") for number, name in enumerate(names)}
        for row in rows
    ]


def table(records: Sequence[Mapping[str, str]], left: Iterable[str] = ("cell", "warnings")) -> Grid:
    """Return records as a table; those named `left` are words, the others numbers."""
    named = set(left)
    return Grid(
        [
            Column(
                name, [of.get(name, "") for of in records], "words" if name in named else "number"
            )
            for name in heads(records)
        ]
    )


def records(shown: Grid) -> list[dict[str, str]]:
    """Return the rows of a table as records, for tooltips."""
    names = [unmarked(column.title) for column in shown.columns]
    columns = [list(map(unmarked, column.joined)) for column in shown.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def thinning(shown: int, of: int, what: str) -> tuple[str, ...]:
    """Return the sentence that says how much a plot leaves out, if it does."""
    if shown == of:
        return ()
    return (
        f"Thinned: {shown:,} of {of:,} {what} are shown, at even steps; `llmbench table RUN --format csv` has all.",
    )
