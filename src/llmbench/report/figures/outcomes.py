"""The ends of sessions: counted, the warnings in words, and why some have no number."""

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

MOST_FAILURES = 50
"""Kinds of failure that are listed; a sweep with more has one cause that they share."""
LONGEST_REASON = 300


def sessions(runs: Sequence[ReportedRun]) -> Section:
    """Return how many sessions of each run are valid, failed or still to come."""
    counts = [words.counts(run.table.progress) for run in runs]
    records = [
        {"run": run.label, **{verdict: f"{count:,}" for verdict, count in of.items()}}
        for run, of in zip(runs, counts, strict=True)
    ]
    return plots.section(
        "Sessions",
        "A valid session passed every check; one with warnings did, too, and has something that a reader must know. "
        "An invalid one ran and failed a check; a failed one did not get so far. Neither of these has a number.",
        table=plots.table(records, ("run",)),
    )


def warnings(runs: Sequence[ReportedRun]) -> Section:
    """Return the warnings of valid sessions, counted and in words."""
    records = [record for run in runs for record in _warnings(run)]
    if not records:
        return plots.section("Warnings", "No valid session has a warning.")
    return plots.section(
        "Warnings",
        "What to know when reading the numbers; the last column is the first session that has the warning.",
        table=plots.table(records, ("run", "warning", "meaning", "such as")),
    )


def _warnings(run: ReportedRun) -> Iterator[dict[str, str]]:
    totals: Counter[str] = Counter()
    for codes in run.tally.warnings.values():
        totals.update(codes)
    for code, count in totals.most_common():
        yield {
            "run": run.label,
            "warning": shown(code),
            "valid sessions": f"{count:,} of {len(run.tally.owners):,}",
            "meaning": MEANINGS.get(code, ""),
            "such as": _short(run.tally.details[code]),
        }


def failures(runs: Sequence[ReportedRun]) -> Section:
    """Return the sessions that ended without a number, with their reasons."""
    failed = [(run, failure) for run in runs for failure in run.table.failures]
    if not failed:
        return plots.section("Failures", "Every session that ended has a number.")
    kept = thinned(failed, MOST_FAILURES)
    records = [
        {
            "run": run.label,
            "sessions": f"{failure.sessions:,}",
            "how": shown(words.how(failure)),
            "why": _short(failure.reason),
            "cells": _short("; ".join(words.cells_of(failure, run.table))),
        }
        for run, failure in kept
    ]
    return plots.section(
        "Failures",
        "Sessions without a number, by how they ended and in which phase.",
        table=plots.table(records, ("run", "how", "why", "cells")),
        notes=plots.thinning(len(kept), len(failed), "kinds of failure"),
    )


def notices(runs: Sequence[ReportedRun]) -> Iterator[Note]:
    """Yield the notices of all runs."""
    for run in runs:
        for notice in run.table.notices:
            yield Note(f"{foreign(run.label)}: {foreign(notice)}", "warning")


def _short(text: str) -> str:
    return cut(shown(text), LONGEST_REASON)
