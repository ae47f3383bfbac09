"""The `export` command: a run for another program."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmbench import files
from llmbench.commands.options import Run, tell, without_collection
from llmbench.errors import RunError, SpecError
from llmbench.redact import shown
from llmbench.results import anonymous_copy, export, store, table


def command(
    run: Run,
    form: Annotated[
        Literal["vllm-json", "parquet"],
        typer.Option(
            "--format",
            help="JSON with vLLM's keys, where its definitions are the same; or Parquet of a table's columns.",
        ),
    ] = "vllm-json",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="New file, or with --anonymous new folder. [default: standard output]",
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
    """Write a run as vLLM's JSON, as Parquet, or anonymously."""
    if anonymous:
        if output is None:
            raise SpecError("export: --anonymous writes a folder; say which: -o FOLDER.")
        anonymous_copy.copy(run, output)
        return
    if form == "parquet" and output is None:
        raise SpecError("export: Parquet is no text; say where it goes: -o FILE.")
    with without_collection():
        log = store.read(run, tell=tell)
        data = export.parquet(table.build(log)) if form == "parquet" else export.vllm(log).encode()
    if output is None:
        sys.stdout.write(data.decode())
        return
    try:
        files.write_new(output, data)
    except OSError as error:
        raise RunError(f"{shown(str(output))}: cannot be written: {error.strerror}.") from error
