"""Calibration of a machine from a run: the spread within a session and between sessions, by shape."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from llmbench.errors import RunError
from llmbench.machine import info
from llmbench.machine.calibration import Calibration, MeasuredSpread, Shape, Varying
from llmbench.results.aggregate import Tally
from llmbench.results.iterations import IterationRows, iterated
from llmbench.results.metrics import METRICS
from llmbench.stats.intervals import moments
from llmbench.stats.shrinkage import moderated, prior

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.results.metrics import Metric
    from llmbench.results.store import Log
    from llmbench.spec.sweep import Point
    from llmbench.stats.intervals import Integers, Moments, Reals

FEWEST_SESSIONS = 2

TIMED = tuple(metric for metric in METRICS if metric.spread)
"""The metrics that are timed in each iteration and therefore also vary within a session."""


def calibrate(log: Log, name: str) -> Calibration:
    """Return the calibration of a run's machine.

    Raises:
        RunError: no cell has two valid sessions, or the machine is not known.

    """
    tally = Tally(log)
    if log.plan is None:
        raise RunError(
            f"{name}: the plan of the run is missing, and with it the machine that it ran on."
        )
    owners = tally.numbers_of_owners()
    valid = np.bincount(owners, minlength=len(tally.cells))
    if not (valid >= FEWEST_SESSIONS).any():
        raise RunError(
            f"{name}: no cell has {FEWEST_SESSIONS} valid sessions, the fewest that show a spread. Measure "
            f"with --sessions 5."
        )
    columns = tally.gatherer.sessions([tally.cells[owner] for owner in owners])
    sessions = IterationRows(columns, owners, len(tally.cells))
    iterations = iterated(log, tally)
    shapes = _shapes(tally.cells)
    by_metric = {
        metric.key: varying
        for metric in TIMED
        if (varying := _varying(metric, sessions, iterations, shapes))
    }
    return Calibration(
        machine=info.identity_digest(log.plan.machine),
        name=str(log.plan.machine.get("name")),
        at=log.plan.at,
        run=log.plan.run,
        sessions=len(owners),
        cells=int((valid >= FEWEST_SESSIONS).sum()),
        metrics=by_metric,
    )


def _shapes(cells: Sequence[Point]) -> dict[Shape, Integers]:
    """Return the numbers of the cells of each shape."""
    indices: defaultdict[Shape, list[int]] = defaultdict(list)
    for number, cell in enumerate(cells):
        length = None if cell.spread else cell.input_len
        indices[cell.batch_size, length, cell.output_len].append(number)
    return {shape: np.array(numbers) for shape, numbers in indices.items()}


def _varying(
    metric: Metric,
    sessions: IterationRows,
    iterations: IterationRows,
    shapes: dict[Shape, Integers],
) -> Varying | None:
    """Return the spread of a metric; None if no cell has it in two sessions."""
    between, inside = _moments(metric, sessions), _moments(metric, iterations)
    of_session = _of_sessions(inside, sessions)
    rows = [
        (shape, squares / dof, dof, _pooled(of_session[0][cells], of_session[1][cells]))
        for shape, cells in shapes.items()
        if (dof := float(np.maximum(between.n[cells] - 1, 0).sum()))
        and np.isfinite(squares := float(between.squares[cells].sum()))
    ]
    if not rows:
        return None
    variances, dofs = (np.array([row[column] for row in rows]) for column in (1, 2))
    common = prior(variances, dofs)
    drawn, together = (variances, dofs) if common is None else moderated(variances, dofs, common)
    spreads = [
        MeasuredSpread(
            batch_size=shape[0], input_len=shape[1], output_len=shape[2],
            within=within, between=float(np.sqrt(variance)), drawn=float(np.sqrt(to)), dof=float(dof),
        )
        for (shape, variance, _, within), to, dof in zip(rows, drawn, together, strict=True)
    ]  # fmt: skip
    if common is None:  # too few to predict another shape: assume the noisiest
        noisiest = max(spreads, key=lambda spread: spread.between)
        return Varying(shapes=spreads, other=noisiest.between, other_dof=noisiest.dof)
    dof = min(common.dof, float(dofs.sum()))
    return Varying(shapes=spreads, other=float(np.sqrt(common.variance)), other_dof=dof)


def _moments(metric: Metric, rows: IterationRows) -> Moments:
    with np.errstate(divide="ignore", invalid="ignore"):  # n = 1 has no gaps: absent over 0
        return moments(metric.value(rows.columns), rows.owners, rows.groups)


def _of_sessions(inside: Moments, sessions: IterationRows) -> tuple[Reals, Reals]:
    """Return each cell's sum of squares within sessions, and its degrees of freedom."""
    columns = (inside.squares, np.maximum(inside.n - 1, 0))
    squares, dof = (
        np.bincount(sessions.owners, weights=column, minlength=sessions.groups).astype(np.float64)
        for column in columns
    )
    return squares, dof


def _pooled(squares: Reals, dof: Reals) -> float | None:
    return float(np.sqrt(squares.sum() / dof.sum())) if dof.sum() else None
