"""The `calibrate` command: what a machine's own numbers vary by, measured, shown, and kept for `compare`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmbench.commands.options import show_table, tell
from llmbench.commands.table import without_collection
from llmbench.compare import calibrate
from llmbench.machine import calibration
from llmbench.machine.calibration import Calibration
from llmbench.redact import redact, shown
from llmbench.report import rows
from llmbench.report.views.run import plural
from llmbench.results import metrics, store
from llmbench.run import sweep as run_sweep

SHOWN = ("ttft_s", "tpot_s", "e2e_s")
"""The phases and the whole; the rates vary as these do."""

LEGEND = (
    "between: of the medians of sessions, over all models and engines of a shape.",
    "with its neighbours: drawn towards what all shapes have in common; compare and sweep --dry-run use this one.",
    f"sessions: the fewest whose interval is as narrow; - for over {calibration.MOST_SESSIONS}.",
)

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
        float, typer.Option("--within", help="The half-width whose price in sessions is told.")
    ] = 0.015,
) -> int:
    """Measure how much this machine's numbers vary, and keep it."""
    run, code = (
        (sweep, 0)
        if sweep.is_dir()
        else run_sweep.measured_anew(sweep, "calibrations", sessions, show_table)
    )
    if code not in (0, run_sweep.COMPLETED_WITH_FAILURES):
        return code
    with without_collection():
        found = calibrate.calibrate(store.read(run, tell=tell), shown(str(run)))
    sys.stdout.write(told(found, within))
    path = calibration.SHELF.keep(found)
    print(f"\nKept in {shown(redact(str(path)))}; compare uses it for cells with one session.")
    return code


def told(found: Calibration, within: float) -> str:
    """Return a calibration as text: for each shape how much a metric varies, and what an interval takes."""
    told = f"{plural(found.sessions, 'session')} of {plural(found.cells, 'cell')}"
    head = (
        f"{shown(found.name)}, {found.at[:10]}: {told}. "
        "Standard deviations, within a session and between sessions."
    )
    facts = [
        {
            "metric": metrics.BY_KEY[key].label,
            "batch": spread.batch_size,
            "in": spread.input_len,
            "out": spread.output_len,
            "within": spread.within,
            "between": spread.between,
            "drawn": spread.drawn,
            "sessions": calibration.sessions_for(spread.drawn, within),
        }
        for key in SHOWN
        if key in found.metrics
        for spread in found.metrics[key].shapes
    ]
    columns = [
        *(rows.Column(key, key) for key in ("metric", "batch", "in", "out")),
        rows.Column("within", "within", percent),
        rows.Column("between", "between", percent),
        rows.Column("drawn", "with its neighbours", percent),
        rows.Column("sessions", f"sessions for ±{within:.1%}", str),
    ]
    table = rows.rows(columns, facts, "terminal", names=4)
    return rows.wrapped([head, ""]) + table + rows.wrapped(["", *LEGEND])


def percent(share: float) -> str:
    """Return a share as a percentage with three digits."""
    return f"{100 * share:.3g} %"
