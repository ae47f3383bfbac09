"""A comparison as a document: a row a cell with its ratio and verdict, then what could not be compared and why."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from llmbench import __version__
from llmbench.compare import Gate
from llmbench.compare import words as verdict_words
from llmbench.compare.sides import WITH
from llmbench.numbers import plural
from llmbench.redact import shown
from llmbench.report import plots, words
from llmbench.report.document import (
    ABSENT,
    Check,
    Column,
    Document,
    Grid,
    Note,
    Plot,
    Section,
    Suite,
    cut,
    foreign,
)
from llmbench.report.figures import conditions, forest
from llmbench.report.figures.cells import KIND, thinned
from llmbench.report.figures.forest import Estimate
from llmbench.report.views import facts
from llmbench.report.views.table import coordinate
from llmbench.results.table import Numbers, axes_of
from llmbench.stats.effects import FALSE_DISCOVERIES, SAME_CONFIDENCE, Noise, Verdict
from llmbench.stats.intervals import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.compare import Comparison, Contrast
    from llmbench.compare.match import Missing
    from llmbench.report.document import Outcome
    from llmbench.results.store import Log
    from llmbench.results.table import Axis, Reals

FORMAT = 1
"""The shape of the data; its history: 1, the first."""
MOST_SESSIONS = 100
"""More sessions than this are written `over 100`: nobody will run them."""
NAMED_CELLS = 3
"""Cells of a group that are named; the rest are counted."""
LONGEST = 300
NO_CELL = "No cell has a number on both sides."
LACKING = {"candidate": "in the candidate", "baseline": "in the baseline", "both": "on both sides"}
TITLE = "Comparison"
RATIO = "candidate / baseline"
CAPTION = "A ratio above one is the larger number; bars are 95 % intervals, the band is the margin."
MEANS = (
    "A dot is the geometric mean of a candidate's ratios, its bar the 95 % interval over sessions."
)


NO_GATE = Gate()


class ComparedCells(NamedTuple):
    """The cells that any candidate is compared in: their coordinates, and each one's place by its id."""

    axes: tuple[Axis, ...]
    constants: dict[str, object]
    places: dict[str, int]


def document(
    made: Comparison, origins: Sequence[tuple[str, Log]] = (), gate: Gate = NO_GATE
) -> Document:
    """Return a comparison as a document.

    Args:
        made: the comparison.
        origins: its runs by name, whose conditions stand on a page.
        gate: what fails; without one, no check does.

    """
    metric, cells = made.asked.metric, cells_of(made)
    names = ", ".join(foreign(contrast.name) for contrast in made.contrasts)
    better = f", {metric.better} is better" if metric.better else ""
    same = {words.head(name): words.value_of(value) for name, value in cells.constants.items()}
    if sessions := _same_sessions(made):
        same["sessions"] = sessions
    return Document(
        f"{metric.label}: {names} against {foreign(made.baseline)}",
        _sections(made, origins),
        sheet(made),
        lambda: data(made),
        [Note(f"In {metric.unit.word}{better}; margin {_percent(made)}.")],
        same,
        (Note(line, "legend") for line in (_legend(made) if cells.places else ())),
        suites(made, gate),
    )


def cells_of(made: Comparison) -> ComparedCells:
    """Return the rows of a comparison; the factor compared, and what changes with it, is no coordinate."""
    cells = {cell.id: cell for of in made.contrasts for cell in of.cells}
    axes, constants = axes_of(tuple(cells.values()))
    factor = made.asked.factor or ""
    for name in (factor, *WITH.get(factor, ())):
        constants.pop(name, None)
    return ComparedCells(axes, constants, {name: place for place, name in enumerate(cells)})


def _sections(made: Comparison, origins: Sequence[tuple[str, Log]]) -> Iterator[Section]:
    yield from sections(made)
    if origins:
        columns = [(shown(name), list(conditions.facts(origin))) for name, origin in origins]
        yield conditions.conditions(columns)


def sections(made: Comparison) -> Iterator[Section]:
    """Yield the sections that say how the cells compare."""
    several = len(made.contrasts) > 1
    if several:
        yield Section([_table(made)], "Cell by cell")
        yield _together(made)
    for of in made.contrasts:
        name = f"{TITLE}: {foreign(cut(of.name))}" if several else TITLE
        yield _alone(made._replace(contrasts=(of,)), of, name, detail=several)
    yield from _missing(made)


