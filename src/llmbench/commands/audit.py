"""The `audit` command: llmbench's own promises, checked on this machine."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llmbench import report, selftest
from llmbench.commands.options import Format, Output, tell
from llmbench.commands.table import show_table
from llmbench.errors import MEASURED, ExitCode, SpecError
from llmbench.parity import verdicts
from llmbench.redact import shown
from llmbench.report.views import audit as views_audit
from llmbench.results import store
from llmbench.run import client_audit
from llmbench.run import sweep as run_sweep

SESSIONS = 6
"""Of a sweep that is measured for an audit: three in odd rounds, three in even ones."""


def command(
    sweep: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SWEEP]",
            help="A sweep's file to measure now, or the folder of a run. [default: a fake engine]",
        ),
    ] = None,
    parity: Annotated[
        Path | None,
        typer.Option(
            metavar="SWEEP|RUN",
            help="Compare instead each engine's greedy tokens and log-probabilities with a float32 "
            "reference. In a run's folder, the records of an engine that fails become invalid.",
        ),
    ] = None,
    client: Annotated[
        bool,
        typer.Option(
            "--client",
            help="Check instead how late the client of served endpoints is on this machine, against a fake server.",
        ),
    ] = False,
    format: Format = "terminal",
    output: Output = None,
) -> int:
    """Check llmbench's promises on a fake engine or on a sweep."""
    destination = report.destination("audit", format, output)
    if parity is not None:
        if sweep is not None:
            raise SpecError(f"audit: {sweep} and --parity {parity}: audit one of them at a time.")
        judge = verdicts.of_run if parity.is_dir() else verdicts.of_sweep
        judged = judge(parity, progress)
        destination.write(views_audit.parity(judged))
        held = all(one.verdict in {"passed", "quantised"} for one in judged)
        return ExitCode.DONE if held else ExitCode.NEGATIVE
    if client:
        if sweep is not None:
            raise SpecError(f"audit: {sweep} and --client: audit one of them at a time.")
        checked = list(client_audit.checked())
    elif sweep is None:
        with tempfile.TemporaryDirectory(prefix="llmbench-audit-") as folder:
            checked = list(selftest.on_the_fake_engine(Path(folder)))
    else:
        run, code = (
            (sweep, 0)
            if sweep.is_dir()
            else run_sweep.measured_anew(sweep, "audits", SESSIONS, show_table)
        )
        if code not in MEASURED:
            return code
        checked = list(selftest.of_a_run(store.read(run, tell=tell), shown(str(run))))
    destination.write(views_audit.document(checked))
    return ExitCode.DONE if all(one.passed for one in checked) else ExitCode.NEGATIVE


def progress(text: str) -> None:
    """Say on stderr, dimly, how far a check has come."""
    console = Console(highlight=False, stderr=True)
    console.print(shown(text), markup=False, style="dim", soft_wrap=True)
