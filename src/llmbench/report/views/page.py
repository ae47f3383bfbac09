"""Pages for a browser: plots to dot at, a table below each, nothing fetched from anywhere.

The plots are drawn in the reader's browser by Vega-Lite, whose whole bundle stands in the page (0.9 MB).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from llmbench.errors import LlmbenchError
from llmbench.redact import shown
from llmbench.report import html as report_html
from llmbench.report import plots
from llmbench.report.comparison import html
from llmbench.report.figures import cells as figures_cells
from llmbench.report.figures import conditions, context, memory, outcomes, pareto, roofline, spread
from llmbench.report.figures.cells import Run, labels
from llmbench.report.files import check, place, write
from llmbench.report.layout import FANCY
from llmbench.report.views import comparison as _compared
from llmbench.report.views import run as views_run
from llmbench.results import table
from llmbench.results.aggregate import Tally
from llmbench.results.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.compare import Comparison
    from llmbench.report.figures.conditions import Origin
    from llmbench.report.plots import Figure
    from llmbench.results.store import Log

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
    frame = report_html.Frame(
        "report",
        ", ".join(run.label for run in runs),
        [_told(run, several=len(runs) > 1) for run in runs],
        outcomes.notices(runs),
        dict.fromkeys(_meanings(runs)),
    )
    return report_html.page(frame, list(_figures(runs, compared)), script)


def of_comparison(made: Comparison, origins: Sequence[tuple[str, Origin]], script: str) -> str:
    """Return the page of a comparison.

    Args:
        made: what is shown.
        origins: where its runs come from, and what each is called.
        script: what `library` returned.

    """
    names = ", ".join(shown(of.name) for of in made.contrasts)
    same = _compared.constants(made, _compared.rows_of(made))
    frame = report_html.Frame(
        "compare",
        f"{names} against {shown(made.baseline)}",
        [", ".join(f"{key} {shown(value)}" for key, value in same.items())] if same else (),
        words=_compared.legend(made, FANCY.dash),
    )
    columns = [(shown(name), list(conditions.facts(origin))) for name, origin in origins]
    figures = [*html.figures(made), conditions.conditions(columns)]
    return report_html.page(frame, figures, script)


def _told(run: Run, *, several: bool) -> str:
    label = f"{run.label}: " if several else ""
    cells = views_run.plural(len(run.table.cells), "cell")
    why = f" {run.table.plan.why}" if run.table.plan else ""
    return f"{label}{cells}; {views_run.progress(run.table.progress)}.{why}"


def _figures(runs: Sequence[Run], compared: Comparison | str | None) -> Iterator[Figure]:
    dots = figures_cells.dots(runs)
    yield outcomes.verdicts(runs)
    if compared is not None:
        yield from html.figures(compared)
    yield from pareto.figures(dots)
    yield from context.figures(dots)
    yield from memory.figures(dots)
    yield from roofline.figures(dots)
    yield from spread.figures(dots)
    yield outcomes.failures(runs)
    yield outcomes.warnings(runs)
    yield conditions.of_runs(runs)
    yield conditions.cells(dots)


def _meanings(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what the signs and the words mean."""
    tables = [run.table for run in runs if run.table.rows]
    plotted = {numbers.metric.key for of in tables for numbers in of.numbers} & plots.PLOTTED
    for of in tables:
        yield from views_run.legend(of, FANCY.plus_minus)
    yield from (views_run.meaning(metric) for metric in METRICS if metric.key in plotted)
