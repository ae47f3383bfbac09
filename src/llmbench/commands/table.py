"""The `table` command: a run as a table, for people or for another program."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llmbench import report
from llmbench.commands.options import (
    CheckedFormat,
    Output,
    PerSession,
    Run,
    completed,
    tell,
    without_collection,
)
from llmbench.errors import SpecError
from llmbench.report.views import per_session as views_per_session
from llmbench.report.views import predicted as views_predicted
from llmbench.report.views import table as views_table
from llmbench.results import metrics as known
from llmbench.results import per_session, store, table
from llmbench.results.trust import Trust


def command(
    run: Run,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="KEY,...",
            autocompletion=completed(lambda: known.BY_KEY),
            help="Show these metrics, or `all`. [default: times, output and memory]",
        ),
    ] = None,
    predicted: Annotated[
        bool,
        typer.Option(
            "--predicted", help="Show predictions next to measurements, and their errors."
        ),
    ] = False,
    by_session: PerSession = False,
    format: CheckedFormat = "terminal",
    output: Output = None,
) -> None:
    """Show a run as a table."""
    if predicted and (metrics is not None or by_session):
        flag = "--metric" if metrics is not None else "--per-session"
        raise SpecError(f"{flag}: --predicted shows its own columns; leave one of them out.")
    if predicted and format == "junit":
        raise SpecError("--format junit: a prediction is no test; leave out --predicted.")
    if metrics is None:
        chosen = None
    elif metrics.strip() == "all":
        chosen = known.METRICS
    else:
        chosen = known.named(word.strip() for word in metrics.split(","))
    destination = report.destination("table", format, output)
    with without_collection():
        if predicted:
            destination.write(views_predicted.document(store.read(run, tell=tell)))
            return
        aside = tell if format == "csv" else None  # with the file's path, as CSV names no run
        log = store.read(run, newer=format != "csv", tell=aside)
        sessions = per_session.build(log, chosen) if by_session else None
        built = sessions.whole if sessions else table.build(log, chosen)
        if aside:
            others = tuple(notice for notice in built.notices if notice not in log.notices)
            built = replace(built, notices=others)
        if sessions:
            destination.write(views_per_session.document(sessions._replace(whole=built)))
        else:
            destination.write(views_table.document(built))


def show_table(folder: Path, console: Console, format: str = "terminal") -> Trust | None:
    """Show a run as a table, and return how far its numbers can be trusted.

    As text for people it goes to the console; in another format to standard output.
    """
    built = table.build(store.read(folder))
    if format == "terminal":
        report.show(views_table.document(built), stream=console.file)
    else:
        report.destination("sweep", format).write(views_table.document(built))
    return built.trust
