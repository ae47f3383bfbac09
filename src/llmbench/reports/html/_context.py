"""Time per token over the length of the prompt, a line for each batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.metrics import BY_KEY
from llmbench.reports.html import _figure
from llmbench.reports.html._dots import MOST_PANELS, MOST_POINTS, thinned
from llmbench.reports.html._figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.reports.html._dots import Dot, Number
    from llmbench.reports.html._figure import Row, Spec

TPOT = BY_KEY["tpot_s"]
TITLE = "Decode latency over context"
ABOUT = (
    "How the time per token grows with the prompt that it looks back on: a line for each batch, a panel for each "
    "model. Bars are 95 % intervals between sessions."
)


def figures(dots: Sequence[Dot]) -> Iterator[Figure]:
    """Yield the figure."""
    found = [(dot, number) for dot in dots if dot.cell.input_len and (number := dot.number(TPOT))]
    if not found:
        yield Figure(
            TITLE, f"Left out: no cell has a {TPOT.label} and says how long its prompts were."
        )
        return
    kinds = list(dict.fromkeys(dot.kind for dot, _ in found))
    panels = set(thinned(kinds, MOST_PANELS))
    kept = thinned([one for one in found if one[0].kind in panels], MOST_POINTS)
    rows = [_row(dot, number) for dot, number in kept]
    yield Figure(
        TITLE,
        ABOUT,
        _spec(dots, rows),
        _figure.grid([row["record"] for row in rows]),
        (*_figure.thinning(len(kept), len(found), "cells"), *_figure.barless(rows)),
    )


def _row(dot: Dot, tpot: Number) -> Row:
    cell = dot.cell
    return {
        "panel": dot.kind,
        "batch": cell.batch_size,
        "line": f"{cell.output_len} {dot.variant}",
        "x": cell.input_len,
        **_figure.identity(dot),
        **_figure.interval("y", tpot),
        "record": _figure.record(dot, {"in": f"{cell.input_len:,}", _figure.head(TPOT): tpot.text}),
    }


def _spec(dots: Sequence[Dot], rows: Sequence[Row]) -> Spec:
    x = _figure.lengths("x", "prompt tokens", (row["x"] for row in rows))
    y = _figure.axis("y", _figure.head(TPOT), (row["y"] for row in rows))
    batch = {"field": "batch", "type": "ordinal", "title": "batch"}
    line = {
        "mark": {"type": "line", "strokeWidth": 1.5},
        "encoding": {
            "x": x, "y": y, "color": batch, "detail": {"field": "line"},
            **_figure.variant(dots, rows, "strokeDash"),
        },
    }  # fmt: skip
    marks = {
        "mark": {"type": "point", "size": 45, "filled": True, "opacity": 1},
        "encoding": {
            "x": x, "y": y, "color": batch, **_figure.variant(dots, rows, "shape"),
            "tooltip": _figure.tooltip(rows),
        },
    }  # fmt: skip
    return _figure.panels(rows, [line, *_figure.bars(rows, x, y, batch), marks])
