"""The `export` command: a run for another program or an experiment tracker."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmbench import files
from llmbench.commands.options import PerSession, Run, tell, without_collection
from llmbench.errors import RunError, SpecError
from llmbench.redact import shown
from llmbench.report.views import per_session as views_per_session
from llmbench.report.views import table as views_table
from llmbench.results import (
    anonymous_copy,
    export,
    per_session,
    served_requests,
    store,
    table,
    tracking,
)

ROWS: dict[str, Callable[[store.Log, Path], Iterable[tuple[str, Sequence[object]]]]] = {
    "": lambda log, _: views_table.sheet(table.build(log)),
    "--per-session": lambda log, _: views_per_session.sheet(per_session.build(log)),
    "--per-request": served_requests.columns,
}
"""The columns of a Parquet file, by the flag that says what a row is."""


def command(
    run: Run,
    form: Annotated[
        Literal["vllm-json", "parquet"],
        typer.Option(
            "--format",
            help="JSON with vLLM's keys, where its definitions are the same; or Parquet with the columns of "
            "`table --format csv`.",
        ),
    ] = "vllm-json",
    to: Annotated[
        Literal["mlflow", "wandb"] | None,
        typer.Option(
            "--to",
            help="Log a run for each cell to a tracker: MLflow, in the folder -o or at MLFLOW_TRACKING_URI; or "
            "Weights & Biases, in the folder -o, offline unless WANDB_MODE is set.",
        ),
    ] = None,
    by_session: PerSession = False,
    by_request: Annotated[
        bool,
        typer.Option("--per-request", help="With --format parquet: a row for each served request."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="New file; with --anonymous new folder; with --to the tracker's folder. [default: standard output]",
        ),
    ] = None,
    anonymous: Annotated[
        bool,
        typer.Option(
            "--anonymous",
            help="Copy the run to the folder -o, without paths, command line, logs, or names of users.",
        ),
    ] = False,
) -> None:
    """Write a run as JSON, Parquet, to a tracker, or anonymously."""
    if to:
        flags = {
            "--anonymous": anonymous,
            "--per-session": by_session,
            "--per-request": by_request,
            f"--format {form}": form == "parquet",
        }
        _track(run, to, output, [flag for flag, given in flags.items() if given])
        return
    if anonymous:
        if output is None:
            raise SpecError("export: --anonymous writes a folder; say which: -o FOLDER.")
        anonymous_copy.copy(run, output)
        tell(f"{output}: a copy of {run.name} without what names people or paths.")
        return
    if form == "parquet" and output is None:
        raise SpecError("export: Parquet is no text; say where it goes: -o FILE.")
    given = {"--per-session": by_session, "--per-request": by_request}
    rows = [flag for flag in given if given[flag]]
    if rows and form != "parquet":
        raise SpecError(f"{rows[0]}: only works with --format parquet.")
    if len(rows) > 1:
        raise SpecError(f"{' and '.join(rows)}: a row is one or the other; leave one out.")
    with without_collection():
        log = store.read(run, tell=tell)
        columns = ROWS["".join(rows)]
        text = form == "vllm-json"
        data = export.vllm(log).encode() if text else export.parquet(columns(log, run))
    if output is None:
        sys.stdout.write(data.decode())
        return
    try:
        files.write_new(output, data)
    except OSError as error:
        raise RunError(f"{shown(str(output))}: cannot be written: {error.strerror}.") from error
    tell(f"{output}: {len(data):,} bytes.")


def _track(run: Path, to: str, folder: Path | None, others: list[str]) -> None:
    """Log a run to a tracker, and say where it is; refuse other flags."""
    if others:
        raise SpecError(
            f"--to {to}: takes no {' or '.join(others)}. A copy that export --anonymous made can be exported."
        )
    with without_collection():
        log = store.read(run, tell=tell)
        built = table.build(log)
    origin = dict(views_table.provenance(built, len(built.cells)))
    coordinates = dict(views_table.coordinates(built))
    figures = [
        column
        for column in views_table.sheet(built)
        if column[0] not in origin and column[0] not in coordinates
    ]
    made = tracking.build(log, run, origin.items(), coordinates.items(), figures)
    tell(f"{tracking.TRACKERS[to](made, folder)}.")
