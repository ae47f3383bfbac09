"""The measured cells of runs, each with its values and facts: the model's shape, the chip, the plan.

Cost and claims are computed from these. They have only valid sessions, each with its own value of every metric,
from which ratios of two cells get intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llmbench.machine import chips
from llmbench.models import resolve
from llmbench.results import metrics, utilization
from llmbench.stats.interval import Interval, around
from llmbench.spec.sweep import Cell
from llmbench.stats.intervals import estimates
from llmbench.results.aggregate import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.models.resolve import Model
    from llmbench.results.record import Import, Plan
    from llmbench.results.sessions import Sessions
    from llmbench.models.counts import Counts
    from llmbench.results.store import Log


PHASES = ("prefill", "decode")


READ_RATE = "offload_read_bytes_s"
"""The key in `Measured.values` of the rate at which weights one memory level down were read, by session."""


@dataclass(frozen=True)
class Machine:
    """The machine of a run: its name, its chip if all GPUs are the same known one, and their number."""

    name: str
    chip: str | None
    gpus: int


@dataclass(frozen=True)
class Measured:
    """One cell with at least one valid session.

    Attributes:
        run: the name of its run's folder.
        values: the values of each metric in each session, by key; without metrics that no session has.
        bound: the bottleneck of `prefill` and `decode`; without phases that have no ceilings.
        ceilings: their source: `datasheet`, `measured`, or empty.

    """

    run: str
    at: str
    machine: Machine
    cell: Cell
    model: Model | None
    values: Mapping[str, tuple[float, ...]]
    bound: Mapping[str, str]
    ceilings: str

    @cached_property
    def counts(self) -> Counts | None:
        """Return what is counted on its model, if that is known."""
        return resolve.counts_of(self.model) if self.model else None

    @property
    def scaled(self) -> bool:
        """Return whether its model is a scaled copy."""
        return "@" in self.cell.model

    @property
    def where(self) -> str:
        """Return where it ran: `cpu`, or the chip or machine."""
        return "cpu" if self.cell.device == "cpu" else self.machine.chip or self.machine.name

    @property
    def alike(self) -> tuple[object, ...]:
        """Return all conditions except the model and the sizes; cells with equal ones are comparable."""
        options = tuple(sorted(self.cell.options.items()))
        cell = self.cell
        return (
            self.run,
            cell.backend,
            options,
            cell.device,
            cell.dtype,
            cell.load_format,
            cell.prompts,
        )

    def has(self, key: str) -> bool:
        """Return whether a metric was measured."""
        return key in self.values

    def first(self, keys: Sequence[str]) -> str:
        """Return the first of some metrics that was measured, or else the first."""
        return next((key for key in keys if self.has(key)), keys[0])

    def figure(self, key: str) -> Interval:
        """Return a metric with its interval between sessions."""
        return around(self.values[key])

    def middle(self, key: str) -> float:
        """Return a metric's figure without interval; for a peak, the largest."""
        if metrics.BY_KEY[key].over == "max":
            return max(self.values[key])
        return self.figure(key).value


def read(log: Log, run: str, *, sized: bool = True) -> list[Measured]:
    """Return the cells of a run that have a number, in the order of its plan; without `sized`, of unknown sizes too."""
    tally = Tally(log)
    plan = log.plan
    owners = tally.numbers_of_owners()
    work, sessions = utilization.columns(tally, plan)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {metric.key: metric.value(sessions) for metric in metrics.METRICS}
    rates = [engine.offload_read_bytes_s or math.nan for engine in tally.engines]
    columns[READ_RATE] = np.array(rates)
    words = {each.key: each.values for each in utilization.sides(work, sessions, owners)}
    machine = _imported_on(log.imported) if log.imported else _machine(plan)
    at = plan.at if plan else log.imported.at if log.imported else ""
    models = {(model.name, model.digest): model for model in (plan.models if plan else ())}
    for point in tally.cells if log.imported else ():
        if model := resolve.catalogued(point.model):
            models[point.model, point.model_digest] = model
    return [
        Measured(
            run=run,
            at=at,
            machine=machine,
            cell=Cell(**msgspec.structs.asdict(point)),
            model=models.get((point.model, point.model_digest)),
            values=_of(columns, np.flatnonzero(owners == owner)),
            bound={
                phase: words[f"{phase}_bound"][owner]
                for phase in (PHASES if words else ())
                if words[f"{phase}_bound"][owner]
            },
            ceilings=work.sources[owner],
        )
        for owner, point in enumerate(tally.cells)
        if owner in owners
        and not (sized and None in (point.batch_size, point.input_len, point.output_len))
    ]


def _of(columns: Mapping[str, Any], rows: Any) -> dict[str, tuple[float, ...]]:
    """Return the values of sessions, without metrics that are 0 in one of them, which no ratio can be taken of."""
    measured = {
        key: tuple(value for value in column[rows].tolist() if np.isfinite(value))
        for key, column in columns.items()
    }
    return {key: values for key, values in measured.items() if values and min(values) > 0}


def _imported_on(imported: Import) -> Machine:
    """Return the machine that the user named when importing a run."""
    chip = imported.machine if imported.machine in chips.known() else None
    return Machine(name=imported.machine or "unknown machine", chip=chip, gpus=1 if chip else 0)


def _machine(plan: Plan | None) -> Machine:
    facts: Mapping[str, Any] = plan.machine if plan else {}
    gpus: Sequence[Mapping[str, Any]] = facts.get("gpus") or ()
    kinds = {chips.match(gpu) for gpu in gpus}
    return Machine(
        name=str(facts.get("name") or facts.get("cpu") or "unknown machine"),
        chip=kinds.pop() if len(kinds) == 1 else None,
        gpus=len(gpus),
    )