def _alone(made: Comparison, contrast: Contrast, name: str, *, detail: bool) -> Section:
    """Return the only candidate of a comparison, a row a cell; of too many, those that differ are drawn first."""
    table, count = _table(made), len(contrast.cells)
    differs = (contrast.effects.verdict <= Verdict.BETTER).tolist()
    drawn = thinned(range(count), forest.MOST_ROWS, differs.__getitem__)
    plot = isinstance(table, Grid) and Plot(_plot(made, contrast, table, drawn), table, CAPTION)
    blocks: list[Note | Plot | Grid] = [
        plot or table,
        Note(f"{summary(made, contrast)}.", "strong"),
        *_whole(contrast),
        *_warnings(made),
    ]
    if len(drawn) < count:
        thinning = f"Thinned: {len(drawn):,} of {count:,} cells are drawn, those that differ first."
        blocks.append(Note(thinning))
    return Section(blocks, name, detail, opened=True)


def _together(made: Comparison) -> Section:
    """Return all candidates: the mean of each one's ratios, and its verdicts counted."""
    table = _candidates(made)
    records = plots.records(table)
    estimates = [
        Estimate(record["candidate"], "", of.overall[:3], _margin(made), record)
        for of, record in zip(made.contrasts, records, strict=True)
        if of.overall.cells
    ]
    blocks: list[Note | Plot | Grid] = [
        Plot(forest.spec(estimates, RATIO), table, MEANS) if estimates else table,
        *(Note(f"{foreign(of.name)}: {summary(made, of)}.", "strong") for of in made.contrasts),
        *_warnings(made),
    ]
    return Section(blocks, "All candidates", opened=True)


def _warnings(made: Comparison) -> Iterator[Note]:
    own = (notice for of in made.contrasts for notice in of.notices)
    return (Note(foreign(notice), "warning") for notice in dict.fromkeys((*made.notices, *own)))


def _plot(made: Comparison, contrast: Contrast, table: Grid, drawn: Sequence[int]) -> plots.Spec:
    effects, named = contrast.effects, verdict_words(made.asked.metric)
    ends = zip(effects.ratio.tolist(), effects.low.tolist(), effects.high.tolist(), strict=True)
    rows = zip(_names(table), effects.verdict.tolist(), ends, plots.records(table), strict=True)
    estimates = [
        Estimate(name, named[Verdict(verdict)], figure, _margin(made), record)
        for name, verdict, figure, record in rows
    ]
    return forest.spec([estimates[place] for place in drawn], RATIO, list(named.values()))


def _margin(made: Comparison) -> tuple[float, float]:
    return 1 / (1 + made.asked.margin), 1 + made.asked.margin


def _percent(made: Comparison) -> str:
    return f"{100 * made.asked.margin:g} %"


def _names(table: Grid) -> list[str]:
    """Return each row by its coordinates."""
    named = [
        [text if column.title in KIND else f"{column.title} {text}" for text in column.texts]
        for column in table.columns[: table.keys]
    ]
    names = [cut(shown(", ".join(parts)), LONGEST) for parts in zip(*named, strict=True)]
    return names or ["the only cell"] * len(table)


def _missing(made: Comparison) -> Iterator[Section]:
    """Yield the cells that only one side has a number of, and why."""
    groups = [(contrast.name, group) for contrast in made.contrasts for group in contrast.missing]
    if not groups:
        return
    columns = [
        Column("cells", [f"{len(group.cells):,}" for _, group in groups]),
        Column("no number", [LACKING[group.lacking] for _, group in groups], "prose"),
        Column("why", [group.reason for _, group in groups], "words"),
        Column("which", [_which(group) for _, group in groups], "words"),
    ]
    if len(made.contrasts) > 1:
        columns.insert(0, Column("candidate", [name for name, _ in groups], "name"))
    yield Section([Grid(columns)], "Cells without a comparison")


