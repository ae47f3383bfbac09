"""Whether measuring other GPUs of a box at the same time changes a number, by pairs of sessions.

One is alone, the other together with neighbours: the box's other GPUs then do the same job, loading, warm-up and clocks
included, and nothing of theirs is recorded. Both are of the same cell on the same GPU, in turn, and every other pair is
the other way around (ABBA).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple

from llmbench import compare
from llmbench.compare import confounds, sides
from llmbench.errors import MEASURED, RunError
from llmbench.machine import calibration, info
from llmbench.results import store
from llmbench.results.aggregate import Tally
from llmbench.results.metrics import BY_KEY
from llmbench.run import sweep
from llmbench.spec import overrides
from llmbench.stats.effects import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from llmbench.spec.sweep import Sweep

MARGIN = 0.01
"""Neighbours that change a number by less than this, by the 90 % interval, are said to change nothing."""
METRICS = ("ttft_s", "tpot_s", "load_s")
RUNS = ("alone", "together")


class Effect(NamedTuple):
    """What neighbours do to a metric: how many cells they leave the same, of how many, and the mean ratio."""

    metric: str
    same: int
    cells: int
    ratio: float


def measure(wanted: Sweep, folder: Path, pairs: int, console: Console, command: str) -> int:
    """Measure pairs of sessions of a sweep's cells into two runs under a folder; return an exit code."""
    if (cards := len(info.machine()["gpus"])) < 2:
        raise RunError(f"--per-box: needs two GPUs or more in this machine, which has {cards}.")
    turns = secrets.token_hex(8)
    exactly = {"sessions": pairs, "max_sessions": pairs}
    for number in range(1, pairs + 1):
        for name in RUNS if number % 2 else reversed(RUNS):
            console.print(f"Pair {number} of {pairs}, {name}:")
            asked = sweep.SweepOptions(
                folder / name, resume=False, new_environment=False, allow_shared=False, offline=False,
                rounds=number, turns=turns, where=sweep.Where(gpus="all", crowd=name),
            )  # fmt: skip
            code = sweep.sweep(
                overrides.with_protocol(wanted, exactly), asked, console, command, lambda *_: None
            )
            if code not in MEASURED:
                return code
    return 0


def effects(folder: Path) -> list[Effect]:
    """Return what neighbours did to each metric that was measured; raise RunError if there is none."""
    logs = [(name, store.read(folder / name)) for name in RUNS]
    tallies = [Tally(log) for _, log in logs]
    found = []
    for key in METRICS:
        metric = BY_KEY[key]
        read = [
            sides.side(name, log.plan, tally, metric)
            for (name, log), tally in zip(logs, tallies, strict=True)
        ]
        (contrast,) = compare.runs(read, confounds.CompareOptions(metric, MARGIN)).contrasts
        if len(contrast.cells):
            verdicts = contrast.effects.verdict.tolist()
            ratio = float(contrast.effects.ratio.mean())
            found.append(Effect(key, verdicts.count(Verdict.SAME), len(verdicts), ratio))
    if not found:
        raise RunError(f"{folder}: no cell has a number both alone and together with others.")
    return found


def kept(folder: Path, found: list[Effect], pairs: int) -> calibration.Neighbours:
    """Return what is to be kept of a measurement, for machines of the same kind."""
    plan = store.read(folder / RUNS[1]).plan
    assert plan is not None
    return calibration.Neighbours(
        machine=calibration.kind_digest(plan.machine),
        at=info.utc_now(),
        others=len(plan.machine["gpus"]) - 1,
        pairs=pairs,
        same=all(effect.same == effect.cells for effect in found),
    )
