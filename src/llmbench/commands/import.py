"""The `import` command: other tools' result files as a run that every reading command takes."""  # noqa: N999 - the word is the command

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from llmbench import report
from llmbench.commands.options import Format, of_backends, of_chips, of_models, tell
from llmbench.importers import convert
from llmbench.machine import chips
from llmbench.machine.info import utc_now
from llmbench.redact import command_line
from llmbench.report.views import table as views_table
from llmbench.results import store, table

AS_WRITTEN = "[default: what the file says]"
TELL_EVERY_S = 2.0
"""How often an import says which file it reads; a short one says nothing."""


def command(  # noqa: PLR0913, PLR0917 - one argument a flag
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Result files; the tool that wrote them is detected."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="The folder to write the run to."),
    ],
    importer: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME",
            help="Read the files with this importer only. [default: detected]",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", autocompletion=of_models, help=f"Model name to record. {AS_WRITTEN}"
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            autocompletion=of_backends,
            help=f"Engine to record, where a file does not name it. {AS_WRITTEN}",
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="CHIP",
            autocompletion=of_chips,
            help="Chip to record, by its short name or the one that tools print. [default: none]",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help=f"Device to record. {AS_WRITTEN}")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"Dtype to record. {AS_WRITTEN}")] = None,
    load_format: Annotated[
        str | None, typer.Option(help=f"Origin of the weights to record. {AS_WRITTEN}")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"Batch size to record. {AS_WRITTEN}")
    ] = None,
    input_len: Annotated[
        int | None, typer.Option(min=1, help=f"Prompt tokens to record. {AS_WRITTEN}")
    ] = None,
    output_len: Annotated[
        int | None, typer.Option(min=1, help=f"New tokens per sequence to record. {AS_WRITTEN}")
    ] = None,
    as_sessions: Annotated[
        bool,
        typer.Option(
            "--as-sessions",
            help="Count tests of the same settings, build and machine as sessions of one cell.",
        ),
    ] = False,
    format: Format = "terminal",
) -> None:
    """Read other tools' result files into a run."""
    coordinates: dict[str, str | int | None] = {
        "model": model, "backend": backend, "device": device, "dtype": dtype, "load_format": load_format,
        "batch_size": batch_size, "input_len": input_len, "output_len": output_len,
    }  # fmt: skip
    destination = report.destination("import", format)
    said = {key: value for key, value in coordinates.items() if value is not None}
    called = command_line(["llmbench", *sys.argv[1:]])
    now = utc_now().replace("Z", "+00:00")  # as imports have written it since format 1
    chip = chips.named(machine) if machine is not None else ""
    convert.write(
        followed(files), said, importer, output, called, now, chip, as_sessions=as_sessions
    )
    log = store.read(output)
    assert log.imported is not None
    left = {
        f"{source.tool}: {key}": why
        for source in log.imported.sources
        for key, why in source.refused.items()
    }
    remarks = [f"Left out, {key}: {why}." for key, why in left.items()]
    destination.write(views_table.document(table.build(log), remarks))


def followed(files: list[Path]) -> Iterator[Path]:
    """Yield the files, and say which one is read if reading them takes long."""
    told_at = time.monotonic()
    for number, path in enumerate(files, 1):
        if time.monotonic() - told_at > TELL_EVERY_S:
            told_at = time.monotonic()
            tell(f"Reading {path.name}, {number} of {len(files)} files.")
        yield path
