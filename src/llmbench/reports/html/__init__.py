"""Runs as one page for a browser: plots to dot at, a table below each, nothing fetched from anywhere.

The plots are drawn in the reader's browser by Vega-Lite, whose whole bundle stands in the page (0.9 MB).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from llmbench import table
from llmbench.errors import LlmbenchError
from llmbench.reports.html import (
    _comparison,
    _conditions,
    _context,
    _dots,
    _front,
    _memory,
    _outcomes,
    _page,
    _roofline,
    _spread,
)
from llmbench.reports.html._dots import Run
from llmbench.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.compare import Comparison
    from llmbench.reports.html._figure import Figure
    from llmbench.store import Log

GENERATOR = _page.GENERATOR


class Library(Protocol):
    """What is used of vl-convert."""

    def javascript_bundle(self) -> str:
        """Return Vega, Vega-Lite and Vega-Embed as one JavaScript module."""


def library() -> str:
    """Return the JavaScript that draws the plots; raise LlmbenchError if the extra is not installed."""
    try:
        convert = cast("Library", importlib.import_module("vl_convert"))
    except ImportError as error:
        raise LlmbenchError(
            f"report: needs the package {error.name}: pip install 'llmbench[report]'."
        ) from error
    return convert.javascript_bundle()


def seen(log: Log, label: str) -> Run:
    """Read a run once, for a page on which it is called by this label."""
    tally = Tally(log)
    return Run(label, table.tabulate(log, tally), tally)


def render(runs: Sequence[Run], script: str, compared: Comparison | str | None = None) -> str:
    """Return the page of some runs.

    Args:
        runs: in the order in which they are told apart.
        script: what `library` returned.
        compared: the runs beside the first, or why they cannot be; None leaves it out.

    """
    return _page.page(runs, list(_figures(runs, compared)), script)


def _figures(runs: Sequence[Run], compared: Comparison | str | None) -> Iterator[Figure]:
    dots = _dots.dots(runs)
    yield _outcomes.verdicts(runs)
    if compared is not None:
        yield _comparison.figure(compared)
    yield from _front.figures(dots)
    yield from _context.figures(dots)
    yield from _memory.figures(dots)
    yield from _roofline.figures(dots)
    yield from _spread.figures(dots)
    yield _outcomes.failures(runs)
    yield _outcomes.warnings(runs)
    yield _conditions.conditions(runs)
    yield _conditions.cells(dots)
