"""The page itself: HTML around figures, in which every foreign string is escaped and only our scripts run.

Its content security policy lets nothing be fetched, and runs no script but those whose digests it names: a
name that escaped the escaping would still not be run.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from llmbench import __version__
from llmbench.redact import shown
from llmbench.report.views import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llmbench.report.plots import Figure, Grid

GENERATOR = '<meta name="generator" content="llmbench '
"""What says of a file that llmbench wrote it."""

LONG = 36
"""Characters of a text that stays on one line; longer ones are wrapped, and get room for it."""
MOST_WHOLE = 30
"""Rows of a table that is shown whole, without a scroll bar of its own."""
UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
"""Characters that could end a script or a line of it; inside JSON they mean the same as escapes."""


class Frame(NamedTuple):
    """What stands around the figures of a page.

    Attributes:
        command: that the page is of.
        title: its heading.
        about: what it is about, a paragraph each.
        notes: what a reader must hold against all of it.
        words: what its signs and words mean.

    """

    command: str
    title: str
    about: Iterable[str] = ()
    notes: Iterable[str] = ()
    words: Iterable[str] = ()


def page(frame: Frame, figures: Sequence[Figure], library: str) -> str:
    """Return the whole page."""
    scripts = [library.replace("</script", "<\\/script"), _file("page.js")]
    body = "\n".join([*_top(frame), *_contents(figures), *_sections(figures), *_bottom(frame)])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{GENERATOR}{frame.command} {__version__}">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(f"llmbench {frame.command}: {frame.title}")}</title>
<style>
{_file("page.css")}</style>
</head>
<body>
{body}
<script type="module">{scripts[0]}</script>
<script type="module">{scripts[1]}</script>
</body>
</html>
"""


def text(foreign: str) -> str:
    """Return text so that it stays text, between tags and in an attribute."""
    return html.escape(shown(foreign))


def json(value: object) -> str:
    """Return a value as JSON that cannot end the script it stands in."""
    return msgspec.json.encode(value).decode().translate(UNSAFE)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    sources = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _top(frame: Frame) -> Iterator[str]:
    yield "<header>"
    yield f"<h1>{text(frame.title)}</h1>"
    yield from (f"<p>{text(line)}</p>" for line in frame.about)
    yield from _notes(frame.notes)
    yield "<noscript><p class='note'>Without JavaScript there are no plots; every table is here.</p></noscript>"
    yield "</header>"


def _notes(notes: Iterable[str]) -> Iterator[str]:
    yield from (f"<p class='note'>{text(note)}</p>" for note in notes)


def _contents(figures: Sequence[Figure]) -> Iterator[str]:
    links = (
        f"<li><a href='#f{number}'>{text(figure.title)}</a></li>"
        for number, figure in enumerate(figures)
    )
    yield f"<nav aria-label='Contents'><ul>{''.join(links)}</ul></nav>\n<main>"


def _sections(figures: Sequence[Figure]) -> Iterator[str]:
    for number, figure in enumerate(figures):
        yield f"<section id='f{number}' aria-labelledby='h{number}'>"
        yield f"<h2 id='h{number}'>{text(figure.title)}</h2>"
        yield from (f"<p>{text(line)}</p>" for line in figure.about.splitlines())
        yield from _notes(figure.notes)
        if figure.spec:
            label = f"Plot: {figure.title}. The table below it holds the same numbers."
            yield f"<div class='plot' id='p{number}' role='img' aria-label='{text(label)}'></div>"
            yield f"<script type='application/json' data-plot='p{number}'>{json(figure.spec)}</script>"
        if figure.grid:
            yield from _table(figure.title, figure.grid, opened=figure.opened or not figure.spec)
        yield "</section>"


def _table(title: str, grid: Grid, *, opened: bool) -> Iterator[str]:
    """Yield a table, folded away below a plot; a long one scrolls by itself."""
    rows = run.plural(len(grid.rows), "row")
    classes = [_class(grid, column) for column in range(len(grid.heads))]
    yield f"<details{' open' if opened else ''}><summary>Table: {text(title)} ({rows})</summary>"
    kind = "scroll" if len(grid.rows) > MOST_WHOLE else "scroll whole"
    yield f"<div class='{kind}' tabindex='0' role='region' aria-label='{text(title)}'><table>"
    yield f"<thead><tr>{_cells(classes, grid.heads, 'th scope=col')}</tr></thead><tbody>"
    yield from (f"<tr>{_cells(classes, row, 'td')}</tr>" for row in grid.rows)
    yield "</tbody></table></div></details>"


def _class(grid: Grid, column: int) -> str:
    """Return the attribute of a column: of figures, of long texts or of short ones."""
    if column in grid.figures:
        return " class=n"
    longest = max((len(row[column]) for row in grid.rows), default=0)
    return " class=w" if longest > LONG else " class=s"


def _cells(classes: Sequence[str], row: Sequence[str], tag: str) -> str:
    end = tag.partition(" ")[0]
    pairs = zip(classes, row, strict=True)
    return "".join(f"<{tag}{attribute}>{text(value)}</{end}>" for attribute, value in pairs)


def _bottom(frame: Frame) -> Iterator[str]:
    yield "<section><h2>Words</h2><ul>"
    yield from (f"<li>{text(line)}</li>" for line in frame.words)
    yield f"</ul></section>\n</main>\n<footer>llmbench {text(__version__)}</footer>"
