"""The `cell` command: one cell's job, to be read and run by hand."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from llmbench.commands.options import of_sweeps
from llmbench.errors import SpecError, did_you_mean
from llmbench.results.record import Job
from llmbench.run.plan import plan, text
from llmbench.spec import sweep as spec_sweep


def command(
    sweep: Annotated[
        Path,
        typer.Argument(
            metavar="SWEEP",
            autocompletion=of_sweeps,
            help="The sweep's file, or a name that 'llmbench sweeps' lists.",
        ),
    ],
    cell_id: Annotated[
        str,
        typer.Argument(
            metavar="CELL_ID", help="As --dry-run prints it; an unambiguous end of it is enough."
        ),
    ],
) -> None:
    """Print the job of one cell as its worker receives it."""
    planned = plan(spec_sweep.read_sweep(sweep))
    matching = [cell for cell in planned.cells if cell.id == cell_id] or [
        cell for cell in planned.cells if cell.id.endswith(cell_id)
    ]
    if len(matching) != 1:
        if matching:
            raise SpecError(
                f"{sweep}: {len(matching)} cells end in {cell_id!r}; give more of the id that --dry-run prints."
            )
        ids = [cell.id for cell in planned.cells]
        near = did_you_mean(cell_id, ids, f"llmbench sweep {sweep} --dry-run")
        raise SpecError(f"{sweep}: no cell is called {cell_id!r}.{near}")
    cell = matching[0]
    job = Job(
        cells=[cell], model=planned.models[cell.model], protocol=planned.sweep.protocol, session=1,
        prompts_text=None if cell.prompts == spec_sweep.SYNTHETIC else text(cell.prompts),
    )  # fmt: skip
    sys.stdout.write(msgspec.json.encode(job).decode() + "\n")
