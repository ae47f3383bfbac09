"""The `calibrate` command: the variation of a machine's numbers, measured, shown, and kept for `compare`."""

from pathlib import Path
from typing import Annotated

import typer

from llmbench import report
from llmbench.commands.options import Format, Output, tell, without_collection
from llmbench.commands.table import show_table
from llmbench.compare import calibrate
from llmbench.errors import MEASURED, SpecError
from llmbench.machine import calibration
from llmbench.redact import redact, shown
from llmbench.report.views import calibrate as views_calibrate
from llmbench.results import store
from llmbench.run import sweep as run_sweep

SESSIONS = 5
"""The sessions of a sweep that is run for a calibration: four degrees of freedom a cell."""
FEWEST_SESSIONS = 2
"""One session shows no spread between sessions."""


def command(
    sweep: Annotated[
        Path,
        typer.Argument(
            metavar="SWEEP", help="A sweep's file to measure now, or the folder of a run."
        ),
    ],
    sessions: Annotated[
        int, typer.Option(help="Sessions of each cell, if a sweep is measured now.")
    ] = SESSIONS,
    within: Annotated[
        float,
        typer.Option(help="Show how many sessions give an interval of this relative half-width."),
    ] = 0.015,
    format: Format = "terminal",
    output: Output = None,
) -> int:
    """Measure how much this machine's numbers vary, and keep it."""
    if not 0 < within < 1:
        raise SpecError(
            f"--within: {within:g} is not a share between 0 and 1; give one such as 0.015."
        )
    if sessions < FEWEST_SESSIONS:
        raise SpecError(
            f"--sessions: {sessions} shows no spread between sessions; give at least {FEWEST_SESSIONS}."
        )
    destination = report.destination("calibrate", format, output)
    run, code = (
        (sweep, 0)
        if sweep.is_dir()
        else run_sweep.measured_anew(sweep, "calibrations", sessions, show_table)
    )
    if code not in MEASURED:
        return code
    with without_collection():
        made = calibrate.calibrate(store.read(run, tell=tell), shown(str(run)))
    path = calibration.SHELF.keep(made)
    destination.write(views_calibrate.document(made, within, redact(str(path))))
    return code
