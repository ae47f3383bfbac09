"""Outcomes that a sweep knows without running a cell: refused, sure to fail again, predicted too big, or beyond an OOM.

Each is recorded with its reason. The last two are not certain, and `--run-anyway` measures them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from llmbench.predict import oom
from llmbench.results.record import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmbench.predict.oom import Seen
    from llmbench.results.prediction import Prediction
    from llmbench.run.pending import CellSessions
    from llmbench.run.plan import Planned
    from llmbench.spec.sweep import Cell


class InferredOutcomes:
    """Outcomes of cells that have not run, inferred from the plan and from other cells."""

    def __init__(
        self,
        planned: Planned,
        predictions: Mapping[str, Prediction],
        standings: Mapping[str, CellSessions],
        *,
        run_anyway: bool,
    ) -> None:
        """Store the sources; the standings change as records come."""
        self.refused, self.predictions, self.standings = planned.refused, predictions, standings
        self.run_anyway = run_anyway
        self.engines: defaultdict[tuple[str, ...], list[Cell]] = defaultdict(list)
        for cell in planned.cells:
            self.engines[cell.group()].append(cell)

    def outcomes(self, cells: Iterable[Cell]) -> dict[str, Outcome]:
        """Return, by id, the outcome of the next session of each cell that need not run."""
        known = {cell.id: outcome for cell in cells if (outcome := self._certain(cell))}
        if self.run_anyway:
            return known
        together: defaultdict[tuple[str, ...], list[Cell]] = defaultdict(list)
        for cell in cells:
            if cell.id not in known:
                together[cell.group()].append(cell)
        for engine, members in together.items():
            known |= self._inferred(engine, members)
        return known

    def _certain(self, cell: Cell) -> Outcome | None:
        if reason := self.refused.get(cell.id):
            return Outcome(cell=cell.id, status=Status.UNSUPPORTED, phase="plan", error=reason)
        if determined := self.standings[cell.id].determined():
            return _skipped(
                cell, f"an earlier session ended with {determined}, and this one would too"
            )
        return None

    def _inferred(self, engine: tuple[str, ...], cells: Iterable[Cell]) -> dict[str, Outcome]:
        seen: list[Seen] = [(cell, self.standings[cell.id].met) for cell in self.engines[engine]]
        limits = oom.limits(seen)
        return {
            cell.id: _skipped(cell, reason)
            for cell in cells
            if (reason := oom.inferred(cell, seen, limits, self.predictions.get(cell.id)))
        }


def _skipped(cell: Cell, reason: str) -> Outcome:
    return Outcome(cell=cell.id, status=Status.SKIPPED, phase="plan", error=reason)
