"""Time per token over the length of the prompt, a line for each batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.report import plots
from llmbench.report.figures.cells import MOST_PANELS, MOST_POINTS, thinned
from llmbench.results.metrics import BY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report.document import Section
    from llmbench.report.figures.cells import Dot, ShownNumber
    from llmbench.report.plots import Row, Spec

TPOT = BY_KEY["tpot_s"]
TITLE = "Decode latency over context"
ABOUT = (
    "How the time per token grows with the prompt that it looks back on: a line for each batch, a panel for each "
    "model. Bars are 95 % intervals between sessions."
)


def figures(dots: Sequence[Dot]) -> Iterator[Section]:
    """Yield the figure."""
    numbers = [(dot, number) for dot in dots if dot.cell.input_len and (number := dot.number(TPOT))]
    if not numbers:
        yield plots.section(
            TITLE, f"Left out: no cell has a {TPOT.label} and says how long its prompts were."
        )
        return
    kinds = list(dict.fromkeys(dot.kind for dot, _ in numbers))
    panels = set(thinned(kinds, MOST_PANELS))
    kept = thinned([one for one in numbers if one[0].kind in panels], MOST_POINTS)
    rows = [_row(dot, number) for dot, number in kept]
    notes = (*plots.thinning(len(kept), len(numbers), "cells"), *plots.barless(rows))
    yield plots.figure(TITLE, ABOUT, _spec(dots, rows), rows, notes)


def _row(dot: Dot, tpot: ShownNumber) -> Row:
    cell = dot.cell
    return {
        "panel": dot.kind,
        "batch": cell.batch_size,
        "line": f"{cell.output_len} {dot.variant}",
        "x": cell.input_len,
        **plots.identity(dot),
        **plots.interval("y", tpot),
        "record": plots.record(dot, {"in": f"{cell.input_len:,}", plots.head(TPOT): tpot.text}),
    }


def _spec(dots: Sequence[Dot], rows: Sequence[Row]) -> Spec:
    x = plots.lengths("x", "prompt tokens", (row["x"] for row in rows))
    y = plots.axis("y", plots.head(TPOT), (row["y"] for row in rows))
    batch = {"field": "batch", "type": "ordinal", "title": "batch"}
    along = {"detail": {"field": "line"}, **plots.variant(dots, rows, "strokeDash")}
    line = plots.layer({"type": "line", "strokeWidth": 1.5}, x=x, y=y, color=batch, **along)
    point = {"type": "point", "size": 45, "filled": True, "opacity": 1}
    marks = plots.layer(point, rows, x=x, y=y, color=batch, **plots.variant(dots, rows, "shape"))
    return plots.panels(rows, [line, *plots.bars(rows, x, y, batch), marks])
