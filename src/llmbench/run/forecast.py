"""The forecast of a sweep before it runs: its cells, the prediction of each, and the price of an hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmbench.errors import SpecError
from llmbench.machine import calibration, chips, info, peaks
from llmbench.predict import estimate, nearest
from llmbench.run import plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llmbench.machine.chips import Chip, Price
    from llmbench.results.prediction import Prediction
    from llmbench.run.plan import Planned
    from llmbench.spec.sweep import Cell, Sweep


class PlannedCell(NamedTuple):
    """One cell, what is predicted of it, and why it cannot run, if it cannot."""

    cell: Cell
    prediction: Prediction
    refused: str | None
    sweep_s: float | None


class Forecast(NamedTuple):
    """A sweep that has been planned and predicted.

    Attributes:
        planned: the plan.
        cells: all of them, those that cannot run too.
        chip: what it is planned for; None for this machine.
        price: of an hour, if there is one.
        sessions: how many sessions an interval takes on this machine, in words; empty where it was not calibrated.

    """

    planned: Planned
    cells: list[PlannedCell]
    chip: Chip | None
    price: Price | None
    sessions: str


def forecast(
    sweep: Sweep, chip_name: str | None, usd_per_hour: float | None, results: Path
) -> Forecast:
    """Plan a sweep for a chip or for this machine, and predict its cells."""
    chip = chips.chip(chip_name) if chip_name else None
    price = _price(usd_per_hour, chip)
    planned = plan.plan(sweep, chip=chip)
    cells = list(_cells(planned, _place(chip, results)))
    return Forecast(planned, cells, chip, price, "" if chip else _sessions(planned))


def _place(chip: Chip | None, results: Path) -> estimate.PredictedMachine:
    if chip:
        return estimate.elsewhere(chip)
    machine = info.machine()
    return estimate.here(machine, peaks.probes_of(machine), nearest.past_cells(results, machine))


def _cells(planned: Planned, place: estimate.PredictedMachine) -> Iterator[PlannedCell]:
    protocol = planned.sweep.protocol
    predicted = estimate.predictions(planned.cells, planned.models, protocol, place)
    for cell in planned.cells:
        prediction, refused = predicted[cell.id], planned.refused.get(cell.id)
        runs = not refused and prediction.fits != "no"
        session_s = prediction.session_s if runs else None
        yield PlannedCell(cell, prediction, refused, session_s and protocol.sessions * session_s)


def _price(usd_per_hour: float | None, chip: Chip | None) -> Price | None:
    """Return the price of an hour: the given one, else the newest dated price in the chip's file."""
    if usd_per_hour is not None:
        if usd_per_hour < 0:
            raise SpecError(f"--usd-per-gpu-hour: {usd_per_hour} is negative.")
        return chips.Price(
            date=None,
            provider="as given",
            source="--usd-per-gpu-hour",
            usd_per_hour=usd_per_hour,
        )
    known = [one for one in (chip.prices if chip else ()) if one.usd_per_hour and one.date]
    return max(known, key=lambda one: str(one.date), default=None)


def _sessions(planned: Planned) -> str:
    """Return how many sessions an interval takes, where this machine was calibrated."""
    known = calibration.kept_calibration(info.machine()).calibration
    within = planned.sweep.protocol.interval_within
    return known.forecast(planned.cells, within) or "" if known else ""