def _which(of: Missing) -> str:
    names = [cell.id for cell in of.cells[:NAMED_CELLS]]
    if len(of.cells) > NAMED_CELLS:
        names.append(f"and {plural(len(of.cells) - NAMED_CELLS, 'more cell')}")
    return "; ".join(names)


def _table(made: Comparison) -> Grid | Note:
    """Return a row for each cell, of several candidates only what differs; a note if there is none."""
    cells, unit = cells_of(made), made.asked.metric.unit.word
    if not cells.places:
        return Note(NO_CELL)
    middles = np.full(len(cells.places), np.nan)
    for contrast in made.contrasts:
        middles[[cells.places[cell.id] for cell in contrast.cells]] = contrast.middles[0]
    keys = [coordinate(axis, range(len(middles))) for axis in cells.axes]
    columns = [*keys, Column("baseline", _values(made, middles), unit=unit)]
    for contrast in made.contrasts:
        columns += (
            dataclasses.replace(column, texts=_placed(cells, contrast, column.texts))
            for column in _candidate(made, contrast)
        )
    return Grid(columns, len(keys))


def _candidate(made: Comparison, contrast: Contrast) -> Iterator[Column]:
    """Yield a candidate's columns, a row for each of its own cells."""
    effects = contrast.effects
    ratios = [ratio(value) for value in effects.ratio.tolist()]
    ends = zip(effects.low.tolist(), effects.high.tolist(), strict=True)
    around = [interval(low, high) for low, high in ends]
    if len(made.contrasts) > 1:
        path = contrast.name if made.asked.factor else PurePath(contrast.name).name
        name = shown(path)
        both = [f"{a} ({b})" for a, b in zip(ratios, around, strict=True)]
        yield Column(f"{name}\nratio", both)
    else:
        unit = made.asked.metric.unit.word
        yield Column("candidate", _values(made, contrast.middles[1]), unit=unit)
        yield Column("ratio", ratios)
        yield Column("95 %\ninterval", around)
    if not _same_sessions(made):
        yield Column("sessions", _sessions(contrast))
    yield Column("verdict", _verdicts(made, contrast), "words")


def _placed(cells: ComparedCells, contrast: Contrast, texts: Sequence[str]) -> list[str]:
    """Return a contrast's texts at the places of its cells, and a sign of absence at the others."""
    placed = [ABSENT] * len(cells.places)
    for cell, text in zip(contrast.cells, texts, strict=True):
        placed[cells.places[cell.id]] = text
    return placed


def _candidates(made: Comparison) -> Grid:
    """Return the candidates, a row each: their verdicts counted, and the mean of their ratios."""
    counted = [counts(made, contrast) for contrast in made.contrasts]
    wholes = [contrast.overall for contrast in made.contrasts]
    return Grid(
        [
            Column("candidate", [contrast.name for contrast in made.contrasts], "name"),
            *(Column(word, [f"{each[word]:,}" for each in counted]) for word in counted[0]),
            Column("geometric\nmean", [ratio(whole.ratio) for whole in wholes]),
            Column("95 %\ninterval", [interval(whole.low, whole.high) for whole in wholes]),
        ]
    )


def _values(made: Comparison, middles: Reals) -> list[str]:
    """Return values in the unit that a table shows, with four digits."""
    nothing = np.full_like(middles, np.nan)
    numbers = Numbers(made.asked.metric, middles, nothing, nothing, np.zeros(len(middles), int))
    return words.figures(numbers, range(len(middles))).values


def interval(low: float, high: float) -> str:
    """Return an interval as text."""
    return ABSENT if math.isnan(low) else f"{ratio(low)}–{ratio(high)}"  # noqa: RUF001 - a range's own sign


def ratio(value: float) -> str:
    """Return a ratio with three decimals, and fewer where it is large."""
    if math.isnan(value):
        return ABSENT
    return f"{value:,.{3 if value < 10 else 1 if value < 1000 else 0}f}"


def _verdicts(made: Comparison, contrast: Contrast) -> list[str]:
    """Return the verdicts, and of the unclear ones the sessions that would decide them."""
    named, effects = verdict_words(made.asked.metric), contrast.effects
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
    parts = ["calibrated"] if noise is Noise.CALIBRATED else []
    if verdict is Verdict.UNCLEAR:
        over = f"over {MOST_SESSIONS}" if needed > MOST_SESSIONS else f"{needed:.0f}"
        parts.insert(0, f"needs {over} sessions")
    return f" ({', '.join(parts)})" if parts else ""


