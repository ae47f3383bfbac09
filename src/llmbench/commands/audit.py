"""The `audit` command: llmbench's own promises, tried on this machine."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmbench import selftest
from llmbench.commands import parity_report
from llmbench.commands.options import show_table, tell
from llmbench.errors import SpecError
from llmbench.redact import shown
from llmbench.report import rows
from llmbench.results import store
from llmbench.run import sweep as run_sweep

FAILED = 1
SESSIONS = 6
"""Of a sweep that is measured for an audit: three in odd rounds, three in even ones."""

COLUMNS = (
    rows.Column("check", "check"),
    rows.Column("verdict", "verdict"),
    rows.Column("figures", "figures"),
)


def command(
    sweep: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SWEEP]",
            help="A sweep's file to measure now, or the folder of a run; else the fake engine.",
        ),
    ] = None,
    parity: Annotated[
        Path | None,
        typer.Option(
            "--parity",
            metavar="SWEEP|RUN",
            help="Instead: compare each engine's greedy tokens and log-probabilities with a float32 "
            "reference. In a run's folder, the records of an engine that fails become invalid.",
        ),
    ] = None,
    format: Annotated[
        Literal["terminal", "markdown", "csv", "json"], typer.Option("--format", help="For whom.")
    ] = "terminal",
) -> int:
    """Try llmbench's promises on the fake engine, or on a sweep."""
    if parity is not None:
        if sweep is not None:
            raise SpecError(f"audit: {sweep} and --parity {parity}: audit one of them at a time.")
        return parity_report.show(parity, format)
    if sweep is None:
        with tempfile.TemporaryDirectory(prefix="llmbench-audit-") as folder:
            checked = list(selftest.on_the_fake_engine(Path(folder)))
    else:
        run, code = (
            (sweep, 0)
            if sweep.is_dir()
            else run_sweep.measured_anew(sweep, "audits", SESSIONS, show_table)
        )
        if code not in (0, run_sweep.COMPLETED_WITH_FAILURES):
            return code
        checked = list(selftest.of_a_run(store.read(run, tell=tell), shown(str(run))))
    facts = [
        {
            "check": one.check,
            "verdict": "passed" if one.passed else "FAILED",
            "figures": one.figures,
        }
        for one in checked
    ]
    sys.stdout.write(rows.rows(COLUMNS, facts, format))
    if format in {"terminal", "markdown"}:
        sys.stdout.write(rows.wrapped(["", told(checked)], format))
    return 0 if all(one.passed for one in checked) else FAILED


def told(checked: Sequence[selftest.Checked]) -> str:
    """Return how many checks passed, and what to do where those that failed may be the machine's doing."""
    passed = sum(one.passed for one in checked)
    loud = any(one.check.startswith(selftest.QUIET) and not one.passed for one in checked)
    why = " Other work may be why: audit again when nothing else runs." if loud else ""
    return f"{passed} of {len(checked)} passed.{why}"
