"""A comparison as Markdown that pastes into an issue."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from llmbench.reports.comparison import _words
from llmbench.reports.markdown import aligned, coordinates, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.compare import Comparison, Contrast
    from llmbench.reports import Page
    from llmbench.reports.comparison._words import Rows

DASH = "–"  # noqa: RUF001 - a range's own sign


def render(made: Comparison, page: Page) -> str:
    """Return the comparison as Markdown; the page does not matter."""
    del page
    rows = _words.rows_of(made)
    parts = [
        "\n".join(_caption(made, rows)),
        "\n".join(aligned(list(_columns(made, rows))))
        if rows.cells
        else "No cell has a number on both sides.",
        *("\n".join(_told(made, contrast)) for contrast in made.contrasts),
        "\n".join(_notes(made, rows)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _caption(made: Comparison, rows: Rows) -> Iterator[str]:
    candidates = ", ".join(plain(contrast.name) for contrast in made.contrasts)
    yield f"**{_words.title(made)}**: baseline {plain(made.baseline)}, candidate {candidates}."
    same = _words.constants(made, rows)
    if same:
        yield ", ".join(f"{key} {plain(value)}" for key, value in same.items()) + "."


def _columns(made: Comparison, rows: Rows) -> Iterator[list[str]]:
    for axis in rows.axes:
        yield coordinates(axis, range(len(rows.cells)))
    yield [f"baseline ({made.asked.metric.unit.word})", "--:", *_words.baseline(made, rows)]
    for contrast in made.contrasts:
        name = "" if len(made.contrasts) == 1 else f"{plain(PurePath(contrast.name).name)} "
        intervals, ratios = _words.intervals(contrast, DASH), _words.ratios(contrast)
        both = [f"{a} ({b})" for a, b in zip(ratios, intervals, strict=True)]
        yield [f"{name}ratio", "--:", *_words.over(rows, contrast, both)]
        if counts := _words.session_counts(made, contrast):
            yield ["sessions", "--:", *_words.over(rows, contrast, counts)]
        verdicts = (plain(text) for text in _words.verdicts(made, contrast))
        yield ["verdict", ":--", *_words.over(rows, contrast, list(verdicts))]


def _told(made: Comparison, contrast: Contrast) -> Iterator[str]:
    name = f"{plain(contrast.name)}: " if len(made.contrasts) > 1 else ""
    yield f"{name}{_words.summary(made, contrast)}."
    if whole := _words.overall(contrast, DASH):
        yield f"{whole}."
    if contrast.missing or contrast.notices:
        yield ""
    for group in contrast.missing:
        what, which = _words.missing(group)
        yield f"- {plain(what)}: {plain(which)}"
    for notice in contrast.notices:
        yield f"- {plain(notice)}"


def _notes(made: Comparison, rows: Rows) -> Iterator[str]:
    for notice in made.notices:
        yield f"- {plain(notice)}"
    if rows.cells:
        yield from (f"- {line}" for line in _words.legend(made, DASH))