def _same_sessions(made: Comparison) -> str:
    """Return the sessions a side if all cells have as many, else nothing."""
    different = {text for contrast in made.contrasts for text in _sessions(contrast)}
    return different.pop() if len(different) == 1 else ""


def _sessions(contrast: Contrast) -> list[str]:
    """Return the sessions of each cell: `3`, or `3, 5` where the sides differ."""
    pairs = zip(*(side.tolist() for side in contrast.sessions), strict=True)
    return [str(a) if a == b else f"{a}, {b}" for a, b in pairs]


def _legend(made: Comparison) -> Iterator[str]:
    """Yield what the columns and the verdicts mean."""
    metric, named, margin = made.asked.metric, verdict_words(made.asked.metric), _percent(made)
    shared = any((of.effects.noise == Noise.SHARED).any() for of in made.contrasts)
    how = (
        "variances are pooled across cells (moderated t)"
        if shared
        else "each cell by its own variance"
    )
    yield from words.copies(cell.model for of in made.contrasts for cell in of.cells)
    pairs = "of the same round, paired" if made.contrasts[0].paired else "of either side"
    yield f"Ratio: candidate over baseline, means of the logarithms of sessions {pairs}; 95 % intervals: {how}."
    yield (
        f"{named[Verdict.WORSE]}, {named[Verdict.BETTER]}: the interval lies beyond {margin} of the baseline, and at "
        f"most {100 * FALSE_DISCOVERIES:g} % of such verdicts are false (Benjamini-Hochberg over the table). "
        f"same: the 90 % interval lies within {margin}. unclear: neither; in brackets: sessions per side needed to "
        "decide."
    )
    peak = "; the mean of the sessions' logarithms" if metric.over == "max" else ""
    yield f"{metric.label}: {metric.definition}{peak}."


def summary(made: Comparison, contrast: Contrast) -> str:
    """Return how many cells have which verdict, in words."""
    counted = counts(made, contrast)
    parts = [f"{count:,} {word}" for word, count in counted.items() if count]
    return f"{plural(sum(counted.values()), 'cell')}: {', '.join(parts) or 'none'}"


def _whole(contrast: Contrast) -> Iterator[Note]:
    """Yield the geometric mean of the ratios and its interval; nothing without a cell."""
    whole = contrast.overall
    if whole.cells:
        around = interval(whole.low, whole.high)
        known = f"95 % interval over sessions {around}"
        confidence = "no interval: one session" if around == ABSENT else known
        yield Note(f"Geometric mean of the ratios: {ratio(whole.ratio)} ({confidence}).")


def suites(made: Comparison, gate: Gate) -> Iterator[Suite]:
    """Yield a suite for each candidate: no check fails or errs exactly if `llmbench compare` ends with 0."""
    compared = [bool(of.cells) for of in made.contrasts]
    for of in made.contrasts:
        checks = [*_compared_checks(made, of, gate), *_missing_checks(of, gate)]
        if not of.cells and (gate.failing or not any(compared)):
            checks.append(Check("comparison", "error", "undecided", NO_CELL))
        yield Suite(of.name, checks, list(dict.fromkeys((*made.notices, *of.notices))))


def _compared_checks(made: Comparison, contrast: Contrast, gate: Gate) -> Iterator[Check]:
    """Yield a check for each cell with a number on both sides; an unclear one errs if no cell is clear."""
    table = _table(made._replace(contrasts=(contrast,)))
    if isinstance(table, Note):
        return
    verdicts, named = contrast.effects.verdict, verdict_words(made.asked.metric)
    hopeless = gate.failing and (verdicts == Verdict.UNCLEAR).all()
    texts = zip(*(column.texts for column in table.columns), strict=True)
    rows = zip(contrast.cells, map(Verdict, verdicts.tolist()), texts, strict=True)
    for cell, verdict, row in rows:
        told = [f"{column.title}: {text}" for column, text in zip(table.columns, row, strict=True)]
        detail, why = "\n".join(told), f"{made.asked.metric.label}: {', '.join(told[table.keys :])}"
        if verdict in gate.failing:
            yield Check(cell.id, "failure", named[verdict], why, detail)
        elif verdict is Verdict.UNCLEAR:
            yield Check(cell.id, "error" if hopeless else "skipped", named[verdict], why, detail)
        else:
            yield Check(cell.id, "passed", detail=detail)


