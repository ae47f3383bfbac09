"""A document as one page for any browser: every foreign string is escaped, and only our scripts run.

Its content security policy lets nothing be fetched, and runs no script but those whose digests it names: a
name that escaped the escaping would still not be run. Plots are drawn in the reader's browser by Vega-Lite,
whose whole bundle stands in a page that has any (0.9 MB); below each stands its table.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib
from importlib import resources
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from llmbench import __version__
from llmbench.errors import LlmbenchError
from llmbench.redact import spelled
from llmbench.report.document import Note, Plot, cut, unmarked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from llmbench.report import Page
    from llmbench.report.document import Column, Document, Grid, Section

GENERATOR = '<meta name="generator" content="llmbench '
"""The beginning of the tag by which a page of llmbench is recognised."""

LONG = 36
"""Characters of a text that stays on one line; longer ones are wrapped, and get room for it."""
MOST_WHOLE = 30
"""Rows of a table that is shown whole, without a scroll bar of its own."""
UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
"""Characters that could end a script or a line of it; inside JSON they mean the same as escapes."""

CLASSES = {"info": "", "strong": " class='strong'", "warning": " class='note'", "legend": ""}
"""The look of a note by its level."""


class Library(Protocol):
    """The one function of vl-convert that is used."""

    def javascript_bundle(self) -> str:
        """Return Vega, Vega-Lite and Vega-Embed as one JavaScript module."""


def library() -> str:
    """Return the JavaScript that draws the plots; raise LlmbenchError if the extra is not installed."""
    try:
        convert = cast("Library", importlib.import_module("vl_convert"))
    except ImportError as error:
        raise LlmbenchError(
            f"plots on a page need the package {error.name}: pip install 'llmbench[report]'."
        ) from error
    return convert.javascript_bundle()


def render(document: Document, page: Page) -> str:
    """Return the whole page; where it goes says only whose it is."""
    sections, notes = list(document.sections), list(document.notes)
    plots = any(isinstance(block, Plot) for section in sections for block in section.blocks)
    scripts = [library().replace("</script", "<\\/script"), _file("page.js")] if plots else []
    warnings = [note for note in notes if note.level != "legend"]
    title = document.title or page.command
    body = "\n".join(
        [
            *_top(document, title, warnings, plots=plots),
            *_contents(sections),
            f"<main{' class=single' if len(sections) == 1 else ''}>",
            *_sections(sections),
            *_bottom([note for note in notes if note.level == "legend"]),
        ]
    )
    tags = "\n".join(f'<script type="module">{script}</script>' for script in scripts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{GENERATOR}{page.command} {__version__}">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(f"llmbench {page.command}: {title}")}</title>
<style>
{_file("page.css")}</style>
</head>
<body>
{body}
{tags}
</body>
</html>
"""


def text(said: str) -> str:
    """Return text escaped for a place between tags or in an attribute."""
    return html.escape(unmarked(said))


def json(value: Mapping[str, object]) -> str:
    """Return a value as JSON that cannot end the script it stands in."""
    return spelled(msgspec.json.encode(value).decode()).translate(UNSAFE)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    sources = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    sources = sources or "'none'"
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _top(document: Document, title: str, warnings: Sequence[Note], *, plots: bool) -> Iterator[str]:
    yield "<header>"
    yield f"<h1>{text(title)}</h1>"
    yield from map(_note, document.about)
    if document.facts:
        same = (f"{text(name)} {text(value)}" for name, value in document.facts.items())
        yield f"<p>{', '.join(same)}</p>"
    yield from map(_note, warnings)
    if plots:
        yield "<noscript><p class='note'>Without JavaScript there are no plots; every table is here.</p></noscript>"
    yield "</header>"


def _note(note: Note) -> str:
    return f"<p{CLASSES[note.level]}>{text(note.text)}</p>"


def _contents(sections: Sequence[Section]) -> Iterator[str]:
    links = [
        f"<li><a href='#f{number}'>{text(section.title)}</a></li>"
        for number, section in enumerate(sections)
        if section.title
    ]
    if len(links) > 1:
        yield f"<nav aria-label='Contents'><ul>{''.join(links)}</ul></nav>"


def _sections(sections: Sequence[Section]) -> Iterator[str]:
    for number, section in enumerate(sections):
        title = section.title
        labelled = f" aria-labelledby='h{number}'" if title else ""
        yield f"<section id='f{number}'{labelled}>"
        if title:
            yield f"<h2 id='h{number}'>{text(title)}</h2>"
        for place, block in enumerate(sorted(section.blocks, key=_place)):
            if isinstance(block, Note):
                yield _note(block)
            elif isinstance(block, Plot):
                yield from _plot(f"p{number}-{place}", title, block, opened=section.opened)
            else:
                yield from _table(title, block, opened=True)
        yield "</section>"


def _place(block: object) -> int:
    """Return where a block stands in a section: a page is read from its top, so what must be known comes first."""
    if isinstance(block, Note) and block.level != "legend":
        return 0
    return 1 if isinstance(block, Plot) else 2


def _plot(name: str, title: str, plot: Plot, *, opened: bool) -> Iterator[str]:
    yield from (f"<p>{text(line)}</p>" for line in plot.caption.splitlines())
    label = f"Plot: {title}. The table below it holds the same numbers."
    yield f"<div class='plot' id='{name}' role='img' aria-label='{text(label)}'></div>"
    yield f"<script type='application/json' data-plot='{name}'>{json(plot.spec)}</script>"
    yield from _table(title, plot.table, opened=opened)


def _table(title: str, table: Grid, *, opened: bool) -> Iterator[str]:
    """Yield a table, folded away below a plot; a long one scrolls by itself."""
    rows = f"{len(table):,} row{'' if len(table) == 1 else 's'}"
    name = f"Table: {text(title)} ({rows})" if title else f"Table of {rows}"
    columns = [_cells(column) for column in table.columns]
    classes = [_class(column) for column in table.columns]
    heads = [cut(unmarked(column.title)) for column in table.columns]
    yield f"<details{' open' if opened else ''}><summary>{name}</summary>"
    kind = "scroll" if len(table) > MOST_WHOLE else "scroll whole"
    yield f"<div class='{kind}' tabindex='0' role='region' aria-label='{name}'><table>"
    yield f"<thead><tr>{_row(classes, heads, 'th scope=col')}</tr></thead><tbody>"
    yield from (f"<tr>{_row(classes, row, 'td')}</tr>" for row in zip(*columns, strict=True))
    yield "</tbody></table></div></details>"


def _cells(column: Column) -> Iterable[str]:
    return map(cut, map(unmarked, column.joined)) if column.kind == "name" else column.joined


def _class(column: Column) -> str:
    """Return the attribute of a column: of numbers, of long texts or of short ones."""
    if column.kind == "number":
        return " class=n"
    longest = max(map(len, column.texts), default=0)
    return " class=w" if longest > LONG and column.kind != "name" else " class=s"


def _row(classes: Sequence[str], row: Sequence[str], tag: str) -> str:
    end = tag.partition(" ")[0]
    pairs = zip(classes, row, strict=True)
    return "".join(f"<{tag}{attribute}>{text(value)}</{end}>" for attribute, value in pairs)


def _bottom(legend: Sequence[Note]) -> Iterator[str]:
    if legend:
        yield "<section><h2>Words</h2><ul>"
        yield from (f"<li>{text(note.text)}</li>" for note in legend)
        yield "</ul></section>"
    yield f"</main>\n<footer>llmbench {text(__version__)}</footer>"
