"""The `calibrate` command: what a machine's own numbers vary by, measured, shown, and kept for `compare`."""

from pathlib import Path
from typing import Annotated

import typer

from llmbench import report
from llmbench.commands.options import Format, Output, tell, without_collection
from llmbench.commands.table import show_table
from llmbench.compare import calibrate
from llmbench.machine import calibration
from llmbench.redact import redact, shown
from llmbench.report.views import calibrate as views_calibrate
from llmbench.results import store
from llmbench.run import sweep as run_sweep

SESSIONS = 5
"""What a sweep that is run for a calibration gets at least: four degrees of freedom a cell."""


def command(
    sweep: Annotated[
        Path,
        typer.Argument(
            metavar="SWEEP", help="A sweep's file to measure now, or the folder of a run."
        ),
    ],
    sessions: Annotated[
        int,
        typer.Option("--sessions", help="Fresh processes for each cell, of a sweep measured now."),
    ] = SESSIONS,
    within: Annotated[
        float, typer.Option("--within", help="Show how many sessions this half-width takes.")
    ] = 0.015,
    format: Format = "terminal",
    output: Output = None,
) -> int:
    """Measure how much this machine's numbers vary, and keep it."""
    destination = report.destination("calibrate", format, output)
    run, code = (
        (sweep, 0)
        if sweep.is_dir()
        else run_sweep.measured_anew(sweep, "calibrations", sessions, show_table)
    )
    if code not in (0, run_sweep.COMPLETED_WITH_FAILURES):
        return code
    with without_collection():
        found = calibrate.calibrate(store.read(run, tell=tell), shown(str(run)))
    path = calibration.SHELF.keep(found)
    destination.write(views_calibrate.document(found, within, redact(str(path))))
    return code
