"""Time per token over the length of the prompt, a line for each batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.report import plots
from llmbench.report.figures.cells import MOST_POINTS, thinned
from llmbench.results.metrics import BY_KEY
from llmbench.spec.sweep import NOT_SAID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report.document import Section
    from llmbench.report.figures.cells import Dot, ShownNumber
    from llmbench.report.plots import Row, Spec

TPOT = BY_KEY["tpot_s"]
TITLE = "Decode latency over context"
ABOUT = (
    "How the time per token grows with the prompt that it looks back on: a line for each batch size "
    "and length of answer. Bars are 95 % intervals between sessions."
)


def figures(dots: Sequence[Dot]) -> Iterator[Section]:
    """Yield the figure."""
    numbers = [
        (dot, number)
        for dot in dots
        if dot.cell.input_len and not dot.cell.spread and (number := dot.number(TPOT))
    ]
    if not numbers:
        yield plots.section(
            TITLE, f"Left out: no cell has a {TPOT.label} and one length of prompts that it says."
        )
        return
    batches = sorted({dot.cell.batch_size or 0 for dot, _ in numbers})
    rows, colour = plots.arranged(
        [_row(dot, number) for dot, number in thinned(numbers, MOST_POINTS)],
        "series",
        "batch",
        map(_batch, batches),
    )
    notes = (*plots.thinning(len(rows), len(numbers), "cells"), *plots.barless(rows))
    yield plots.figure(TITLE, ABOUT, _spec(rows, colour), rows, notes)


def _row(dot: Dot, tpot: ShownNumber) -> Row:
    cell = dot.cell
    return {
        "batch": _batch(cell.batch_size),
        "line": f"{cell.batch_size} {cell.output_len}",
        "x": cell.input_len,
        "series": dot.series,
        **plots.interval("y", tpot),
        "record": plots.record(dot, {"in": f"{cell.input_len:,}", plots.head(TPOT): tpot.text}),
    }


def _batch(size: int | None) -> str:
    return f"batch {size or NOT_SAID}"


def _spec(rows: Sequence[Row], colour: Spec) -> Spec:
    x = plots.lengths("x", "prompt tokens", (row["x"] for row in rows))
    y = plots.axis("y", plots.head(TPOT), (row["y"] for row in rows))
    if all(row["colour"] == row["batch"] for row in rows):
        colour = colour | {"type": "ordinal"}  # from dark to light
    line = plots.layer(
        {"type": "line", "strokeWidth": 1.5}, x=x, y=y, color=colour, detail={"field": "line"}
    )
    point = {"type": "point", "size": 45, "filled": True, "opacity": 1}
    marks = plots.layer(point, rows, x=x, y=y, color=colour)
    return plots.panels(rows, [line, *plots.bars(rows, x, y, colour), marks])
