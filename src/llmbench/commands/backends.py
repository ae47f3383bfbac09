"""The `backends` command: the engines, or one with its options."""

from typing import Annotated

import typer

from llmbench import report
from llmbench.commands.options import Format, Output, of_backends
from llmbench.report.views import backends as views_backends


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", autocompletion=of_backends, help="Show the options of this one."
        ),
    ] = None,
    format: Format = "terminal",
    output: Output = None,
) -> None:
    """List the engines, or the options of one."""
    destination = report.destination("backends", format, output)
    destination.write(views_backends.every() if name is None else views_backends.one(name))
