"""A comparison as Markdown that pastes into an issue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.report.layout import FANCY
from llmbench.report.markdown import aligned, plain
from llmbench.report.views import comparison

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.compare import Comparison, Contrast
    from llmbench.report import Page
    from llmbench.report.views.comparison import Rows


def render(made: Comparison, page: Page) -> str:
    """Return the comparison as Markdown; the page does not matter."""
    del page
    rows = comparison.rows_of(made)
    table = (
        aligned(comparison.columns(made, rows, FANCY.dash)) if rows.cells else [comparison.NO_CELL]
    )
    parts = [
        "\n".join(_caption(made, rows)),
        "\n".join(table),
        *("\n".join(_told(made, contrast)) for contrast in made.contrasts),
        "\n".join(_notes(made, rows)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _caption(made: Comparison, rows: Rows) -> Iterator[str]:
    candidates = ", ".join(plain(contrast.name) for contrast in made.contrasts)
    yield f"**{comparison.title(made)}**: baseline {plain(made.baseline)}, candidate {candidates}."
    same = comparison.constants(made, rows)
    if same:
        yield ", ".join(f"{plain(key)} {plain(value)}" for key, value in same.items()) + "."


def _told(made: Comparison, contrast: Contrast) -> Iterator[str]:
    name = f"{plain(contrast.name)}: " if len(made.contrasts) > 1 else ""
    yield f"{name}{comparison.summary(made, contrast)}."
    if whole := comparison.overall(contrast, FANCY.dash):
        yield f"{whole}."
    if contrast.missing or contrast.notices:
        yield ""
    for group in contrast.missing:
        what, which = comparison.missing(group)
        yield f"- {plain(what)}: {plain(which)}"
    for notice in contrast.notices:
        yield f"- {plain(notice)}"


def _notes(made: Comparison, rows: Rows) -> Iterator[str]:
    for notice in made.notices:
        yield f"- {plain(notice)}"
    if rows.cells:
        yield from (f"- {line}" for line in comparison.legend(made, FANCY.dash))
