"""A comparison as aligned text: a row a cell, then the counts, the cells left over, and what to hold against it."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from llmbench.redact import shown
from llmbench.reports import _layout
from llmbench.reports.comparison import _words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.compare import Comparison, Contrast
    from llmbench.reports import Page
    from llmbench.reports.comparison._words import Rows


def render(made: Comparison, page: Page) -> str:
    """Return the comparison as lines of text, none longer than the page is wide if that can be done."""
    signs = _layout.signs_for(page.encoding)
    dash = "–" if signs is _layout.FANCY else "-"  # noqa: RUF001 - a range's own sign
    rows = _words.rows_of(made)
    parts = [
        "\n".join(_caption(made, rows, page)),
        *_blocks(made, rows, page, signs, dash),
        *("\n".join(_told(made, contrast, page, dash)) for contrast in made.contrasts),
        "\n".join(_legend(made, rows, page, dash)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _caption(made: Comparison, rows: Rows, page: Page) -> Iterator[str]:
    yield from _layout.wrapped(_words.title(made), page, _layout.BOLD)
    yield from _layout.wrapped(f"baseline: {shown(made.baseline)}", page, indent=2)
    for contrast in made.contrasts:
        yield from _layout.wrapped(f"candidate: {shown(contrast.name)}", page, indent=2)
    same = _words.constants(made, rows)
    if same:
        told = ", ".join(f"{key} {shown(value)}" for key, value in same.items())
        yield from _layout.wrapped(told, page)


def _blocks(
    made: Comparison, rows: Rows, page: Page, signs: _layout.Signs, dash: str
) -> Iterator[str]:
    if not rows.cells:
        yield "No cell has a number on both sides."
        return
    every = range(len(rows.cells))
    left = [_layout.axis(axis, every, signs) for axis in rows.axes]
    unit = made.asked.metric.unit.word
    right = [_layout.figures(("baseline", unit), _words.baseline(made, rows))]
    for contrast in made.contrasts:
        right += _columns(made, rows, contrast, signs, dash)
    yield from _layout.blocks(left, right, page, signs)


def _columns(
    made: Comparison, rows: Rows, contrast: Contrast, signs: _layout.Signs, dash: str
) -> Iterator[_layout.Column]:
    """Yield a candidate's columns; of several candidates only what differs between them."""
    ratios, intervals = _words.ratios(contrast), _words.intervals(contrast, dash)
    verdicts = _words.over(rows, contrast, _words.verdicts(made, contrast))
    if len(made.contrasts) > 1:
        name = _layout.cut(shown(PurePath(contrast.name).name), signs.dots)
        both = [f"{a} ({b})" for a, b in zip(ratios, intervals, strict=True)]
        yield _layout.figures((name, "ratio"), _words.over(rows, contrast, both))
        yield _layout.foreign("verdict", verdicts)
        return
    values = _words.values(made, contrast.middles[1], contrast.sessions[1])
    unit = made.asked.metric.unit.word
    yield _layout.figures(("candidate", unit), _words.over(rows, contrast, values))
    yield _layout.figures(("ratio", ""), _words.over(rows, contrast, ratios))
    yield _layout.figures(("95 %", "interval"), _words.over(rows, contrast, intervals))
    if counts := _words.session_counts(made, contrast):
        yield _layout.figures(("sessions", ""), _words.over(rows, contrast, counts))
    yield _layout.foreign("verdict", verdicts)


def _told(made: Comparison, contrast: Contrast, page: Page, dash: str) -> Iterator[str]:
    name = f"{shown(contrast.name)}: " if len(made.contrasts) > 1 else ""
    yield from _layout.wrapped(name + _words.summary(made, contrast) + ".", page, _layout.BOLD)
    if whole := _words.overall(contrast, dash):
        yield from _layout.wrapped(whole + ".", page, indent=2)
    for group in contrast.missing:
        what, which = _words.missing(group)
        yield from _layout.wrapped(f"  {shown(what)}", page, _layout.YELLOW, indent=4)
        yield from _layout.wrapped(f"    {shown(which)}", page, indent=4)
    for notice in contrast.notices:
        yield from _layout.wrapped(shown(notice), page, _layout.YELLOW, indent=2)


def _legend(made: Comparison, rows: Rows, page: Page, dash: str) -> Iterator[str]:
    for notice in made.notices:
        yield from _layout.wrapped(shown(notice), page, _layout.YELLOW, indent=2)
    if rows.cells:
        for line in _words.legend(made, dash):
            yield from _layout.wrapped(line, page, indent=2)
