"""Published figures against what was measured here, as a document."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

from llmbench import numbers
from llmbench.claims import published
from llmbench.claims.published import PublishedOutcome
from llmbench.report.document import Document, Note, Plot, Section, cut
from llmbench.report.figures import forest
from llmbench.report.figures.forest import Estimate
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.report.document import Grid

OUTCOMES = (
    PublishedOutcome.NOT_REPRODUCED,
    PublishedOutcome.REPRODUCED,
    PublishedOutcome.NOT_COMPARABLE,
    PublishedOutcome.INCONCLUSIVE,
)
LONGEST = 60
"""Longer names of rows are cut in a plot."""
TITLE = "Published figures"
CAPTION = "Bars are 95 % intervals between sessions; in the band a figure is reproduced."
COLUMNS = (
    Fact("model", "model", kind="name"),
    Fact("figures", "figures", numbers.whole),
    Fact("published", "published"),
    Fact("outcome", "outcome"),
    Fact("ratio", "measured/published", numbers.digits),
    Fact("ratio_low", "low", numbers.digits),
    Fact("ratio_high", "high", numbers.digits),
    Fact("source", "source"),
    Fact("conditions", "conditions"),
    Fact("reason", "because"),
)
"""The columns of `rows` for people."""


def document(figures: Sequence[published.PublishedComparison], about: Sequence[Note]) -> Document:
    """Return published figures against measured ones."""
    return Document(
        "Published figures against measurements",
        [section(figures)],
        facts.sheet(rows(figures)),
        lambda: rows(figures),
        about,
    )


def section(figures: Sequence[published.PublishedComparison], *, detail: bool = False) -> Section:
    """Return the published figures, with a plot of the comparable ones."""
    compared = rows(figures)
    estimates = [
        Estimate(
            cut(f"{_shape(each.figure)}, {each.figure.hardware}", LONGEST),
            each.outcome,
            each.ratio,
            published.REPRODUCED,
            {
                "figure": f"{_shape(each.figure)}: {each.figure.value} {each.figure.metric}",
                "measured / published": numbers.interval(each.ratio),
                "outcome": each.outcome,
            },
        )
        for each in figures
        if each.ratio
    ]
    blocks: list[Note | Plot | Grid] = [Note(summary(figures))]
    if compared:
        table = facts.table(COLUMNS, compared)
        spec = forest.spec(estimates, "measured / published", OUTCOMES) if estimates else None
        blocks.append(Plot(spec, table, CAPTION) if spec else table)
    return Section(blocks, TITLE, detail, opened=True)


def _shape(figure: published.PublishedFigure) -> str:
    return f"{figure.model}, batch {figure.batch}, in {figure.input_len}, out {figure.output_len}"


def rows(figures: Sequence[published.PublishedComparison]) -> list[dict[str, object]]:
    """Return comparisons as rows, comparable ones first; those of one source that fail for one reason are one row."""
    alike: dict[tuple[str, ...], list[published.PublishedComparison]] = {}
    for each in sorted(figures, key=lambda each: each.measured is None):
        figure = each.figure
        shape = (figure.batch, figure.input_len, figure.output_len) if each.measured else ()
        named = (each.source.title, figure.model, figure.hardware, figure.software)
        alike.setdefault((*named, each.outcome, each.reason, *shape), []).append(each)
    return [_row(group[0], len(group)) for group in alike.values()]


def _row(each: published.PublishedComparison, count: int) -> dict[str, object]:
    figure = each.figure
    ratio, low, high = facts.ends(each.ratio)
    return {
        "source": f"{each.source.title}, {figure.date}",
        "model": figure.model,
        "conditions": f"{figure.hardware}, {figure.software}",
        "figures": count,
        "published": f"{figure.value} {figure.metric}" if each.measured else None,
        "outcome": str(each.outcome),
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "reason": each.reason or None,
        "cell": each.measured.cell.id if each.measured else None,
    }


@cache  # cached: a page asks once for each of its forms, and the files do not change
def _in_principle() -> str:
    """Return how many of all published figures any cell could be compared with, and by which engine."""
    every = list(published.figures())
    able = [figure for source, figure in every if published.in_principle(source, figure)]
    engines = Counter(figure.engine for figure in able)
    with_which = ", ".join(f"{count} with {engine}" for engine, count in sorted(engines.items()))
    return (
        f"Of all {len(every)}, {len(able)} can be compared in principle, because they state one GPU, one shape "
        f"and an engine that runs here: {with_which}."
    )


def summary(figures: Sequence[published.PublishedComparison]) -> str:
    """Return how many comparisons came out how, and by which rule."""
    counts = ", ".join(
        f"{number} {outcome}"
        for outcome in published.PublishedOutcome
        if (number := sum(each.outcome is outcome for each in figures))
    )
    return (
        f"{len(figures)} published figures of models measured here: {counts or 'none'}. {_in_principle()} "
        f"Reproduced: the whole 95 % interval of the ratio within {published.REPRODUCED_WITHIN:.0%}."
    )
