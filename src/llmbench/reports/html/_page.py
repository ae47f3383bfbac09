"""The page itself: HTML around figures, in which every foreign string is escaped and only our scripts run.

Its content security policy lets nothing be fetched, and runs no script but those whose digests it names: a
name that escaped the escaping would still not be run.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from llmbench import __version__
from llmbench.metrics import METRICS
from llmbench.redact import shown
from llmbench.reports import _words
from llmbench.reports.html import _figure, _outcomes
from llmbench.reports.html._dots import PLUS_MINUS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.reports.html._dots import Run
    from llmbench.reports.html._figure import Figure, Grid

GENERATOR = '<meta name="generator" content="llmbench report'
"""What says of a file that this command wrote it."""

UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
"""Characters that could end a script or a line of it; inside JSON they mean the same as escapes."""


def page(runs: Sequence[Run], figures: Sequence[Figure], library: str) -> str:
    """Return the whole page."""
    scripts = [library.replace("</script", "<\\/script"), _file("page.js")]
    title = f"llmbench report: {', '.join(run.label for run in runs)}"
    body = "\n".join([*_top(runs), *_contents(figures), *_sections(figures), *_words_of(runs)])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{GENERATOR} {__version__}">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
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


def _top(runs: Sequence[Run]) -> Iterator[str]:
    yield "<header>"
    yield f"<h1>{text(', '.join(run.label for run in runs))}</h1>"
    for run in runs:
        label = f"<strong>{text(run.label)}</strong>: " if len(runs) > 1 else ""
        cells = _words.plural(len(run.table.cells), "cell")
        yield f"<p>{label}{cells}; {text(_words.progress(run.table.progress))}.</p>"
        if run.table.plan:
            yield f"<p class='why'>{text(run.table.plan.why)}</p>"
    for notice in _outcomes.notices(runs):
        yield f"<p class='note'>{text(notice)}</p>"
    yield "<noscript><p class='note'>Without JavaScript there are no plots; every table is here.</p></noscript>"
    yield "</header>"


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
        if figure.about:
            yield f"<p>{text(figure.about)}</p>"
        yield from (f"<p class='note'>{text(note)}</p>" for note in figure.notes)
        if figure.spec:
            label = f"Plot: {figure.title}. The table below it holds the same numbers."
            yield f"<div class='plot' id='p{number}' role='img' aria-label='{text(label)}'></div>"
            yield f"<script type='application/json' data-plot='p{number}'>{json(figure.spec)}</script>"
        if figure.grid:
            yield from _table(figure.title, figure.grid, opened=figure.spec is None)
        yield "</section>"


def _table(title: str, grid: Grid, *, opened: bool) -> Iterator[str]:
    """Yield a table that scrolls by itself; folded away below a plot."""
    rows = _words.plural(len(grid.rows), "row")
    yield f"<details{' open' if opened else ''}><summary>Table: {text(title)} ({rows})</summary>"
    yield f"<div class='scroll' tabindex='0' role='region' aria-label='{text(title)}'><table>"
    yield f"<thead><tr>{''.join(_cells(grid, grid.heads, 'th scope=col'))}</tr></thead><tbody>"
    yield from (f"<tr>{''.join(_cells(grid, row, 'td'))}</tr>" for row in grid.rows)
    yield "</tbody></table></div></details>"


def _cells(grid: Grid, row: Sequence[str], tag: str) -> Iterator[str]:
    end = tag.partition(" ")[0]
    for number, value in enumerate(row):
        figure = " class=n" if number in grid.figures else ""
        yield f"<{tag}{figure}>{text(value)}</{end}>"


def _words_of(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what the signs and the words mean."""
    tables = [run.table for run in runs if run.table.rows]
    plotted = {
        numbers.metric.key for table in tables for numbers in table.numbers
    } & _figure.PLOTTED
    lines = dict.fromkeys(
        [
            *(line for table in tables for line in _words.legend(table, PLUS_MINUS)),
            *(_words.meaning(metric) for metric in METRICS if metric.key in plotted),
        ]
    )
    yield "<section><h2>Words</h2><ul>"
    yield from (f"<li>{text(line)}</li>" for line in lines)
    yield f"</ul></section>\n</main>\n<footer>llmbench {text(__version__)}</footer>"
