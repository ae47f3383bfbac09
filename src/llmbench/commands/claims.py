"""The `claims` command: what runs say of the reports' claims, or the sweep that would settle one."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from ruamel.yaml import YAML

from llmbench import claims, evidence, listing, prices, published, spec, store, verdicts, yamlfile
from llmbench.claims import Given, Verdict
from llmbench.errors import SpecError

PUBLISHED = (
    listing.Column("source", "source"),
    listing.Column("model", "model"),
    listing.Column("conditions", "conditions"),
    listing.Column("figures", "figures", listing.whole),
    listing.Column("published", "published"),
    listing.Column("outcome", "outcome"),
    listing.Column("ratio", "measured/published", listing.digits),
    listing.Column("ratio_low", "low", listing.digits),
    listing.Column("ratio_high", "high", listing.digits),
    listing.Column("reason", "because"),
)
RULE = f"Reproduced: the whole 95 % interval of the ratio within {published.REPRODUCED_WITHIN:.0%}."


def command(  # noqa: PLR0913, PLR0917 - one parameter a flag
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN...", help="The folders of one run or more.")
    ] = None,
    claim: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Check this claim only; may be repeated.")
    ] = None,
    plan: Annotated[
        str | None, typer.Option(metavar="ID", help="Write the sweep that would settle this claim.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where --plan writes; ID.yaml if not said."),
    ] = None,
    against_published: Annotated[
        bool,
        typer.Option(
            "--published", help="Compare with published throughputs and latencies instead."
        ),
    ] = False,
    usd_per_hour: Annotated[
        float | None, typer.Option(help="What an hour of the whole machine costs, in dollars.")
    ] = None,
    usd_per_gpu_hour: Annotated[
        float | None, typer.Option(help="What an hour of one GPU costs, in dollars.")
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(metavar="NAME[@DATE]", help="Take the chip's listed price of a provider."),
    ] = None,
    fail_on: Annotated[
        Literal["contradicted"] | None, typer.Option(help="Exit with 1 if a claim is this.")
    ] = None,
    format: Annotated[
        Literal["terminal", "markdown", "json"], typer.Option("--format", help="How to write it.")
    ] = "terminal",
) -> int:
    """Check the reports' claims against what runs measured."""
    if plan is not None:
        _write(plan, output or Path(f"{plan}.yaml"))
        return 0
    if not runs:
        raise SpecError(
            "claims: give the folder of a run, or --plan ID. See 'llmbench claims --help'."
        )
    asked = prices.Asked(usd_per_hour, usd_per_gpu_hour, price)
    prices.check(asked)
    rows = [row for run in runs for row in evidence.read(store.read(run), run.name)]
    if against_published:
        sys.stdout.write(_published(rows, format))
        return 0
    given = Given(rows, asked)
    judged = [
        verdicts.Judged(found, claims.answer(found, given))
        for found in map(claims.claim, claim or claims.known())
    ]
    sys.stdout.write(verdicts.render(judged, format))
    failed = any(each.answer.verdict is Verdict.CONTRADICTED for each in judged)
    return int(fail_on is not None and failed)


def _published(rows: list[evidence.Measured], format: str) -> str:
    found = published.comparisons(rows)
    table = published.table(found)
    if format == "json":
        return listing.json(table)
    counts = ", ".join(
        f"{number} {outcome}"
        for outcome in published.Outcome
        if (number := sum(each.outcome is outcome for each in found))
    )
    head = f"{len(found)} published figures of models measured here: {counts or 'none'}. {RULE}\n"
    return head + (f"\n{listing.rows(PUBLISHED, table, format)}" if table else "")


def _write(name: str, path: Path) -> None:
    """Write the sweep of a claim to a new file."""
    found = claims.claim(name)
    if found.sweep is None:
        raise SpecError(f"--plan: {name}: {verdicts.settled_by(found)}.")
    yamlfile.decode(found.sweep, spec.Sweep, f"configs/claims/{name}.yaml.sweep")
    try:
        with path.open("x", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(found.sweep, file)
    except FileExistsError as error:
        raise SpecError(f"{path}: is there already; choose another with --output.") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror}.") from error
    sys.stdout.write(f"{path}: {verdicts.settled_by(found)}.\n")
