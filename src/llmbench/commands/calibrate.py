"""The `calibrate` command: the variation of a machine's numbers, measured, shown, and kept for `compare`."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llmbench import report
from llmbench.commands.options import Format, Output, tell, without_collection
from llmbench.commands.table import show_table
from llmbench.compare import calibrate
from llmbench.errors import MEASURED, ExitCode, SpecError
from llmbench.machine import calibration, state
from llmbench.numbers import plural
from llmbench.redact import command_line, redact, shown
from llmbench.report.views import calibrate as views_calibrate
from llmbench.results import store
from llmbench.run import neighbours
from llmbench.run import sweep as run_sweep
from llmbench.spec.sweep import read_sweep, slug

SESSIONS = 5
"""The sessions of a sweep that is run for a calibration: four degrees of freedom a cell."""
PAIRS = 10
"""As many show that a true 0 % is within 1 %, where sessions spread by half a percent."""
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
    per_box: Annotated[
        bool,
        typer.Option(
            "--per-box",
            help="Measure whether the other GPUs of this machine, at work at the same time, change a number.",
        ),
    ] = False,
    pairs: Annotated[
        int,
        typer.Option(
            min=3, help="With --per-box: pairs of sessions, one alone and one with neighbours."
        ),
    ] = PAIRS,
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
    if per_box:
        return _per_box(sweep, pairs, plain=format == "terminal" and output is None)
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


def _per_box(sweep: Path, pairs: int, *, plain: bool) -> int:
    """Measure pairs, say what neighbours change, and keep whether they change anything."""
    if not plain:
        raise SpecError("--per-box: prints lines, in no other format and no file.")
    wanted = read_sweep(sweep)
    folder = (
        state.folder() / "neighbours" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{slug(wanted.name)}"
    )
    console = Console(highlight=False)
    command = command_line(["llmbench", *sys.argv[1:]])
    if code := neighbours.measure(wanted, folder, pairs, console, command):
        return code
    with without_collection():
        found = neighbours.effects(folder)
        made = neighbours.kept(folder, found, pairs)
    for effect in found:
        console.print(
            f"{effect.metric}: {effect.ratio:.4f} times, the same within {neighbours.MARGIN:.0%} in {effect.same} of "
            f"{plural(effect.cells, 'cell')}",
            soft_wrap=True,
        )
    path = calibration.NEIGHBOURS.keep(made)
    others = plural(made.others, "other GPU")
    console.print(
        f"{others} at the same time {'change' if made.others != 1 else 'changes'} nothing, and --gpus will not warn."
        if made.same
        else f"It is not shown that {others} at the same time change nothing; --gpus goes on to warn.",
        soft_wrap=True,
    )
    console.print(f"Kept in {redact(str(path))}.", soft_wrap=True)
    return ExitCode.DONE if made.same else ExitCode.NEGATIVE
