"""Memory as the context grows: weights, keys and values, and the rest up to the peak."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmbench.report import plots
from llmbench.report.document import ABSENT
from llmbench.report.figures.cells import MOST_PANELS, thinned
from llmbench.results.metrics import BY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report.document import Section
    from llmbench.report.figures.cells import Dot
    from llmbench.report.plots import Row, Spec

WEIGHTS, CACHE = BY_KEY["weights_bytes"], BY_KEY["kv_cache_bytes"]
PEAKS = (BY_KEY["peak_allocated_bytes"], BY_KEY["host_peak_rss_bytes"])
"""The metrics of the peak: the device's where it was measured, else the host's."""
PARTS = (WEIGHTS.label, CACHE.label, "the rest")
MOST_BARS = 12
"""Bars in a panel that can still be told apart on a phone."""
TITLE = "Memory over context"


class Split(NamedTuple):
    """The parts of one cell's peak, in the unit of the metrics; the rest is None where the others exceed the peak."""

    dot: Dot
    parts: tuple[float, float, float | None]
    peak: float
    peak_label: str


def figures(dots: Sequence[Dot]) -> Iterator[Section]:
    """Yield the figure."""
    splits = [split for dot in dots if _context(dot) and (split := _split(dot))]
    if not splits:
        yield plots.section(
            TITLE, "Left out: no cell has its weights, its cache and a peak measured."
        )
        return
    kept = _kept(splits)
    rows = [row for number, split in enumerate(kept) for row in _rows(split, number)]
    peaks = " or ".join(dict.fromkeys(split.peak_label for split in kept))
    yield plots.section(
        TITLE,
        f"The parts of the {peaks} for each context (prompt and new tokens together), a panel for each model and "
        f"batch. {PARTS[2].capitalize()} is whatever is neither {PARTS[0]} nor {PARTS[1]}: activations, workspace, "
        "and on a host the interpreter with all that it imported.",
        _spec(rows),
        plots.table([_record(split) for split in kept]),
        (*plots.thinning(len(kept), len(splits), "cells"), *_excess(kept)),
    )


def _split(dot: Dot) -> Split | None:
    weights, cache = dot.number(WEIGHTS), dot.number(CACHE)
    for metric in PEAKS:
        peak = dot.number(metric)
        if weights and cache and peak:
            rest = peak.value - weights.value - cache.value
            parts = (weights.value, cache.value, rest if rest >= 0 else None)
            return Split(dot, parts, peak.value, metric.label)
    return None


def _kept(splits: Sequence[Split]) -> list[Split]:
    """Return as many panels, and as many bars in each, as can be read."""
    panels: dict[str, list[Split]] = {}
    for split in splits:
        panels.setdefault(_panel(split.dot), []).append(split)
    return [
        split for name in thinned(list(panels), MOST_PANELS // 2)  # bars need room
        for split in sorted(thinned(panels[name], MOST_BARS), key=lambda split: _context(split.dot))
    ]  # fmt: skip


def _panel(dot: Dot) -> str:
    return ", ".join(filter(None, (dot.kind, dot.variant, f"batch {dot.cell.batch_size}")))


def _context(dot: Dot) -> int:
    """Return the tokens of a whole sequence, 0 where one of its lengths is not said."""
    lengths = (dot.cell.input_len, dot.cell.output_len)
    return 0 if None in lengths else sum(filter(None, lengths))


def _rows(split: Split, number: int) -> Iterator[Row]:
    for order, value in enumerate(split.parts):
        if value is not None:
            yield {
                "panel": _panel(split.dot),
                "bar": number,
                "context": _context(split.dot),
                "part": PARTS[order],
                "order": order,
                "y": plots.rounded(value),
                "record": _record(split),
            }


def _record(split: Split) -> dict[str, str]:
    values = zip((*PARTS, split.peak_label), (*split.parts, split.peak), strict=True)
    figures = {f"{part} ({WEIGHTS.unit.word})": _text(value) for part, value in values}
    return plots.record(split.dot, {"context": f"{_context(split.dot):,}", **figures})


def _text(value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.4g}"


def _excess(splits: Sequence[Split]) -> tuple[str, ...]:
    over = sum(split.parts[2] is None for split in splits)
    if not over:
        return ()
    return (
        f"{over:,} cells hold more in weights and cache than their peak: their rest is unknown, not nothing.",
    )


def _spec(rows: Sequence[Row]) -> Spec:
    ticks = {"labelAngle": 0, "labelOverlap": "greedy", "format": ",d"}
    x = {"field": "context", "type": "ordinal", "title": "context (tokens)", "axis": ticks}
    y = plots.linear("y", f"memory ({WEIGHTS.unit.word})") | {"scale": {}, "stack": "zero"}
    colour = plots.nominal("part", scale={"domain": list(PARTS)})
    bar = {"type": "bar", "width": {"band": 0.75}}
    bars = plots.layer(bar, rows, x=x, y=y, color=colour, order={"field": "order"})
    return plots.panels(rows, [bars])
