"""The `models` command: the catalogue as a list, or everything about one entry or checkpoint."""

from typing import Annotated

import typer

from llmbench import report
from llmbench.commands.options import Format, Output, of_models
from llmbench.report.views import models as views_models


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            autocompletion=of_models,
            help="Show everything about this model: an entry, a checkpoint's folder, or a hub id.",
        ),
    ] = None,
    format: Format = "terminal",
    output: Output = None,
) -> None:
    """List the models of the catalogue, or show one model."""
    destination = report.destination("models", format, output)
    destination.write(views_models.every() if name is None else views_models.one(name))
