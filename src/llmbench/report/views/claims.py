"""Claims with their verdicts as a document: all in one table, and each with what was measured and predicted.

A verdict never stands alone: with it are the machine that the data came from, the figures with their
intervals, the cells, and every number that was assumed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench import numbers
from llmbench.claims import ClaimVerdict
from llmbench.numbers import digits, plural
from llmbench.redact import shown
from llmbench.report import plots
from llmbench.report.document import Column, Document, Grid, Note, Plot, Section, cut, foreign
from llmbench.report.figures import forest
from llmbench.report.figures.forest import Estimate
from llmbench.report.views import facts, published

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llmbench.claims import Answer, Claim, Evidence, Part
    from llmbench.claims.published import PublishedComparison
    from llmbench.stats.interval import Interval

FEW = 3
"""Up to so many claims are shown in full; of more, only a page has more than a row each."""
NAMED = 3
"""Conditions and cells that are named in one place; the rest are counted."""
LARGE = 10_000
LONGEST = 60
"""Longer names of rows are cut in a plot."""

VERDICTS = (
    ClaimVerdict.CONTRADICTED,
    ClaimVerdict.SUPPORTED,
    ClaimVerdict.MIXED,
    ClaimVerdict.INCONCLUSIVE,
)
WORDS = {
    ClaimVerdict.SUPPORTED: "true for",
    ClaimVerdict.CONTRADICTED: "false for",
    ClaimVerdict.INCONCLUSIVE: "undecided for",
}
CAPTION = "Bars are 95 % intervals between sessions; bands are what is predicted."
COPIES = {"small": "copies at a 64th of their models", "tiny": "tiny copies"}
LEGEND = (
    "supported, contradicted: the whole 95 % interval lies where the claim predicts, or all of it lies elsewhere.",
    "inconclusive: neither. mixed: one under this condition, another under that.",
    "In brackets: 95 % intervals between sessions of one run, Student's t on logarithms.",
)
MORE = "`llmbench claims RUN... --claim ID` shows one claim in full, with its rule, assumed numbers and cells."


class Judged(NamedTuple):
    """A claim and its answer."""

    claim: Claim
    answer: Answer


def document(
    judged: Sequence[Judged], figures: Sequence[PublishedComparison] | None, given: Evidence
) -> Document:
    """Return the document.

    Args:
        judged: the claims.
        figures: the published figures; None leaves them out.
        given: the measurements that both are compared with.

    """
    if not judged:
        return published.document(figures or (), list(_about(given)))
    rows = [row for each in judged for row in _sheet(each)]
    price = f"Price: {foreign(given.price)}." if given.price else NO_PRICE
    return Document(
        "Claims against measurements",
        _sections(judged, figures),
        facts.sheet(rows),
        lambda: [_data(each) for each in judged],
        [
            Note(f"{counts(judged)}.", "strong"),
            *_about(given),
            Note(price),
        ],
        notes=[Note(line, "legend") for line in (*LEGEND, *((MORE,) if len(judged) > FEW else ()))],
    )


NO_PRICE = "No price is given, so nothing has a cost."


def _about(given: Evidence) -> Iterator[Note]:
    runs = dict.fromkeys(row.run for row in given.rows)
    yield Note(f"Held against {', '.join(map(foreign, runs)) or 'no cell with a number'}.")


def _sections(
    judged: Sequence[Judged], figures: Sequence[PublishedComparison] | None
) -> Iterator[Section]:
    several = len(judged) > FEW
    yield Section([_overview(judged)], "Verdicts", detail=not several)
    for each in judged:
        yield _section(each, detail=several)
    if figures is not None:
        yield published.section(figures, detail=True)


def _overview(judged: Sequence[Judged]) -> Grid:
    claims = [each.claim for each in judged]
    says = [
        f"{claim.claim} Predicts: {claim.predicts} Tested: {claim.tested} ({claim.report}, {claim.date})"
        for claim in claims
    ]
    return Grid(
        [
            Column("claim", [claim.id for claim in claims], "name"),
            Column("verdict", [foreign(verdict_of(each)) for each in judged], "prose"),
            Column("says, predicts, tested", says, "prose"),
            Column("measured", list(map(_measured, judged)), "prose"),
        ]
    )


def _section(judged: Judged, *, detail: bool) -> Section:
    """Return one claim with all that its verdict rests on."""
    claim, answer = judged
    data = data_of(answer)
    records = [_record(part) for part in answer.parts]
    estimates = [
        Estimate(cut(shown(part.where), LONGEST), part.verdict, part.figure, part.predicted, record)
        for part, record in zip(answer.parts, records, strict=True)
        if part.figure and part.predicted
    ]
    unit = shown(next((part.unit for part in answer.parts if part.predicted), ""))
    verdict = f"verdict: {foreign(verdict_of(judged))}{f' [{foreign(data)}]' if data else ''}"
    lines = (*says(claim), verdict, *rests_on(judged))
    blocks: list[Note | Plot | Grid] = [Note(line) for line in lines]
    blocks += (Note(foreign(note), "warning") for note in answer.notes)
    if records:
        table = plots.table(records, ("condition", "verdict", "measured", "cells"))
        spec = (
            forest.spec(estimates, f"measured ({unit})".replace(" ()", ""), VERDICTS)
            if estimates
            else None
        )
        blocks.append(Plot(spec, table, CAPTION) if spec else table)
    return Section(blocks, f"{claim.id}: {answer.verdict}", detail, opened=True)


def _record(part: Part) -> dict[str, str]:
    texts = {
        "condition": shown(part.where) or "all",
        "verdict": part.verdict,
        "measured": shown(part.said),
        "figure": shown(figure_of(part.figure, part.unit)),
        "predicted": _predicted(part),
        "cells": shown(cells_of(part)),
    }
    return {name: text for name, text in texts.items() if text}


def _predicted(part: Part) -> str:
    """Return where a claim says that the figure lies, in words."""
    if part.predicted is None:
        return ""
    low, high = part.predicted
    if high == math.inf:
        return f"at least {digits(low)}"
    return f"{digits(low)} to {digits(high)}" if low else f"at most {digits(high)}"


def verdict_of(judged: Judged) -> str:
    """Return the verdict in words; of a mixed one, what is true for which condition."""
    answer = judged.answer
    if answer.verdict is not ClaimVerdict.MIXED:
        return answer.verdict.value
    parts = []
    for verdict, words in WORDS.items():
        where = [part.where for part in answer.parts if part.verdict is verdict]
        if where:
            parts.append(f"{words} {_few(where)}")
    return "; ".join(parts)


def data_of(answer: Answer) -> str:
    """Return the machines of the data, and whether the models were small copies; empty without data."""
    rows = [row for part in answer.parts for row in part.rows]
    places = {"cpu": "CPU data"}
    where = [places.get(row.where, f"{row.where} data") for row in rows]
    copies = [COPIES.get(row.cell.model.partition("@")[2], "") for row in rows]
    return ", ".join(dict.fromkeys(word for word in (*where, *copies) if word))


def settled_by(claim: Claim) -> str:
    """Return the sweep that would settle a claim, in words."""
    if claim.sweep is None:
        return "no sweep of one's own settles it"
    axes = ", ".join(f"{key} {_axis(value)}" for key, value in claim.sweep["axes"].items())
    return f"llmbench claims --plan {claim.id} writes the sweep ({axes}), to be run on {claim.on}"


def _axis(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_axis(inner)}" for key, inner in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _few(words: Sequence[str]) -> str:
    more = len(words) - NAMED
    return ", ".join(words[:NAMED]) + (f" and {more} more" if more > 0 else "")


def figure_of(figure: Interval | None, unit: str) -> str:
    """Return a figure with its interval and its unit."""
    return "" if figure is None else f"{numbers.interval(figure)} {unit}".rstrip()


def _said(part: Part) -> str:
    where = f"{part.where}: " if part.where else ""
    return f"{where}{part.said} {figure_of(part.figure, part.unit)}".rstrip()


def says(claim: Claim) -> Iterator[str]:
    """Yield what a claim says, what follows from it, and the part of it that is tested."""
    yield f"{claim.claim} ({claim.title}, {claim.date})"
    yield f"predicts: {claim.predicts}"
    yield f"tested: {claim.tested}"


def rests_on(judged: Judged) -> Iterator[str]:
    """Yield what a verdict rests on besides measurements, and what would settle the claim if nothing has."""
    claim, answer = judged
    yield f"rule: {claim.rule}"
    for name, number in claim.assumptions.items():
        yield f"assumes: {name} {_number(number.value)}: {number.why}"
    for pair in claim.pairs:
        yield f"published: {pair.what}: {pair.source}"
    if answer.verdict in {ClaimVerdict.NOT_MEASURED, ClaimVerdict.INCONCLUSIVE}:
        yield f"needs: {claim.needs} {settled_by(claim)}."


def _number(value: float) -> str:
    """Return a number with its thousands apart, unless it may be a year."""
    return f"{value:g}" if value < LARGE else f"{value:,.10g}"


def cells_of(part: Part) -> str:
    """Return the cells that a verdict was read from."""
    return _few([row.cell.id for row in part.rows])


def counts(judged: Iterable[Judged]) -> str:
    """Return how many claims have which verdict."""
    verdicts = [each.answer.verdict for each in judged]
    counts = ", ".join(
        f"{verdicts.count(verdict)} {verdict}" for verdict in ClaimVerdict if verdict in verdicts
    )
    return f"{plural(len(verdicts), 'claim')}: {counts}"


def _measured(judged: Judged) -> str:
    """Return the figures of a claim in one cell of a table; of many conditions the first of each verdict."""
    claim, answer = judged
    if answer.verdict is ClaimVerdict.NOT_MEASURED:
        plan = f" `llmbench claims --plan {claim.id}`, on {claim.on}." if claim.sweep else ""
        return f"Needs: {claim.needs}{plan}"
    first: dict[ClaimVerdict, Part] = {}
    for part in answer.parts:
        first.setdefault(part.verdict, part)
    named = answer.parts if len(answer.parts) <= NAMED else tuple(first.values())
    more = len(answer.parts) - len(named)
    text = "; ".join(foreign(_said(part)) for part in named)
    tail = f"; and {more} more" if more else ""
    data = data_of(answer)
    return f"{text}{tail}.{f' {foreign(data)}.' if data else ''}"


def _sheet(judged: Judged) -> Iterator[dict[str, Any]]:
    """Yield a row for each condition of a claim, one without a number for a claim that has none."""
    claim, answer = judged
    whole = {
        "claim": claim.id,
        "claim_verdict": str(answer.verdict),
        "tested": claim.tested,
    }
    for part in answer.parts:
        row = {**whole, **_part(part)}
        yield {
            **row,
            "verdict": str(part.verdict),
            "cells": [cell["cell"] for cell in row["cells"]],
        }
    if not answer.parts:
        yield whole


def _data(judged: Judged) -> dict[str, Any]:
    claim, answer = judged
    return {
        "id": claim.id,
        **{
            name: getattr(claim, name)
            for name in ("claim", "report", "title", "date", "predicts", "rule", "tested")
        },
        "verdict": answer.verdict,
        "in_words": verdict_of(judged),
        "data": data_of(answer),
        "parts": [_part(part) for part in answer.parts],
        "notes": answer.notes,
        "assumptions": claim.assumptions,
        "pairs": claim.pairs,
        "settled_by": settled_by(claim),
    }


def _part(part: Part) -> dict[str, Any]:
    value, low, high = facts.ends(part.figure)
    return {
        "where": part.where,
        "verdict": part.verdict,
        "measured": part.said,
        "value": value,
        "low": low,
        "high": high,
        "unit": part.unit,
        "cells": [{"run": row.run, "cell": row.cell.id} for row in part.rows],
    }
