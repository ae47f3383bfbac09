"""The `models` command: the catalogue as a list, or one entry with its sources and doubts."""

import sys
from typing import Annotated, Literal

import typer

from llmbench import numbers
from llmbench.models import catalogue, resolve
from llmbench.report import rows

COLUMNS = (
    rows.Column("name", "model"),
    rows.Column("family", "family"),
    rows.Column("parameters", "parameters", numbers.count),
    rows.Column("active_parameters", "active", numbers.count),
    rows.Column("kv_bytes_per_token_bfloat16", "bf16 KV/token", numbers.binary),
    rows.Column("context", "context", numbers.whole),
    rows.Column("release_date", "released"),
    rows.Column("engines", "engines"),
    rows.Column("license", "licence"),
)


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show all that is known of this one.")
    ] = None,
    format: Annotated[
        Literal["terminal", "markdown", "csv", "json"],
        typer.Option("--format", help="How to write it."),
    ] = "terminal",
) -> None:
    """List the models of the catalogue, or show one."""
    if name is None or format in {"markdown", "csv"}:
        names = resolve.catalogue() if name is None else [name]
        text = rows.rows(COLUMNS, [catalogue.facts(known) for known in names], format)
    else:
        facts = catalogue.whole(name)
        text = rows.json(facts) if format == "json" else rows.one(facts)
    sys.stdout.write(text)
