"""The verdicts of a parity check: on the engines of a sweep's file, or on a run, which keeps them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from llmbench.errors import RunError
from llmbench.machine import info
from llmbench.machine.info import utc_now
from llmbench.parity import check
from llmbench.results import store
from llmbench.run.plan import plan
from llmbench.spec import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llmbench.results.record import Parity, Plan


def of_sweep(file: Path, tell: Callable[[str], None]) -> list[Parity]:
    """Check the engines of a sweep's file."""
    planned = plan(sweep.read_sweep(file))
    return list(check.check(planned.cells, planned.models, planned.sweep.protocol, tell))


def of_run(folder: Path, tell: Callable[[str], None]) -> list[Parity]:
    """Check the engines of a run, and write each verdict to its records as it comes."""
    store.read(folder)  # refuses what is no run, before anything is made there
    with store.open_run(folder) as run:
        written = run.log.plan
        if written is None:
            raise RunError(f"{folder}: has no plan, so nobody knows what to check.")
        _, environment = info.environment(info.machine())
        return [_kept(run, verdict, environment) for verdict in _verdicts(written, tell)]


def _verdicts(written: Plan, tell: Callable[[str], None]) -> Iterator[Parity]:
    models = {
        model.name: msgspec.structs.replace(
            model,
            location=model.location and os.path.expanduser(model.location),  # noqa: PTH111 - without a home, too
        )
        for model in written.models
    }
    return check.check(written.cells, models, written.settings, tell)


def _kept(run: store.Run, verdict: Parity, environment: str) -> Parity:
    dated = msgspec.structs.replace(verdict, at=utc_now("milliseconds"), environment=environment)
    run.append(dated)
    return dated
