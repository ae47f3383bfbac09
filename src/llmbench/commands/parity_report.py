"""The verdicts of a parity check as a person asks for them: of a sweep's file, or of a run, where they are kept."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console

from llmbench import numbers
from llmbench.errors import RunError
from llmbench.machine import info
from llmbench.parity import check
from llmbench.redact import shown
from llmbench.report import rows
from llmbench.results import store
from llmbench.run.plan import plan
from llmbench.run.runner import now
from llmbench.spec import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llmbench.results.record import Parity, Plan

FAILED = 1
"""The exit code unless every engine passed."""


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _nats(value: float) -> str:
    return f"{value:.1e}"


COLUMNS = (
    rows.Column("model", "model"),
    rows.Column("dtype", "dtype"),
    rows.Column("backend", "backend"),
    rows.Column("options", "options"),
    rows.Column("positions", "tokens", numbers.whole),
    rows.Column("agreement", "same", _percent),
    rows.Column("wrong", "wrong", numbers.whole),
    rows.Column("error_nats", "error", _nats),
    rows.Column("noise_nats", "noise", _nats),
    rows.Column("verdict", "verdict"),
    rows.Column("why", "why"),
)


def show(subject: Path, format: str) -> int:
    """Check every engine of a sweep's file or of a run, print the verdicts, and return the exit code."""
    console = Console(highlight=False, stderr=True)

    def tell(progress: str) -> None:
        console.print(shown(progress), markup=False, style="dim", soft_wrap=True)

    verdicts = of_run(subject, tell) if subject.is_dir() else of_sweep(subject, tell)
    sys.stdout.write(rows.rows(COLUMNS, [_facts(verdict) for verdict in verdicts], format, 4))
    return 0 if all(verdict.verdict == "passed" for verdict in verdicts) else FAILED


def of_sweep(file: Path, tell: Callable[[str], None]) -> list[Parity]:
    """Check the engines of a sweep's file."""
    planned = plan(sweep.read_sweep(file))
    return list(check.check(planned.cells, planned.models, planned.sweep.protocol, tell))


def of_run(folder: Path, tell: Callable[[str], None]) -> list[Parity]:
    """Check the engines of a run, and write each verdict beside its records as it comes."""
    store.read(folder)  # refuses what is no run, before anything is made there
    with store.open_run(folder) as run:
        written = run.log.plan
        if written is None:
            raise RunError(f"{folder}: has no plan, so nobody knows what to check.")
        _, environment = info.environment(info.machine())
        return [_kept(run, verdict, environment) for verdict in _verdicts(written, tell)]


def _verdicts(written: Plan, tell: Callable[[str], None]) -> Iterator[Parity]:
    models = {model.name: model for model in written.models}
    return check.check(written.cells, models, written.settings, tell)


def _kept(run: store.Run, verdict: Parity, environment: str) -> Parity:
    dated = msgspec.structs.replace(verdict, at=now(), environment=environment)
    run.append(dated)
    return dated


def _facts(verdict: Parity) -> dict[str, Any]:
    """Return a verdict as a row."""
    options = " ".join(f"{key}={value}" for key, value in verdict.options.items())
    compared = verdict.positions and verdict.same is not None
    agreement = verdict.same / verdict.positions if compared else None  # type: ignore[operator]
    return {**msgspec.to_builtins(verdict), "options": options, "agreement": agreement}
