"""Pages for a browser: plots to dot at, a table below each, nothing fetched from anywhere.

The plots are drawn in the reader's browser by Vega-Lite, whose whole bundle stands in the page (0.9 MB).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from llmbench import table
from llmbench.errors import LlmbenchError
from llmbench.metrics import METRICS
from llmbench.redact import shown
from llmbench.reports import _words
from llmbench.reports._layout import FANCY
from llmbench.reports.comparison import _words as _compared
from llmbench.reports.html import (
    _comparison,
    _conditions,
    _context,
    _dots,
    _figure,
    _front,
    _memory,
    _outcomes,
    _page,
    _roofline,
    _spread,
)
from llmbench.reports.html._dots import Run, labels
from llmbench.reports.html._file import check, place, write
from llmbench.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.compare import Comparison
    from llmbench.reports.html._conditions import Origin
    from llmbench.reports.html._figure import Figure
    from llmbench.store import Log

__all__ = ["Run", "check", "labels", "library", "of_comparison", "place", "render", "seen", "write"]


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
            f"a page needs the package {error.name}: pip install 'llmbench[report]'."
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
    frame = _page.Frame(
        "report",
        ", ".join(run.label for run in runs),
        [_told(run, several=len(runs) > 1) for run in runs],
        _outcomes.notices(runs),
        dict.fromkeys(_meanings(runs)),
    )
    return _page.page(frame, list(_figures(runs, compared)), script)


def of_comparison(made: Comparison, origins: Sequence[tuple[str, Origin]], script: str) -> str:
    """Return the page of a comparison.

    Args:
        made: what is shown.
        origins: where its runs come from, and what each is called.
        script: what `library` returned.

    """
    names = ", ".join(shown(of.name) for of in made.contrasts)
    same = _compared.constants(made, _compared.rows_of(made))
    frame = _page.Frame(
        "compare",
        f"{names} against {shown(made.baseline)}",
        [", ".join(f"{key} {shown(value)}" for key, value in same.items())] if same else (),
        words=_compared.legend(made, FANCY.dash),
    )
    columns = [(shown(name), list(_conditions.facts(origin))) for name, origin in origins]
    figures = [*_comparison.figures(made), _conditions.conditions(columns)]
    return _page.page(frame, figures, script)


def _told(run: Run, *, several: bool) -> str:
    label = f"{run.label}: " if several else ""
    cells = _words.plural(len(run.table.cells), "cell")
    why = f" {run.table.plan.why}" if run.table.plan else ""
    return f"{label}{cells}; {_words.progress(run.table.progress)}.{why}"


def _figures(runs: Sequence[Run], compared: Comparison | str | None) -> Iterator[Figure]:
    dots = _dots.dots(runs)
    yield _outcomes.verdicts(runs)
    if compared is not None:
        yield from _comparison.figures(compared)
    yield from _front.figures(dots)
    yield from _context.figures(dots)
    yield from _memory.figures(dots)
    yield from _roofline.figures(dots)
    yield from _spread.figures(dots)
    yield _outcomes.failures(runs)
    yield _outcomes.warnings(runs)
    yield _conditions.of_runs(runs)
    yield _conditions.cells(dots)


def _meanings(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what the signs and the words mean."""
    tables = [run.table for run in runs if run.table.rows]
    plotted = {numbers.metric.key for of in tables for numbers in of.numbers} & _figure.PLOTTED
    for of in tables:
        yield from _words.legend(of, FANCY.plus_minus)
    yield from (_words.meaning(metric) for metric in METRICS if metric.key in plotted)
