"""The `builds` command: one sweep in several environments in turn, and their comparison."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from llmbench import __version__
from llmbench.commands import compare
from llmbench.commands.options import CheckedFormat, of_sweeps, tell
from llmbench.commands.sweep import wanted_by
from llmbench.errors import ExitCode
from llmbench.machine import info
from llmbench.redact import shown
from llmbench.results.store import RESULTS
from llmbench.run import builds
from llmbench.spec.sweep import slug

EXIT_CODES = "Exit codes: those of compare; those of sweep if an environment could not measure or a signal ended it."


def command(  # noqa: PLR0913, PLR0917 - one parameter a flag
    sweep: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP",
            autocompletion=of_sweeps,
            help="A sweep's file, a name that 'llmbench sweeps' lists, or a model.",
        ),
    ],
    environments: Annotated[
        list[Path],
        typer.Argument(
            metavar="ENVIRONMENT ENVIRONMENT...",
            help="Folders of virtual environments with llmbench and an engine; the first is the baseline.",
        ),
    ],
    sessions: Annotated[
        int | None,
        typer.Option(min=1, help="Exact number of sessions per cell. [default: the file's]"),
    ] = None,
    metric: compare.Metric = None,
    margin: compare.Margin = compare.MARGIN,
    fail_on: compare.FailOn = compare.FAIL_ON,
    allow_missing: compare.AllowMissing = False,
    format: CheckedFormat = "terminal",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder of the runs, one an environment; those that exist are continued. "
            "[default: a new folder under results/]",
        ),
    ] = None,
) -> int:
    """Measure a sweep in environments in turn, and compare them."""
    compare.verdicts(fail_on)
    compare.share(margin)
    wanted = wanted_by(sweep)
    folder = output or _folder(wanted.name)
    made = builds.builds(environments, folder, __version__)
    asked = [sweep, *(["--sessions", str(sessions)] if sessions else [])]
    if code := builds.measure(asked, made, sessions or wanted.protocol.max_sessions, tell):
        if code > ExitCode.REFUSED:
            tell(f"Stopped. The same command with -o {shown(str(folder))} continues.")
        return code
    return compare.command(
        [build.run for build in made],
        metric=metric,
        margin=margin,
        fail_on=fail_on,
        allow_missing=allow_missing,
        format=format,
    )


def _folder(name: str) -> Path:
    """Return a new folder under results/, named by the moment."""
    moment = f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}"
    return RESULTS / f"{moment}-{slug(str(info.machine()['name']))}-{slug(name)}-builds"
