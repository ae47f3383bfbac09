"""Claims with their verdicts as figures of a page: all of them, and each with what was measured and predicted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmbench import numbers
from llmbench.claims import ClaimVerdict, published
from llmbench.claims.published import PublishedOutcome
from llmbench.numbers import digits
from llmbench.redact import shown
from llmbench.report import html, plots
from llmbench.report import rows as report_rows
from llmbench.report.figures import forest
from llmbench.report.figures.cells import cut
from llmbench.report.figures.forest import Estimate
from llmbench.report.plots import Figure, Grid
from llmbench.report.views.claims import (
    Judged,
    cells_of,
    counts,
    data_of,
    figure_of,
    rests_on,
    says,
    verdict_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.claims import Evidence, Part

VERDICTS = (
    ClaimVerdict.CONTRADICTED,
    ClaimVerdict.SUPPORTED,
    ClaimVerdict.MIXED,
    ClaimVerdict.INCONCLUSIVE,
)
OUTCOMES = (
    PublishedOutcome.NOT_REPRODUCED,
    PublishedOutcome.REPRODUCED,
    PublishedOutcome.NOT_COMPARABLE,
    PublishedOutcome.INCONCLUSIVE,
)
TITLES = {True: "Claims against measurements", False: "Published figures against measurements"}
LONGEST = 60
"""What stands beside a plot is cut if it is longer."""

WORDS = (
    "supported, contradicted: the whole 95 % interval lies where the claim predicts, or all of it lies elsewhere.",
    "inconclusive: neither. mixed: one under this condition, another under that.",
    "In brackets, and as bars: 95 % intervals between sessions, Student's t on logarithms. Bands: what is predicted.",
)


def render(
    judged: Sequence[Judged],
    found: Sequence[published.PublishedComparison] | None,
    given: Evidence,
    script: str,
) -> str:
    """Return the page.

    Args:
        judged: the claims.
        found: the published figures; None leaves them out.
        given: what both are held against.
        script: what draws the plots.

    """
    runs = dict.fromkeys(row.run for row in given.rows)
    price = f"Price: {given.price}." if given.price else "No price is given, so nothing has a cost."
    about = [
        f"Held against {', '.join(map(shown, runs)) or 'no cell with a number'}.",
        *([price] if judged else []),
    ]
    figures = [
        *([_overview(judged)] if judged else []),
        *map(_claim, judged),
        *([] if found is None else [_published(found)]),
    ]
    frame = html.Frame("claims", TITLES[bool(judged)], about, words=WORDS)
    return html.page(frame, figures, script)


def _overview(judged: Sequence[Judged]) -> Figure:
    rows: list[tuple[str, ...]] = [
        (claim.id, verdict_of(Judged(claim, answer)), claim.claim, f"{claim.report}, {claim.date}")
        for claim, answer in judged
    ]
    return Figure(
        "Verdicts", counts(judged), grid=Grid(("claim", "verdict", "says", "source"), rows)
    )


def _claim(judged: Judged) -> Figure:
    claim, answer = judged
    data = data_of(answer)
    verdict = f"verdict: {verdict_of(judged)}{f' [{data}]' if data else ''}"
    records = [_record(part) for part in answer.parts]
    estimates = [
        Estimate(cut(shown(part.where), LONGEST), part.verdict, part.figure, part.predicted, record)
        for part, record in zip(answer.parts, records, strict=True)
        if part.figure and part.predicted
    ]
    unit = shown(next((part.unit for part in answer.parts if part.predicted), ""))
    return Figure(
        f"{claim.id}: {answer.verdict}",
        "\n".join([*says(claim), shown(verdict), *rests_on(judged)]),
        forest.spec(estimates, f"measured ({unit})" if unit else "measured", VERDICTS)
        if estimates
        else None,
        plots.grid(records, ("condition", "verdict", "measured", "cells")) if records else None,
        tuple(map(shown, answer.notes)),
        opened=True,
    )


def _record(part: Part) -> dict[str, str]:
    told = {
        "condition": shown(part.where) or "all",
        "verdict": part.verdict,
        "measured": shown(part.said),
        "figure": shown(figure_of(part.figure, part.unit)),
        "predicted": _predicted(part),
        "cells": shown(cells_of(part)),
    }
    return {name: text for name, text in told.items() if text}


def _predicted(part: Part) -> str:
    """Return where a claim says that the figure lies, in words."""
    if part.predicted is None:
        return ""
    low, high = part.predicted
    if high == math.inf:
        return f"at least {digits(low)}"
    return f"{digits(low)} to {digits(high)}" if low else f"at most {digits(high)}"


def _published(found: Sequence[published.PublishedComparison]) -> Figure:
    """Return what others published, and the plot of what is comparable."""
    facts = table(found)
    estimates = [
        Estimate(
            cut(f"{_shape(each.figure)}, {each.figure.hardware}", LONGEST),
            each.outcome,
            each.ratio,
            published.REPRODUCED,
            {
                "figure": f"{_shape(each.figure)}: {each.figure.value} {each.figure.metric}",
                "measured / published": figure_of(each.ratio, ""),
                "outcome": each.outcome,
            },
        )
        for each in found
        if each.ratio
    ]
    return Figure(
        "Published figures",
        summary(found),
        forest.spec(estimates, "measured / published", OUTCOMES) if estimates else None,
        plots.grid_of(report_rows.columns(COLUMNS, facts)) if facts else None,
        opened=True,
    )


def _shape(figure: published.PublishedFigure) -> str:
    return f"{figure.model}, batch {figure.batch}, in {figure.input_len}, out {figure.output_len}"


COLUMNS = (
    report_rows.Column("source", "source"),
    report_rows.Column("model", "model"),
    report_rows.Column("conditions", "conditions"),
    report_rows.Column("figures", "figures", numbers.whole),
    report_rows.Column("published", "published"),
    report_rows.Column("outcome", "outcome"),
    report_rows.Column("ratio", "measured/published", numbers.digits),
    report_rows.Column("ratio_low", "low", numbers.digits),
    report_rows.Column("ratio_high", "high", numbers.digits),
    report_rows.Column("reason", "because"),
)
"""What people are shown of `table`."""


def table(found: Sequence[published.PublishedComparison]) -> list[dict[str, object]]:
    """Return comparisons as rows, comparable ones first; those of one source that fail for one reason are one row."""
    rows: dict[tuple[str, ...], list[published.PublishedComparison]] = {}
    for each in sorted(found, key=lambda each: each.measured is None):
        figure = each.figure
        shape = (figure.batch, figure.input_len, figure.output_len) if each.measured else ()
        named = (each.source.title, figure.model, figure.hardware, figure.software)
        rows.setdefault((*named, each.outcome, each.reason, *shape), []).append(each)
    return [_row(alike[0], len(alike)) for alike in rows.values()]


def _row(each: published.PublishedComparison, count: int) -> dict[str, object]:
    figure, ratio = each.figure, each.ratio
    known = ratio is not None and ratio.known
    return {
        "source": f"{each.source.title}, {figure.date}",
        "model": figure.model,
        "conditions": f"{figure.hardware}, {figure.software}",
        "figures": count,
        "published": f"{figure.value} {figure.metric}" if each.measured else None,
        "outcome": str(each.outcome),
        "ratio": ratio.value if ratio else None,
        "ratio_low": ratio.low if ratio and known else None,
        "ratio_high": ratio.high if ratio and known else None,
        "reason": each.reason or None,
        "cell": each.measured.cell.id if each.measured else None,
    }


def summary(found: Sequence[published.PublishedComparison]) -> str:
    """Return how many comparisons came out how, and by which rule."""
    counts = ", ".join(
        f"{number} {outcome}"
        for outcome in published.PublishedOutcome
        if (number := sum(each.outcome is outcome for each in found))
    )
    return (
        f"{len(found)} published figures of models measured here: {counts or 'none'}. "
        f"Reproduced: the whole 95 % interval of the ratio within {published.REPRODUCED_WITHIN:.0%}."
    )
