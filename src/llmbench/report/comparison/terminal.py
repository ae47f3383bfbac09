"""A comparison as aligned text: a row a cell, then the counts, the cells left over, and what to hold against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.redact import shown
from llmbench.report import layout
from llmbench.report.views import comparison

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.compare import Comparison, Contrast
    from llmbench.report import Page
    from llmbench.report.views.comparison import Rows


def render(made: Comparison, page: Page) -> str:
    """Return the comparison as lines of text, none longer than the page is wide if that can be done."""
    signs = layout.signs_for(page.encoding)
    rows = comparison.rows_of(made)
    parts = [
        "\n".join(_caption(made, rows, page)),
        *_blocks(made, rows, page, signs),
        *("\n".join(_told(made, contrast, page, signs.dash)) for contrast in made.contrasts),
        "\n".join(_legend(made, rows, page, signs.dash)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _caption(made: Comparison, rows: Rows, page: Page) -> Iterator[str]:
    yield from layout.wrapped(comparison.title(made), page, layout.BOLD)
    yield from layout.wrapped(f"baseline: {shown(made.baseline)}", page, indent=2)
    for contrast in made.contrasts:
        yield from layout.wrapped(f"candidate: {shown(contrast.name)}", page, indent=2)
    same = comparison.constants(made, rows)
    if same:
        told = ", ".join(f"{key} {shown(value)}" for key, value in same.items())
        yield from layout.wrapped(told, page)


def _blocks(made: Comparison, rows: Rows, page: Page, signs: layout.Signs) -> Iterator[str]:
    if rows.cells:
        yield from layout.blocks(comparison.columns(made, rows, signs.dash), page, signs)
    else:
        yield comparison.NO_CELL


def _told(made: Comparison, contrast: Contrast, page: Page, dash: str) -> Iterator[str]:
    name = f"{shown(contrast.name)}: " if len(made.contrasts) > 1 else ""
    yield from layout.wrapped(name + comparison.summary(made, contrast) + ".", page, layout.BOLD)
    if whole := comparison.overall(contrast, dash):
        yield from layout.wrapped(whole + ".", page, indent=2)
    for group in contrast.missing:
        what, which = comparison.missing(group)
        yield from layout.wrapped(f"  {shown(what)}", page, layout.YELLOW, indent=4)
        yield from layout.wrapped(f"    {shown(which)}", page, indent=4)
    for notice in contrast.notices:
        yield from layout.wrapped(shown(notice), page, layout.YELLOW, indent=2)


def _legend(made: Comparison, rows: Rows, page: Page, dash: str) -> Iterator[str]:
    for notice in made.notices:
        yield from layout.wrapped(shown(notice), page, layout.YELLOW, indent=2)
    if rows.cells:
        for line in comparison.legend(made, dash):
            yield from layout.wrapped(line, page, indent=2)
