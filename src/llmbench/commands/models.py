"""The `models` command: the catalogue as a list, or one entry with its sources and doubts."""

import sys
from typing import Annotated, Literal

import typer

from llmbench import catalogue, listing, model, numbers

COLUMNS = (
    listing.Column("name", "model"),
    listing.Column("family", "family"),
    listing.Column("parameters", "parameters", numbers.count),
    listing.Column("active_parameters", "active", numbers.count),
    listing.Column("kv_bytes_per_token_bfloat16", "bf16 KV/token", numbers.binary),
    listing.Column("context", "context", numbers.whole),
    listing.Column("release_date", "released"),
    listing.Column("engines", "engines"),
    listing.Column("license", "licence"),
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
        names = model.catalogue() if name is None else [name]
        text = listing.rows(COLUMNS, [catalogue.facts(known) for known in names], format)
    else:
        facts = catalogue.whole(name)
        text = listing.json(facts) if format == "json" else listing.one(facts)
    sys.stdout.write(text)
