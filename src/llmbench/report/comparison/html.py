"""Candidates beside their baseline: ratios with their intervals, and the verdicts of `llmbench compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.compare import words
from llmbench.redact import shown
from llmbench.report import plots
from llmbench.report.figures import forest
from llmbench.report.figures.cells import KIND, MOST_POINTS, cut, thinned
from llmbench.report.figures.forest import Estimate
from llmbench.report.layout import FANCY
from llmbench.report.plots import Figure, Grid
from llmbench.report.views import comparison
from llmbench.stats.effects import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmbench.compare import Comparison, Contrast
    from llmbench.report.views.columns import Columns

TITLE = "Comparison"
RATIO = "candidate / baseline"
LONGEST = 300


def figures(made: Comparison | str) -> Iterator[Figure]:
    """Yield the figures of a comparison, or the reason why there is none."""
    if isinstance(made, str):
        yield Figure(TITLE, f"Left out: {shown(made)}")
        return
    several = len(made.contrasts) > 1
    found = [
        *([_together(made)] if several else []),
        *(_beside(made._replace(contrasts=(of,)), of, several=several) for of in made.contrasts),
        _missing(made),
    ]
    notices = (_short(notice) for notice in made.notices)
    yield found[0]._replace(notes=(*found[0].notes, *notices))
    yield from found[1:]


def _together(made: Comparison) -> Figure:
    """Return all candidates, a row each."""
    grid = plots.grid_of(comparison.candidates(made, FANCY.dash))
    estimates = [
        Estimate(row[0], "", of.overall[:3], _margin(made), dict(zip(grid.heads, row, strict=True)))
        for of, row in zip(made.contrasts, grid.rows, strict=True)
        if of.overall.cells
    ]
    return Figure(
        "All candidates",
        f"{comparison.title(made)}. The baseline is {shown(made.baseline)}. A dot is the geometric mean of a "
        "candidate's "
        "ratios with its 95 % interval over sessions, the band the margin.",
        forest.spec(estimates, RATIO) if estimates else None,
        grid,
        opened=True,
    )


def _beside(made: Comparison, contrast: Contrast, *, several: bool) -> Figure:
    """Return the only candidate of a comparison, a row a cell; of too many, those that differ come before others."""
    rows = comparison.rows_of(made)
    columns = comparison.columns(made, rows, FANCY.dash)
    grid, names = plots.grid_of(columns), _names(columns, len(rows.cells))
    differs = (contrast.effects.verdict <= Verdict.BETTER).tolist()
    told = thinned(range(len(names)), MOST_POINTS, differs.__getitem__)
    drawn = thinned(told, forest.MOST_ROWS, differs.__getitem__)
    name = cut(shown(contrast.name))
    return Figure(
        f"{TITLE}: {name}" if several else TITLE,
        "\n".join(_about(made, contrast)),
        _plot(made, contrast, {place: names[place] for place in drawn}, grid) if drawn else None,
        grid._replace(rows=[grid.rows[place] for place in told]) if told else None,
        (*_left_out(len(told), len(drawn), len(names)), *map(_short, contrast.notices)),
        opened=True,
    )


def _left_out(told: int, drawn: int, of: int) -> Iterator[str]:
    if drawn < of:
        yield (
            f"Thinned: {drawn:,} of {of:,} cells are drawn and {told:,} told, first those that differ, of the others "
            "some at even steps; --format json has all."
        )


def _about(made: Comparison, contrast: Contrast) -> Iterator[str]:
    yield f"{comparison.title(made)}: {shown(contrast.name)} beside the baseline, {shown(made.baseline)}."
    whole = comparison.overall(contrast, FANCY.dash)
    yield f"{comparison.summary(made, contrast)}.{f' {whole}.' if whole else ''}"
    if contrast.cells:
        yield "A ratio above one is the larger number; bars are 95 % intervals, the band is the margin."


def _plot(made: Comparison, contrast: Contrast, names: Mapping[int, str], grid: Grid) -> plots.Spec:
    effects, named = contrast.effects, words(made.asked.metric)
    ends = zip(effects.ratio.tolist(), effects.low.tolist(), effects.high.tolist(), strict=True)
    figures, verdicts = list(ends), effects.verdict.tolist()
    estimates = [
        Estimate(
            name,
            named[Verdict(verdicts[place])],
            figures[place],
            _margin(made),
            dict(zip(grid.heads, grid.rows[place], strict=True)),
        )
        for place, name in names.items()
    ]
    return forest.spec(estimates, RATIO, list(named.values()))


def _margin(made: Comparison) -> tuple[float, float]:
    return 1 / (1 + made.asked.margin), 1 + made.asked.margin


def _names(columns: Columns, count: int) -> list[str]:
    """Return each row by its coordinates."""
    named = [
        [text if column.title in KIND else f"{column.title} {text}" for text in column.texts]
        for column in columns.left
    ]
    return [cut(shown(", ".join(parts)), LONGEST) for parts in zip(*named, strict=True)] or [
        "the only cell"
    ] * count


def _missing(made: Comparison) -> Figure:
    """Return the cells that stand beside nothing, and why."""
    rows = [
        (shown(contrast.name), *map(_short, comparison.missing(group)))
        for contrast in made.contrasts
        for group in contrast.missing
    ]
    return Figure(
        "Cells without a comparison",
        "" if rows else "Every cell has a number on both sides.",
        grid=Grid(("candidate", "what", "which"), rows) if rows else None,
    )


def _short(text: str) -> str:
    return cut(shown(text), LONGEST)
