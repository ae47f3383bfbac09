"""A table as aligned text, which any terminal shows and a pipe passes on.

Metrics that do not fit beside the others stand in a further block, under the same rows' names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.redact import shown
from llmbench.report import layout
from llmbench.report.views import columns, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.report import Page
    from llmbench.results.table import Table


def render(table: Table, page: Page) -> str:
    """Return the table as lines of text, none longer than the page is wide if that can be done."""
    signs = layout.signs_for(page.encoding)
    parts = [
        "\n".join(_caption(table, page)),
        *_blocks(table, page, signs),
        "\n".join(_failures(table, page)),
        "\n".join(_notes(table, page, signs)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _caption(table: Table, page: Page) -> Iterator[str]:
    name = shown(", ".join(filter(None, (run.title(table), run.origin(table)))))
    cells = run.plural(len(table.cells), "cell")
    yield from layout.wrapped(f"{name}: {cells}; {run.progress(table.progress)}", page, layout.BOLD)
    for line in run.everywhere(table, shown):
        yield from layout.wrapped(line, page, layout.YELLOW)
    if table.plan and table.plan.why:
        yield from layout.wrapped(shown(table.plan.why), page)
    same = run.constants(table)
    if same:
        yield from layout.wrapped(
            ", ".join(f"{key} {shown(value)}" for key, value in same.items()), page
        )


def _blocks(table: Table, page: Page, signs: layout.Signs) -> Iterator[str]:
    if table.rows:
        yield from layout.blocks(columns.of_table(table, signs.plus_minus), page, signs)
    elif table.progress.ended:
        yield "No cell has a valid session."


def _failures(table: Table, page: Page) -> Iterator[str]:
    if not table.failures:
        return
    count = sum(failure.sessions for failure in table.failures)
    yield from layout.wrapped(
        f"Without a number: {run.plural(count, 'session')}", page, layout.YELLOW
    )
    for failure in table.failures:
        text = f"{failure.sessions:>4}  {run.how(failure)}: {shown(failure.reason)}"
        yield from layout.wrapped(text, page, indent=6)
        cells = "; ".join(run.cells_of(failure, table))
        yield from layout.wrapped(f"      {shown(cells)}", page, indent=6)


def _notes(table: Table, page: Page, signs: layout.Signs) -> Iterator[str]:
    for notice in table.notices:
        yield from layout.wrapped(shown(notice), page, layout.YELLOW)
    if not table.rows:
        return
    if stopped := run.stops(table, signs.plus_minus):
        yield from layout.wrapped(stopped, page)
    for line in run.legend(table, signs.plus_minus):
        yield from layout.wrapped(line, page, indent=2)
