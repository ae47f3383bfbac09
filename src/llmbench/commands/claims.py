"""The `claims` command: what runs say of the reports' claims, or the sweep that would settle one."""

import io
from pathlib import Path
from typing import Annotated, Literal

import typer
from ruamel.yaml import YAML

from llmbench import claims, files, report
from llmbench.claims import ClaimVerdict, Evidence, published
from llmbench.commands.options import Format, Price, UsdPerGpuHour, UsdPerHour, of_claims, tell
from llmbench.cost import prices
from llmbench.errors import SpecError
from llmbench.report.views import claims as views_claims
from llmbench.results import cells, store
from llmbench.spec import sweep
from llmbench.spec import yaml as spec_yaml


def command(  # noqa: PLR0913, PLR0917 - one parameter a flag
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...", help="Folders of runs; without one, show what each claim needs."
        ),
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            autocompletion=of_claims,
            help="Check this claim only; may be repeated. [default: all]",
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            autocompletion=of_claims,
            help="Write the sweep that would settle this claim.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write with --plan or --format html. [default: ID.yaml, claims.html]",
        ),
    ] = None,
    against_published: Annotated[
        bool,
        typer.Option(
            "--published", help="Compare with published throughputs and latencies instead."
        ),
    ] = False,
    usd_per_hour: UsdPerHour = None,
    usd_per_gpu_hour: UsdPerGpuHour = None,
    price: Price = None,
    fail_on: Annotated[
        Literal["contradicted"] | None, typer.Option(help="Exit with 1 if a claim is contradicted.")
    ] = None,
    format: Format = "terminal",
) -> int:
    """Check the claims of published reports against measured runs."""
    if plan is not None:
        _write(plan, output or Path(f"{plan}.yaml"))
        return 0
    if not runs and against_published:
        raise SpecError("--published: give the folder of a run, whose figures are compared.")
    asked = prices.PriceOptions(usd_per_hour, usd_per_gpu_hour, price)
    prices.check(asked)
    destination = report.destination("claims", format, output)
    measured = [
        row for run in runs or () for row in cells.read(store.read(run, tell=tell), run.name)
    ]
    # A claim is about prompts of one length, as are published figures.
    rows = [row for row in measured if not row.cell.spread]
    given = Evidence(rows, asked)
    names = [] if against_published else claim or claims.known()
    judged = [
        views_claims.Judged(one, claims.answer(one, given)) for one in map(claims.claim, names)
    ]
    figures = published.comparisons(rows) if against_published or (runs and not claim) else None
    destination.write(views_claims.document(judged, figures, given))
    failed = any(each.answer.verdict is ClaimVerdict.CONTRADICTED for each in judged)
    return int(fail_on is not None and failed)


def _write(name: str, path: Path) -> None:
    """Write the sweep of a claim to a new file."""
    settled = claims.claim(name)
    if settled.sweep is None:
        raise SpecError(f"--plan: {name}: {views_claims.settled_by(settled)}.")
    spec_yaml.decode(settled.sweep, sweep.Sweep, f"configs/claims/{name}.yaml.sweep")
    text = io.BytesIO()
    yaml = YAML(pure=True)  # keeps the order, which reads aloud
    yaml.default_flow_style = None
    yaml.dump(settled.sweep, text)
    try:
        files.write_new(path, text.getvalue())
    except FileExistsError as error:
        raise SpecError(f"{path}: is there already; choose another with --output.") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror}.") from error
    print(f"{path}: the sweep that would settle {name}, to be run on {settled.on}.")
