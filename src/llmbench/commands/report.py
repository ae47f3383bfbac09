"""The `report` command: runs as one page with plots, in a file of its own."""

from pathlib import Path
from typing import Annotated

import typer

from llmbench import compare
from llmbench.commands.compare import kept_of
from llmbench.commands.table import without_collection
from llmbench.compare import Comparison, sides
from llmbench.compare.confounds import CompareOptions
from llmbench.errors import LlmbenchError
from llmbench.report.views import page as views_page
from llmbench.report.views import run as views_run
from llmbench.results import store
from llmbench.results.metrics import BY_KEY

PAGE = Path("report.html")
E2E = BY_KEY["e2e_s"]
"""What runs are compared by: the metric that `llmbench compare` takes unless asked."""


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The folders of runs.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")
    ] = PAGE,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a file that is not a page of llmbench, too.")
    ] = False,
) -> None:
    """Write runs as one page of plots for any browser."""
    views_page.check(output, PAGE, force=force)
    script = views_page.library()
    with without_collection():
        found = [views_page.seen(store.read(run), label) for run, label in labelled(runs)]
        page = views_page.render(found, script, compared(runs) if len(runs) > 1 else None)
    cells = views_run.plural(sum(len(run.table.cells) for run in found), "cell")
    print(f"{views_page.write(output, page)}, {cells} of {views_run.plural(len(found), 'run')}.")


def labelled(runs: list[Path]) -> list[tuple[Path, str]]:
    """Return each run with its folder's name, or with as much of its path as tells it from the others."""
    paths = [run.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise LlmbenchError(f"{path}: is named twice. Name each run once.")
    return list(zip(runs, views_page.labels(runs), strict=True))


def compared(runs: list[Path]) -> Comparison | str:
    """Return what `llmbench compare` says of the runs, or why it refuses them."""
    read = [sides.read(label, store.read(run), E2E) for run, label in labelled(runs)]
    try:
        return compare.runs(read, CompareOptions(E2E, calibration=kept_of(read).calibration))
    except LlmbenchError as refused:
        return str(refused)
