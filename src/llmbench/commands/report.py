"""The `report` command: runs as one page with plots, in a file of its own."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llmbench import compare, report
from llmbench.commands.compare import kept_of
from llmbench.commands.options import Format, Output, Runs, without_collection
from llmbench.compare import Comparison, sides
from llmbench.compare.confounds import CompareOptions
from llmbench.errors import LlmbenchError
from llmbench.numbers import plural
from llmbench.report.figures.cells import ReportedRun, labels
from llmbench.report.views import report as views_report
from llmbench.results import store
from llmbench.results.metrics import BY_KEY

E2E = BY_KEY["e2e_s"]
"""The metric by which runs are compared, as by `llmbench compare` without --metric."""


def command(
    runs: Runs,
    format: Format = "html",
    output: Output = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite even a file that is not a page of llmbench.")
    ] = False,
) -> None:
    """Write runs as one page of plots for any browser."""
    destination = report.destination("report", format, output, force=force)
    with without_collection():
        read = [views_report.seen(store.read(run), label) for run, label in labelled(runs)]
        cells = plural(sum(len(run.table.cells) for run in read), "cell")
        destination.write(
            views_report.document(read, compared(read) if len(runs) > 1 else None),
            f", {cells} of {plural(len(read), 'run')}",
        )


def labelled(runs: list[Path]) -> list[tuple[Path, str]]:
    """Return each run with its folder's name, or with as much of its path as tells it from the others."""
    paths = [Path(os.path.realpath(run)) for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise LlmbenchError(f"{path}: is named twice. Name each run once.")
    return list(zip(runs, labels(runs), strict=True))


def compared(runs: list[ReportedRun]) -> Comparison | str:
    """Return the comparison of the runs, as `llmbench compare` makes it, or why it refuses them."""
    read = [sides.side(run.label, run.table.plan, run.tally, E2E) for run in runs]
    try:
        return compare.runs(read, CompareOptions(E2E, calibration=kept_of(read).calibration))
    except LlmbenchError as refused:
        return str(refused)
