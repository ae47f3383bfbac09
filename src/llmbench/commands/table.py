"""The `table` command: a run as a table, on the terminal or for another program."""

import contextlib
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from llmbench import report
from llmbench.commands.options import tell
from llmbench.errors import SpecError
from llmbench.report.views import accuracy
from llmbench.results import metrics as known
from llmbench.results import store, table


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    format: Annotated[
        Literal["terminal", "markdown", "csv", "json"],
        typer.Option("--format", help="How to write the table."),
    ] = "terminal",
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="KEY,...", help="Show these metrics, or `all`."),
    ] = None,
    predicted: Annotated[
        bool,
        typer.Option("--predicted", help="Show what was predicted beside it, and how far off."),
    ] = False,
) -> None:
    """Show a run as a table."""
    if predicted and metrics is not None:
        raise SpecError("--metrics: --predicted shows its own columns; leave one of them out.")
    if metrics is None:
        chosen = None
    elif metrics.strip() == "all":
        chosen = known.METRICS
    else:
        chosen = known.named(word.strip() for word in metrics.split(","))
    with without_collection():
        if predicted:
            sys.stdout.write(accuracy.render(store.read(run, tell=tell), format))
            return
        beside = tell if format == "csv" else None  # where a warning has no place
        log = store.read(run, newer=format != "csv", tell=beside)
        report.show(table.build(log, chosen), format, Console())


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Hold the garbage collector off: what is read has no cycles, and looking for them takes a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
