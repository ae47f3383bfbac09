"""Simulations of tables with a known truth, to test how often compare's statistics are wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmbench.stats import effects
from llmbench.stats.effects import Verdict
from llmbench.stats.intervals import Moments

MARGIN = 0.02


class Setting(NamedTuple):
    """A kind of table.

    `changed` of its cells are truly 5 % faster. `spread` is the standard deviation of a session's logarithm; it
    varies between cells with `alike` degrees of freedom, or is constant if that is None.
    """

    cells: int = 120
    changed: int = 10
    sessions: int = 5
    spread: float = 0.01
    alike: int | None = None
    paired: bool = False


class Seen(NamedTuple):
    """Results over many tables.

    `false` and `found` are wrongly and rightly called different cells per table; `coverage` is the share of
    intervals that contain the truth; `same` the share of unchanged cells called same.
    """

    false: float
    found: float
    coverage: float
    same: float


def simulate(setting: Setting, tables: int, seed: int = 0) -> Seen:
    """Draw tables and compute their verdicts."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(setting.cells)
    truth[: setting.changed] = np.log(0.95)
    called = np.zeros((tables, setting.cells), dtype=bool)
    inside, same = np.zeros_like(called), np.zeros_like(called)
    for number in range(tables):
        judged = effects.effects(_drawn(rng, setting, truth), MARGIN, lower_is_better=True)
        called[number] = judged.verdict == Verdict.BETTER
        called[number] |= judged.verdict == Verdict.WORSE
        inside[number] = (np.log(judged.low) <= truth) & (truth <= np.log(judged.high))
        same[number] = judged.verdict == Verdict.SAME
    unchanged = truth == 0
    return Seen(
        false=float(called[:, unchanged].sum(axis=1).mean()),
        found=float(called[:, ~unchanged].sum(axis=1).mean()),
        coverage=float(inside.mean()),
        same=float(same[:, unchanged].mean()),
    )


def _drawn(rng: np.random.Generator, setting: Setting, truth: np.ndarray) -> effects.Differences:
    spread = np.full(setting.cells, setting.spread)
    if setting.alike is not None:
        spread = spread * np.sqrt(setting.alike / rng.chisquare(setting.alike, setting.cells))
    shape = (setting.cells, setting.sessions)
    baseline = rng.normal(0, spread[:, None], shape)
    candidate = rng.normal(truth[:, None], spread[:, None], shape)
    if setting.paired:
        return effects.paired(_moments(candidate - baseline))
    return effects.unpaired(_moments(baseline), _moments(candidate))


def _moments(y: np.ndarray) -> Moments:
    mean = y.mean(axis=1)
    return Moments(np.full(len(y), y.shape[1]), mean, ((y - mean[:, None]) ** 2).sum(axis=1))
