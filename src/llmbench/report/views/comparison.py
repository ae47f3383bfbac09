"""What a comparison says to people, in words and figures: the same on a terminal and in Markdown."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench.compare import words
from llmbench.redact import shown
from llmbench.report.views import run
from llmbench.report.views.columns import Column, Columns, axis
from llmbench.report.views.run import ABSENT, plural
from llmbench.results.table import Numbers, axes_of
from llmbench.stats.effects import FALSE_DISCOVERIES, Noise, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.compare import Comparison, Contrast
    from llmbench.compare.match import Missing
    from llmbench.results.table import Axis, Integers, Reals
    from llmbench.spec.sweep import Point

MOST_SESSIONS = 100
"""More sessions than this are told as more than this: nobody will take them."""
NAMED_CELLS = 3
"""Cells of a group that are named; the rest are counted."""
NO_CELL = "No cell has a number on both sides."
LACKING = {"candidate": "in the candidate", "baseline": "in the baseline", "both": "on both sides"}


class Rows(NamedTuple):
    """The cells that any candidate is compared in: their coordinates, and each one's place by its id."""

    cells: tuple[Point, ...]
    axes: tuple[Axis, ...]
    constants: dict[str, object]
    places: dict[str, int]


def rows_of(made: Comparison) -> Rows:
    """Return the rows of a comparison; the factor compared is no coordinate."""
    cells = tuple({cell.id: cell for of in made.contrasts for cell in of.cells}.values())
    axes, constants = axes_of(cells)
    constants.pop(made.asked.factor or "", None)
    places = {cell.id: place for place, cell in enumerate(cells)}
    return Rows(cells, axes, constants, places)


def columns(made: Comparison, rows: Rows, dash: str) -> Columns:
    """Return the columns of a comparison, a row for each cell; of several candidates only what differs."""
    left = [axis(one, range(len(rows.cells))) for one in rows.axes]
    right = [Column("baseline", baseline(made, rows), unit=made.asked.metric.unit.word)]
    for contrast in made.contrasts:
        right += _beside(made, rows, contrast, dash)
    return Columns(left, right)


def _beside(made: Comparison, rows: Rows, contrast: Contrast, dash: str) -> Iterator[Column]:
    """Yield a candidate's columns."""
    ratios = [ratio(value) for value in contrast.effects.ratio.tolist()]
    around = intervals(contrast, dash)
    candidate = values(made, contrast.middles[1], contrast.sessions[1])
    if len(made.contrasts) > 1:
        name = shown(PurePath(contrast.name).name)
        both = [f"{a} ({b})" for a, b in zip(ratios, around, strict=True)]
        found = [Column(f"{name}\nratio", both)]
    else:
        unit = made.asked.metric.unit.word
        found = [
            Column("candidate", candidate, unit=unit),
            Column("ratio", ratios),
            Column("95 %\ninterval", around),
        ]
    if counts := session_counts(made, contrast):
        found.append(Column("sessions", counts))
    found.append(Column("verdict", verdicts(made, contrast), "words"))
    for column in found:
        yield column._replace(texts=over(rows, contrast, column.texts))


def over(rows: Rows, contrast: Contrast, texts: Sequence[str]) -> list[str]:
    """Return a contrast's texts at the places of its cells, and a sign of absence at the others."""
    placed = [ABSENT] * len(rows.cells)
    for cell, text in zip(contrast.cells, texts, strict=True):
        placed[rows.places[cell.id]] = text
    return placed


def values(made: Comparison, middles: Reals, sessions: Integers) -> list[str]:
    """Return values in the unit that a table shows, with four digits."""
    nothing = np.full_like(middles, np.nan)
    numbers = Numbers(made.asked.metric, middles, nothing, nothing, sessions)
    return run.figures(numbers, range(len(middles)), "").values


def intervals(contrast: Contrast, dash: str) -> list[str]:
    """Return the 95 % intervals of the ratios."""
    ends = zip(contrast.effects.low.tolist(), contrast.effects.high.tolist(), strict=True)
    return [interval(low, high, dash) for low, high in ends]


def interval(low: float, high: float, dash: str) -> str:
    """Return an interval as text."""
    return ABSENT if math.isnan(low) else f"{ratio(low)}{dash}{ratio(high)}"


def ratio(value: float) -> str:
    """Return a ratio with three decimals, and fewer where it is large."""
    if math.isnan(value):
        return ABSENT
    return f"{value:,.{3 if value < 10 else 1 if value < 1000 else 0}f}"


def verdicts(made: Comparison, contrast: Contrast) -> list[str]:
    """Return the verdicts, and of the unclear ones the sessions that would decide them."""
    named = words(made.asked.metric)
    effects = contrast.effects
    columns = (effects.verdict, effects.needed, effects.noise, contrast.disturbed)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        named[Verdict(verdict)]
        + (" (busy machine)" if disturbed else _remark(Verdict(verdict), needed, Noise(noise)))
        for verdict, needed, noise, disturbed in rows
    ]


def _remark(verdict: Verdict, needed: float, noise: Noise) -> str:
    if noise is Noise.NONE and verdict is Verdict.UNCLEAR:
        return " (1 session)"
    parts = []
    if verdict is Verdict.UNCLEAR:
        parts.append(
            f"needs over {MOST_SESSIONS} sessions"
            if needed > MOST_SESSIONS
            else f"needs {needed:.0f} sessions"
        )
    if noise is Noise.CALIBRATED:
        parts.append("calibrated")
    return f" ({', '.join(parts)})" if parts else ""


