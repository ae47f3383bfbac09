"""The spread of a machine's numbers between sessions, measured once and saved in the user's state folder.

One session has no interval of its own; the spread of other cells' sessions on the same machine can replace it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmbench.machine import info, state
from llmbench.spec.digest import digest_of
from llmbench.stats import sample_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.spec.sweep import Point

Reals: TypeAlias = NDArray[np.float64]

Shape: TypeAlias = "tuple[int | None, int | None, int | None]"
"""Batch size, prompt tokens, new tokens."""

MOST_DEVIATION = 20.0
"""The largest deviation believed: one session would be 500 million times another."""
MANY = f"over {sample_size.MOST}"


class MeasuredSpread(msgspec.Struct, frozen=True, kw_only=True):
    """The spread of a metric at one shape, as standard deviations of logarithms: 0.01 is 1 %.

    Attributes:
        batch_size: sequences at once.
        input_len: prompt tokens.
        output_len: new tokens.
        within: between the iterations of one session; None for one iteration.
        between: between sessions, as measured.
        drawn: between sessions, shrunk towards the common value of all shapes.
        dof: degrees of freedom behind `drawn`.

    """

    batch_size: int | None
    input_len: int | None
    output_len: int | None
    within: float | None
    between: float
    drawn: float
    dof: float

    def __post_init__(self) -> None:
        """Refuse impossible figures."""
        check(self.drawn, self.dof)
        check(self.between, self.dof)
        check(self.within or 0.0, self.dof)


class Varying(msgspec.Struct, frozen=True, kw_only=True):
    """The spread of one metric: at the measured shapes, and the expected one at any other."""

    shapes: list[MeasuredSpread]
    other: float
    other_dof: float

    def __post_init__(self) -> None:
        """Refuse impossible figures."""
        check(self.other, self.other_dof)


class Calibration(state.OfMachine, frozen=True, kw_only=True):
    """One calibration: the machine (a digest), the time, the run, and the spread of each metric."""

    name: str
    at: str
    run: str
    sessions: int
    cells: int
    metrics: dict[str, Varying]

    def of(self, metric: str, cells: Sequence[Point]) -> tuple[Reals, Reals]:
        """Return variance and degrees of freedom of one session of each cell; NaN and 0 for an unknown metric."""
        varying = self.metrics.get(metric)
        if varying is None:
            return np.full(len(cells), np.nan), np.zeros(len(cells))
        known: dict[Shape, tuple[float, float]] = {
            (s.batch_size, s.input_len, s.output_len): (s.drawn, s.dof) for s in varying.shapes
        }
        other = (varying.other, varying.other_dof)
        shapes = ((cell.batch_size, cell.asked("input_len"), cell.output_len) for cell in cells)
        pairs = np.array([known.get(shape, other) for shape in shapes]).reshape(-1, 2)
        return pairs[:, 0] ** 2, pairs[:, 1]

    def label(self) -> str:
        """Return the notice for a comparison that uses this calibration."""
        return (
            f"calibrated: a cell with a single session on either side uses the spread measured on this "
            f"machine on {self.at[:10]} ({self.sessions} sessions of {self.cells} cells) instead of its own."
        )

    def forecast(self, cells: Sequence[Point], within: float) -> str:
        """Return how many sessions bring the intervals of end-to-end times within ± a share."""
        variance, _ = self.of("e2e_s", cells)
        if not np.isfinite(variance).any():
            return ""
        least, most = (
            sample_size.sessions_for(float(np.sqrt(end)), within)
            for end in (variance.min(), variance.max())
        )
        sessions = (
            f"{least or MANY} sessions"
            if least == most
            else f"{least or MANY} to {most or MANY} sessions"
        )
        return f"An interval within ±{within:.1%} needs {sessions} per cell, by the calibration of {self.at[:10]}."


def check(deviation: float, dof: float) -> None:
    """Raise ValueError unless these can be a standard deviation of logarithms and degrees of freedom."""
    if not 0 <= deviation <= MOST_DEVIATION:
        raise ValueError(f"{deviation} is not a standard deviation of logarithms")
    if not dof >= 0:
        raise ValueError(f"{dof} are not degrees of freedom")


SHELF = state.Shelf(
    "calibrations", "calibration", Calibration, "calibrate again with llmbench calibrate"
)


class Neighbours(state.OfMachine, frozen=True, kw_only=True):
    """Whether the other GPUs of a box may be measured at the same time, by `calibrate --per-box`.

    Attributes:
        at: the time.
        others: how many other GPUs were timed at the same time.
        pairs: of sessions, one alone and one together with them.
        same: whether every cell was the same within 1 %, for each metric.

    """

    at: str
    others: int
    pairs: int
    same: bool


NEIGHBOURS = state.Shelf(
    "neighbours", "measurement of neighbours", Neighbours,
    "measure it again with llmbench calibrate --per-box",
)  # fmt: skip


def most_harmless(machine: Mapping[str, Any]) -> int:
    """Return how many other GPUs of a box may be timed without changing a number; 0 where nobody has measured it."""
    known, _ = NEIGHBOURS.find(kind_digest(machine))
    return known.others if known and known.same else 0


def kind_digest(machine: Mapping[str, Any]) -> str:
    """Return the digest under which something is kept for all machines of a kind."""
    return digest_of([*info.kind(machine)])


class KeptCalibration(NamedTuple):
    """The calibration of a machine, and a sentence with the reason if its file could not be used."""

    calibration: Calibration | None
    notice: str | None = None


def kept_calibration(facts: Mapping[str, Any]) -> KeptCalibration:
    """Return the saved calibration of a machine, as a run describes it. Never raises."""
    return KeptCalibration(*SHELF.find(info.identity_digest(facts)))
