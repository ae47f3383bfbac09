"""How the sessions ended: the verdicts counted, the warnings in words, and what has no number and why."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from llmbench.measure.reasons import MEANINGS
from llmbench.redact import shown
from llmbench.report import plots, words
from llmbench.report.document import Note, cut, foreign
from llmbench.report.figures.cells import thinned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report.document import Section
    from llmbench.report.figures.cells import ReportedRun
    from llmbench.report.plots import Row, Spec
    from llmbench.results.table import RunProgress

VERDICTS = ("valid", "valid with warnings", "invalid", "failed", "still to come")

MOST_FAILURES = 50
"""Kinds of failure that are listed; a sweep with more has one cause that they share."""
LONGEST_REASON = 300


def verdicts(runs: Sequence[ReportedRun]) -> Section:
    """Return how many sessions of each run stand where."""
    counts = {run.label: _counts(run.table.progress) for run in runs}
    rows: list[Row] = [
        {
            "panel": "", "run": label, "order": order, "verdict": verdict, "y": count,
            "record": {"run": label, "verdict": verdict, "sessions": f"{count:,}"},
        }
        for label, found in counts.items()
        for order, (verdict, count) in enumerate(found.items())
        if count
    ]  # fmt: skip
    table = plots.rows(
        ("run", *VERDICTS),
        [(label, *(f"{count:,}" for count in found.values())) for label, found in counts.items()],
        range(1, len(VERDICTS) + 1),
    )
    colour: Spec = {
        "field": "verdict", "type": "nominal", "title": None,
        "scale": {"domain": list(VERDICTS), "range": "verdicts"},
        "legend": {"values": [word for word in VERDICTS if any(found[word] for found in counts.values())]},
    }  # fmt: skip
    return plots.section(
        "Verdicts",
        "A valid session passed every check; one with warnings did, too, and has something that a reader must know. "
        "An invalid one ran and failed a check; a failed one did not get so far. Neither of these has a number.",
        _bars(rows, "run", colour) if rows else None,
        table,
    )


def _counts(progress: RunProgress) -> dict[str, int]:
    counts = (progress.valid, progress.warned, progress.invalid, progress.failed, progress.to_come)
    return dict(zip(VERDICTS, counts, strict=True))


def _bars(rows: Sequence[Row], field: str, colour: Spec) -> Spec:
    """Return lying bars of sessions, one for each value of a field."""
    names = list(dict.fromkeys(row[field] for row in rows))
    bar = {
        "mark": {"type": "bar"},
        "encoding": {
            "x": {
                "field": "y", "type": "quantitative", "title": "sessions", "stack": "zero",
                "scale": {"nice": False},
                "axis": {"format": ",d", "tickMinStep": 1, "tickCount": 6},
            },
            "y": {
                "field": field, "type": "nominal", "title": None, "sort": None,
                "axis": {"labels": len(names) > 1, "domain": False, "ticks": False, "grid": False},
            },
            "color": colour,
            "order": {"field": "order"},
            "tooltip": plots.tooltip(rows),
        },
    }  # fmt: skip
    return plots.panels(rows, [bar], height={"step": 30})


def warnings(runs: Sequence[ReportedRun]) -> Section:
    """Return what readers must know of valid numbers."""
    rows: list[tuple[str, ...]] = []
    for run in runs:
        totals: Counter[str] = Counter()
        for codes in run.tally.warnings.values():
            totals.update(codes)
        valid = len(run.tally.owners)
        rows += [
            (
                run.label,
                shown(code),
                f"{count:,} of {valid:,}",
                MEANINGS.get(code, ""),
                _short(run.tally.details[code]),
            )
            for code, count in totals.most_common()
        ]
    if not rows:
        return plots.section("Warnings", "No valid session has a warning.")
    return plots.section(
        "Warnings",
        "What to know when reading the numbers; the last column is the first session that has the warning.",
        table=plots.rows(("run", "warning", "valid sessions", "meaning", "such as"), rows, {2}),
    )


def failures(runs: Sequence[ReportedRun]) -> Section:
    """Return what ended without a number, how often and why."""
    found = [(run, failure) for run in runs for failure in run.table.failures]
    if not found:
        return plots.section("Failures", "Every session that ended has a number.")
    kept = thinned(found, MOST_FAILURES)
    rows: list[Row] = [
        {
            "panel": "",
            "how": shown(words.how(failure)),
            "order": order,
            "variant": run.label,
            "y": failure.sessions,
            "record": {
                "run": run.label,
                "sessions": f"{failure.sessions:,}",
                "how": shown(words.how(failure)),
                "why": _short(failure.reason),
                "cells": _short("; ".join(words.cells_of(failure, run.table))),
            },
        }
        for order, (run, failure) in enumerate(kept)
    ]
    colour: Spec = {
        "field": "variant", "type": "nominal", "title": None, "legend": {} if len(runs) > 1 else None,
    }  # fmt: skip
    return plots.section(
        "Failures",
        "Sessions without a number, by how they ended and in which phase.",
        _bars(rows, "how", colour),
        plots.table([row["record"] for row in rows], ("run", "how", "why", "cells")),
        plots.thinning(len(kept), len(found), "kinds of failure"),
    )


def notices(runs: Sequence[ReportedRun]) -> Iterator[Note]:
    """Yield what is wrong with the files of the runs, in words."""
    for run in runs:
        for notice in run.table.notices:
            yield Note(f"{foreign(run.label)}: {foreign(notice)}", "warning")


def _short(text: str) -> str:
    return cut(shown(text), LONGEST_REASON)
