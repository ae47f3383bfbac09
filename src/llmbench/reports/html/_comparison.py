"""The runs beside the first of them: ratios with their intervals, and the verdicts of `llmbench compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmbench.compare import words
from llmbench.effects import Verdict
from llmbench.redact import shown
from llmbench.reports._words import head, value_of
from llmbench.reports.comparison import _words
from llmbench.reports.html import _figure
from llmbench.reports.html._dots import MOST_POINTS, cut, thinned
from llmbench.reports.html._figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.compare import Comparison, Contrast
    from llmbench.reports.comparison._words import Rows
    from llmbench.reports.html._figure import Row, Spec

TITLE = "Comparison"
DASH = "–"  # noqa: RUF001 - a range's own sign
LONGEST = 300


def figure(made: Comparison | str) -> Figure:
    """Return the figure of a comparison, or the reason why there is none."""
    if isinstance(made, str):
        return Figure(TITLE, f"Left out: {shown(made)}")
    names = _words.rows_of(made)
    found = [row for contrast in made.contrasts for row in _rows(made, contrast, names)]
    kept = thinned(found, MOST_POINTS)
    records = [row["record"] for row in kept]
    return Figure(
        TITLE,
        f"{_words.title(made)}. The baseline is {shown(made.baseline)}; a ratio above one is the larger number.",
        _spec(made, kept) if kept else None,
        _figure.grid(records, ("cell", "candidate", "verdict")) if kept else None,
        (*_figure.thinning(len(kept), len(found), "cells"), *map(_short, _notes(made))),
    )


def _notes(made: Comparison) -> Iterator[str]:
    yield from made.notices
    for contrast in made.contrasts:
        yield f"{contrast.name}: {_words.summary(made, contrast)}."
        if whole := _words.overall(contrast, DASH):
            yield f"{contrast.name}: {whole}."
        for group in contrast.missing:
            what, which = _words.missing(group)
            yield f"{contrast.name}: {what}: {which}"
        yield from (f"{contrast.name}: {notice}" for notice in contrast.notices)


def _short(text: str) -> str:
    return cut(shown(text), LONGEST)


def _rows(made: Comparison, contrast: Contrast, names: Rows) -> Iterator[Row]:
    """Yield a row a cell; an interval over twice the ratio is told and not drawn."""
    effects, unit = contrast.effects, made.asked.metric.unit
    texts = zip(
        _words.values(made, contrast.middles[0], contrast.sessions[0]),
        _words.ratios(contrast),
        _words.intervals(contrast, DASH),
        _words.verdicts(made, contrast),
        strict=True,
    )
    for number, (baseline, ratio, interval, verdict) in enumerate(texts):
        row: Row = {
            "panel": shown(contrast.name),
            "verdict": words(made.asked.metric)[Verdict(int(effects.verdict[number]))],
            "x": _figure.rounded(float(contrast.middles[0][number]) * unit.factor),
            "y": _figure.rounded(float(effects.ratio[number])),
            "record": {
                "cell": _name(names, names.places[contrast.cells[number].id]),
                "candidate": shown(contrast.name),
                f"baseline ({unit.word})": baseline,
                "ratio": ratio,
                "95 % interval": interval,
                "verdict": shown(verdict),
            },
        }
        low, high = float(effects.low[number]), float(effects.high[number])
        if np.isfinite(low) and high <= 2 * effects.ratio[number]:
            row |= {"y_low": _figure.rounded(low), "y_high": _figure.rounded(high)}
        yield row


def _name(names: Rows, place: int) -> str:
    values = ((head(axis.name), value_of(axis.values[place])) for axis in names.axes)
    return ", ".join(f"{shown(name)} {cut(shown(value))}" for name, value in values)


def _spec(made: Comparison, rows: list[Row]) -> Spec:
    x = _figure.axis(
        "x", f"baseline's {_figure.head(made.asked.metric)}", (row["x"] for row in rows)
    )
    y = _figure.linear("y", "candidate / baseline")
    verdict = {
        "field": "verdict", "type": "nominal", "title": None,
        "scale": {"domain": list(words(made.asked.metric).values())},
        "legend": {"values": list(dict.fromkeys(row["verdict"] for row in rows))},
    }  # fmt: skip
    one = {"mark": {"type": "rule", "opacity": 0.5}, "encoding": {"y": {"datum": 1}}}
    dots = {
        "mark": {"type": "point", "size": 45, "filled": True},
        "encoding": {
            "x": x, "y": y, "color": verdict, "shape": {**verdict}, "tooltip": _figure.tooltip(rows),
        },
    }  # fmt: skip
    return _figure.panels(rows, [one, *_figure.bars(rows, x, y, verdict), dots])
