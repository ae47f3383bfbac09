"""A run as a document with a row a session: how it ended, and what it measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llmbench.numbers import plural
from llmbench.report import words
from llmbench.report.document import Column, Document, Grid, Note, Section, Suite, foreign
from llmbench.report.views import table as views_table
from llmbench.results.record import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.results.per_session import SessionTable

FORMAT = 1
"""The shape of the data; its history: 1, the first."""


def document(sessions: SessionTable) -> Document:
    """Return the sessions of a run as a document."""
    run = sessions.whole
    name = ", ".join(filter(None, (words.title(run), words.origin(run))))
    return Document(
        f"{foreign(name)}: {plural(len(sessions.ends), 'session')}",
        [Section([_grid(sessions)])]
        if sessions.ends
        else [Section([Note("No session has ended.")])],
        sheet(sessions),
        lambda: {"format": FORMAT, "run": run.run, "sessions": _rows(sessions)},
        facts=words.constants(run),
        notes=[
            *(Note(foreign(notice), "warning") for notice in run.notices),
            *(Note(words.meaning(numbers.metric), "legend") for numbers in run.headline),
        ],
        suites=suites(sessions),
    )


def _grid(sessions: SessionTable) -> Grid:
    run, ends = sessions.whole, sessions.ends
    rows = range(len(ends))
    keys = [views_table.coordinate(axis, sessions.owners.tolist()) for axis in run.axes]
    keys.append(Column("session", [str(end.session) for end in ends]))
    if any(end.place for end in ends):
        keys.append(Column("place", [end.place for end in ends], "words"))
    nothing = np.full(len(ends), np.nan)
    columns = [Column("status", [str(end.status) for end in ends], "words")]
    for numbers in run.headline:
        values = sessions.values[numbers.metric.key]
        alone = numbers._replace(
            middle=values, half_width=nothing, spread=nothing, sessions=np.zeros(len(ends), int)
        )
        unit = numbers.metric.unit.word
        columns.append(Column(numbers.metric.label, words.figures(alone, rows).values, unit=unit))
    said = [", ".join(filter(None, (end.reason, *end.codes))) for end in ends]
    return Grid([*keys, *columns, Column("why, warnings", said, "words")], len(keys))


def suites(sessions: SessionTable) -> Iterator[Suite]:
    """Yield one suite: a check a session that has ended, which passes if it is valid."""
    run, grid = sessions.whole, _grid(sessions)
    texts = zip(*(column.texts for column in grid.columns), strict=True)
    checks = []
    for owner, end, row in zip(sessions.owners.tolist(), sessions.ends, texts, strict=True):
        name = f"{run.cells[owner].id} session {end.session}"
        pairs = zip(grid.columns, row, strict=True)
        detail = "\n".join(f"{column.title}: {text}" for column, text in pairs if text)
        ended = [] if end.status is Status.OK else [(end.status, f"{end.status}: {end.reason}")]
        checks.append(views_table.check(name, ended, detail))
    yield Suite(run.run, checks, run.notices)


def sheet(sessions: SessionTable) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield every coordinate and metric as a column: a row for every session."""
    run, ends = sessions.whole, sessions.ends
    yield from views_table.provenance(run, len(ends))
    for key, values in views_table.coordinates(run):
        yield key, [values[owner] for owner in sessions.owners.tolist()]
    yield "session", [end.session for end in ends]
    if any(end.place for end in ends):
        yield "place", [end.place for end in ends]
    yield "status", [str(end.status) for end in ends]
    for key, measured in sessions.values.items():
        yield key, cast("Sequence[object]", measured)
    yield "reason", [end.reason for end in ends]
    yield "warnings", [" ".join(end.codes) for end in ends]


def _rows(sessions: SessionTable) -> list[dict[str, Any]]:
    """Return the sheet as rows; msgspec writes NaN as null."""
    columns = {key: np.asarray(values, dtype=object).tolist() for key, values in sheet(sessions)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
