"""A table as aligned text, which any terminal shows and a pipe passes on.

Metrics that do not fit beside the others stand in a further block, under the same rows' names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.redact import shown
from llmbench.reports import _columns, _layout, _words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.reports import Page
    from llmbench.table import Table


def render(table: Table, page: Page) -> str:
    """Return the table as lines of text, none longer than the page is wide if that can be done."""
    signs = _layout.signs_for(page.encoding)
    parts = [
        "\n".join(_caption(table, page)),
        *_blocks(table, page, signs),
        "\n".join(_failures(table, page)),
        "\n".join(_notes(table, page, signs)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _caption(table: Table, page: Page) -> Iterator[str]:
    name = shown(", ".join(filter(None, (_words.title(table), _words.origin(table)))))
    cells = _words.plural(len(table.cells), "cell")
    yield from _layout.wrapped(
        f"{name}: {cells}; {_words.progress(table.progress)}", page, _layout.BOLD
    )
    for line in _words.everywhere(table, shown):
        yield from _layout.wrapped(line, page, _layout.YELLOW)
    if table.plan:
        yield from _layout.wrapped(shown(table.plan.why), page)
    same = _words.constants(table)
    if same:
        yield from _layout.wrapped(
            ", ".join(f"{key} {shown(value)}" for key, value in same.items()), page
        )


def _blocks(table: Table, page: Page, signs: _layout.Signs) -> Iterator[str]:
    if table.rows:
        yield from _layout.blocks(_columns.of_table(table, signs.plus_minus), page, signs)
    elif table.progress.ended:
        yield "No cell has a valid session."


def _failures(table: Table, page: Page) -> Iterator[str]:
    if not table.failures:
        return
    count = sum(failure.sessions for failure in table.failures)
    yield from _layout.wrapped(
        f"Without a number: {_words.plural(count, 'session')}", page, _layout.YELLOW
    )
    for failure in table.failures:
        text = f"{failure.sessions:>4}  {_words.how(failure)}: {shown(failure.reason)}"
        yield from _layout.wrapped(text, page, indent=6)
        cells = "; ".join(_words.cells_of(failure, table))
        yield from _layout.wrapped(f"      {shown(cells)}", page, indent=6)


def _notes(table: Table, page: Page, signs: _layout.Signs) -> Iterator[str]:
    for notice in table.notices:
        yield from _layout.wrapped(shown(notice), page, _layout.YELLOW)
    if not table.rows:
        return
    if stopped := _words.stops(table, signs.plus_minus):
        yield from _layout.wrapped(stopped, page)
    for line in _words.legend(table, signs.plus_minus):
        yield from _layout.wrapped(line, page, indent=2)