def _missing_checks(contrast: Contrast, gate: Gate) -> Iterator[Check]:
    """Yield a check for each cell that one side has no number of."""
    undecided: Outcome = "error" if gate.failing and not gate.allow_missing else "skipped"
    for group in contrast.missing:
        fails = "missing" in gate.failing and group.lacking == "candidate"
        why = f"no number {LACKING[group.lacking]}: {group.reason}"
        for cell in group.cells:
            yield Check(cell.id, "failure" if fails else undecided, "missing", why)


def sheet(made: Comparison) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield the columns of all candidates' cells, those without a comparison too."""
    named = {"metric": made.asked.metric.key, "baseline_name": made.baseline}
    rows = [
        {
            **named,
            "candidate_name": contrast.name,
            **cell,
            "options": facts.options(cell["options"]),
        }
        for contrast in made.contrasts
        for cell in _cells(made, contrast)
    ]
    rows += [
        {**named, "candidate_name": contrast.name, **msgspec.to_builtins(cell),
         "options": facts.options(cell.options), "verdict": "missing", "reason": f"{missing.lacking}: {missing.reason}"}
        for contrast in made.contrasts
        for missing in contrast.missing
        for cell in missing.cells
    ]  # fmt: skip
    return facts.sheet(rows)


def data(made: Comparison) -> dict[str, Any]:
    """Return the comparison whole; what is absent is NaN or None."""
    asked = made.asked
    return {
        "format": FORMAT,
        "llmbench": __version__,
        "metric": asked.metric.key,
        "definition": asked.metric.definition,
        "better": asked.metric.better,
        "margin": asked.margin,
        "by": asked.factor,
        "paired": all(contrast.paired for contrast in made.contrasts),
        "confidence": CONFIDENCE,
        "confidence_same": SAME_CONFIDENCE,
        "false_discovery_rate": FALSE_DISCOVERIES,
        "baseline": made.baseline,
        "notices": made.notices,
        "candidates": [_contrast(made, contrast) for contrast in made.contrasts],
    }


def _contrast(made: Comparison, contrast: Contrast) -> dict[str, Any]:
    return {
        "name": contrast.name,
        "verdicts": counts(made, contrast),
        "overall": contrast.overall._asdict(),
        "cells": _cells(made, contrast),
        "missing": [
            {
                "lacking": missing.lacking,
                "reason": missing.reason,
                "cells": [msgspec.to_builtins(cell) for cell in missing.cells],
            }
            for missing in contrast.missing
        ],
        "notices": contrast.notices,
    }


def _cells(made: Comparison, contrast: Contrast) -> list[dict[str, Any]]:
    named, effects = verdict_words(made.asked.metric), contrast.effects
    columns = {
        "baseline": contrast.middles[0],
        "candidate": contrast.middles[1],
        "sessions_baseline": contrast.sessions[0],
        "sessions_candidate": contrast.sessions[1],
        **{name: getattr(effects, name) for name in ("ratio", "low", "high", "p", "adjusted")},
        "sessions_needed": effects.needed,
        "busy_machine": contrast.disturbed,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    ends = zip(effects.verdict.tolist(), effects.noise.tolist(), strict=True)
    return [
        {
            **msgspec.to_builtins(cell),
            **dict(zip(columns, row, strict=True)),
            "verdict": named[Verdict(verdict)],
            "variance": Noise(noise).name.lower(),
        }
        for cell, row, (verdict, noise) in zip(contrast.cells, rows, ends, strict=True)
    ]


def counts(made: Comparison, contrast: Contrast) -> dict[str, int]:
    """Return how many cells have which verdict, and how many could not be compared."""
    counted = Counter(contrast.effects.verdict.tolist())
    lacking = sum(len(missing.cells) for missing in contrast.missing)
    return {
        word: counted[verdict] for verdict, word in verdict_words(made.asked.metric).items()
    } | {"missing": lacking}
