"""Claims with their verdicts as text: blocks for a terminal, one table for Markdown, everything for JSON; and a page.

A verdict never stands alone: beside it are the machine that the data came from, the figures with their
intervals, the cells, and every number that was assumed.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench import numbers
from llmbench.claims import ClaimVerdict
from llmbench.redact import shown
from llmbench.report import rows as report_rows
from llmbench.report import screen
from llmbench.report.markdown import plain
from llmbench.report.views.run import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llmbench.claims import Answer, Claim, Part
    from llmbench.stats.interval import Interval

NAMED = 3
"""Conditions and cells that are named in one place; the rest are counted."""
WIDTH = 100
LARGE = 10_000

WORDS = {
    ClaimVerdict.SUPPORTED: "true for",
    ClaimVerdict.CONTRADICTED: "false for",
    ClaimVerdict.INCONCLUSIVE: "undecided for",
}
COPIES = {"small": "copies at a 64th of their models", "tiny": "tiny copies"}


class Judged(NamedTuple):
    """A claim and its answer."""

    claim: Claim
    answer: Answer


def render(judged: Sequence[Judged], format: str) -> str:
    """Return verdicts as text in one of the formats, with its last newline."""
    if format == "json":
        return report_rows.json([_facts(each) for each in judged])
    blocks = _markdown(judged) if format == "markdown" else _terminal(judged)
    return "\n".join(blocks) + "\n"


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
    """Return what the data are: the machines, and whether the models were copies; empty without any."""
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
    if figure is None:
        return ""
    text = numbers.digits(figure.value)
    if not figure.known:
        text += " (no interval)"
    elif figure.low < figure.high:
        text += f" ({numbers.digits(figure.low)} to {numbers.digits(figure.high)})"
    return f"{text} {unit}".rstrip()


def _said(part: Part) -> str:
    where = f"{part.where}: " if part.where else ""
    return f"{where}{part.said} {figure_of(part.figure, part.unit)}".rstrip()


def _terminal(judged: Sequence[Judged]) -> Iterator[str]:
    for each in judged:
        yield from _block(each)
        yield ""
    yield counts(judged)


def _block(judged: Judged) -> Iterator[str]:
    claim, answer = judged
    data = data_of(answer)
    yield f"{claim.id}: {shown(verdict_of(judged))}{f' [{shown(data)}]' if data else ''}"
    for line in says(claim):
        yield from _wrapped(line)
    for part in answer.parts:
        used = cells_of(part)
        line = f"{part.verdict.value}: {_said(part)}{f'; cells {used}' if used else ''}"
        yield from _wrapped(shown(line))
    for note in answer.notes:
        yield from _wrapped(f"note: {shown(note)}")
    for line in rests_on(judged):
        yield from _wrapped(line)


def says(claim: Claim) -> Iterator[str]:
    """Yield what a claim says and what follows from it."""
    yield f"{claim.claim} ({claim.title}, {claim.date})"
    yield f"predicts: {claim.predicts}"


def rests_on(judged: Judged) -> Iterator[str]:
    """Yield what a verdict rests on besides measurements, and what would settle the claim if nothing has."""
    claim, answer = judged
    yield f"rule: {claim.rule}"
    for name, number in claim.assumptions.items():
        yield f"assumes: {name} {_number(number.value)}: {number.why}"
    if answer.verdict in {ClaimVerdict.NOT_MEASURED, ClaimVerdict.INCONCLUSIVE}:
        yield f"needs: {claim.needs} {settled_by(claim)}."


def _number(value: float) -> str:
    """Return a number with its thousands apart, unless it may be a year."""
    return f"{value:g}" if value < LARGE else f"{value:,.10g}"


def cells_of(part: Part) -> str:
    """Return the cells that a verdict was read from."""
    return _few([row.cell.id for row in part.rows])


def _wrapped(text: str) -> list[str]:
    width = min(WIDTH, screen().width or WIDTH)
    return textwrap.wrap(
        text, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def counts(judged: Iterable[Judged]) -> str:
    """Return how many claims have which verdict."""
    found = [each.answer.verdict for each in judged]
    counts = ", ".join(
        f"{found.count(verdict)} {verdict}" for verdict in ClaimVerdict if verdict in found
    )
    return f"{plural(len(found), 'claim')}: {counts}."


def _markdown(judged: Sequence[Judged]) -> Iterator[str]:
    yield "| claim | says, and predicts | source | verdict | measured |"
    yield "| :-- | :-- | :-- | :-- | :-- |"
    for each in judged:
        claim = each.claim
        cells = (
            claim.id,
            f"{claim.claim} Predicts: {claim.predicts}",
            f"{claim.report}, {claim.date}",
            f"**{plain(verdict_of(each))}**",
            _measured(each),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield counts(judged)
    yield "In brackets: 95 % intervals. Assumed numbers and rules: `configs/claims`, and `--format terminal`."


def _measured(judged: Judged) -> str:
    """Return the figures of a claim in one cell of a table; of many conditions the first of each verdict."""
    claim, answer = judged
    if answer.verdict is ClaimVerdict.NOT_MEASURED:
        return f"Needs: {claim.needs} `llmbench claims --plan {claim.id}`, on {claim.on}."
    first: dict[ClaimVerdict, Part] = {}
    for part in answer.parts:
        first.setdefault(part.verdict, part)
    told = answer.parts if len(answer.parts) <= NAMED else tuple(first.values())
    more = len(answer.parts) - len(told)
    text = "; ".join(plain(_said(part)) for part in told)
    tail = f"; and {more} more" if more else ""
    data = data_of(answer)
    return f"{text}{tail}.{f' {plain(data)}.' if data else ''}"


def _facts(judged: Judged) -> dict[str, Any]:
    claim, answer = judged
    return {
        "id": claim.id,
        "claim": claim.claim,
        "report": claim.report,
        "title": claim.title,
        "date": claim.date,
        "predicts": claim.predicts,
        "rule": claim.rule,
        "verdict": answer.verdict,
        "in_words": verdict_of(judged),
        "data": data_of(answer),
        "parts": [_part(part) for part in answer.parts],
        "notes": answer.notes,
        "assumptions": claim.assumptions,
        "settled_by": settled_by(claim),
    }


def _part(part: Part) -> dict[str, Any]:
    figure = part.figure
    known = figure is not None and figure.known
    return {
        "where": part.where,
        "verdict": part.verdict,
        "measured": part.said,
        "value": figure and figure.value,
        "low": figure.low if figure and known else None,
        "high": figure.high if figure and known else None,
        "unit": part.unit,
        "cells": [{"run": row.run, "cell": row.cell.id} for row in part.rows],
    }