def title(made: Comparison) -> str:
    """Return what is compared."""
    metric = made.asked.metric
    better = f", {metric.better} is better" if metric.better else ""
    margin = f"{100 * made.asked.margin:g} %"
    return f"{metric.label} compared ({metric.unit.word}{better}; margin {margin})"


def constants(made: Comparison, rows: Rows) -> dict[str, str]:
    """Return what is the same in every row, by the head its column would have."""
    same = {run.head(name): run.value_of(value) for name, value in rows.constants.items()}
    if sessions := _same_sessions(made):
        same["sessions"] = sessions
    return same


def _same_sessions(made: Comparison) -> str:
    """Return the sessions a side if all cells have as many, else nothing."""
    counts = {text for contrast in made.contrasts for text in _counts(contrast)}
    return counts.pop() if len(counts) == 1 else ""


def baseline(made: Comparison, rows: Rows) -> list[str]:
    """Return the baseline's value in every row."""
    middles = np.full(len(rows.cells), np.nan)
    sessions = np.zeros(len(rows.cells), dtype=np.int64)
    for contrast in made.contrasts:
        places = [rows.places[cell.id] for cell in contrast.cells]
        middles[places], sessions[places] = contrast.middles[0], contrast.sessions[0]
    return values(made, middles, sessions)


def session_counts(made: Comparison, contrast: Contrast) -> list[str]:
    """Return the sessions of each cell: `3`, or `3, 5` where the sides differ; nothing if all have as many."""
    return [] if _same_sessions(made) else _counts(contrast)


def _counts(contrast: Contrast) -> list[str]:
    pairs = zip(*(side.tolist() for side in contrast.sessions), strict=True)
    return [str(a) if a == b else f"{a}, {b}" for a, b in pairs]


def legend(made: Comparison, dash: str) -> Iterator[str]:
    """Yield what the columns and the verdicts mean."""
    metric, named = made.asked.metric, words(made.asked.metric)
    margin = f"{100 * made.asked.margin:g} %"
    shared = any((of.effects.noise == Noise.SHARED).any() for of in made.contrasts)
    how = (
        "the variances of all cells inform each other"
        if shared
        else "each cell by its own variance"
    )
    pairs = "of the same round, paired" if made.asked.factor else "of either side"
    yield f"Ratio: candidate over baseline, means of the logarithms of sessions {pairs}; 95 % intervals: {how}."
    yield (
        f"{named[Verdict.WORSE]}, {named[Verdict.BETTER]}: the interval lies beyond {margin} of the baseline, and at "
        f"most {100 * FALSE_DISCOVERIES:g} % of such verdicts are false (Benjamini{dash}Hochberg over the table). "
        f"same: the 90 % interval lies within {margin}. unclear: neither; in brackets the sessions a side that "
        "would tell."
    )
    peak = "; the mean of the sessions' logarithms" if metric.over == "max" else ""
    yield f"{metric.label}: {metric.definition}{peak}."


def counts(made: Comparison, contrast: Contrast) -> dict[str, int]:
    """Return how many cells have which verdict, and how many could not be compared."""
    found = Counter(contrast.effects.verdict.tolist())
    lacking = sum(len(missing.cells) for missing in contrast.missing)
    return {word: found[verdict] for verdict, word in words(made.asked.metric).items()} | {
        "missing": lacking
    }


def summary(made: Comparison, contrast: Contrast) -> str:
    """Return how many cells have which verdict, in words."""
    found = counts(made, contrast)
    parts = [f"{count:,} {word}" for word, count in found.items() if count]
    return f"{plural(sum(found.values()), 'cell')}: {', '.join(parts) or 'none'}"


def candidates(made: Comparison, dash: str) -> Columns:
    """Return the candidates, a row each: their verdicts counted, and the mean of their ratios."""
    counted = [counts(made, contrast) for contrast in made.contrasts]
    wholes = [contrast.overall for contrast in made.contrasts]
    names = [contrast.name for contrast in made.contrasts]
    return Columns(
        [Column("candidate", names, "name")],
        [
            *(Column(word, [f"{each[word]:,}" for each in counted]) for word in counted[0]),
            Column("geometric\nmean", [ratio(whole.ratio) for whole in wholes]),
            Column("95 %\ninterval", [interval(whole.low, whole.high, dash) for whole in wholes]),
        ],
    )


def overall(contrast: Contrast, dash: str) -> str:
    """Return the geometric mean of the ratios and its interval; nothing without a cell."""
    whole = contrast.overall
    if not whole.cells:
        return ""
    around = interval(whole.low, whole.high, dash)
    told = (
        f" (95 % interval over sessions {around})"
        if around != ABSENT
        else " (no interval: one session)"
    )
    return f"Geometric mean of the ratios: {ratio(whole.ratio)}{told}"


def missing(of: Missing) -> Iterator[str]:
    """Yield a group of cells without a comparison: how many and why, and then which."""
    where = LACKING[of.lacking]
    yield f"{plural(len(of.cells), 'cell')} without a number {where}: {of.reason}"
    names = [cell.id for cell in of.cells[:NAMED_CELLS]]
    if len(of.cells) > NAMED_CELLS:
        names.append(f"and {plural(len(of.cells) - NAMED_CELLS, 'more cell')}")
    yield "; ".join(names)
