"""The `machine` command: what this machine is and what it can do at most, or what is known of a chip."""

from typing import Annotated

import typer

from llmbench import report
from llmbench.commands.options import Format, Output, of_chips, tell
from llmbench.errors import SpecError
from llmbench.machine import info, peaks
from llmbench.measure import probe
from llmbench.report.views import machine as views_machine


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[CHIP]",
            autocompletion=of_chips,
            help="Show what is known of this chip instead. [default: this machine]",
        ),
    ] = None,
    measured: Annotated[
        bool,
        typer.Option("--probe", help="Measure this machine's ceilings first, in about a minute."),
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the known chips instead.")] = False,
    format: Format = "terminal",
    output: Output = None,
) -> None:
    """Say what this machine is, and what its chip can do at most."""
    if name is not None and measured:
        raise SpecError(
            f"--probe: measures this machine, not a {name!r}. Leave the chip's name out."
        )
    destination = report.destination("machine", format, output)
    if listed or name is not None:
        destination.write(views_machine.every() if name is None else views_machine.chip(name))
        return
    here = info.machine()
    if measured:
        probe.measure_and_keep(here, probe.kinds(here), tell)
    probes, notice = peaks.kept_probes(here)
    destination.write(views_machine.this(here, probes, notice or ""))
