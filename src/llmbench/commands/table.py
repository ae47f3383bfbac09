"""The `table` command: a run as a table, on the terminal or for another program."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    format: Annotated[
        Literal["terminal", "markdown", "csv", "json"],
        typer.Option("--format", help="How to write the table."),
    ] = "terminal",
) -> None:
    """Show a run as a table."""
    raise NotImplementedError(run, format)
