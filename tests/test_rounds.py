"""The effect of rounds, against least squares by hand and on simulated runs of known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from llmbench.stats.rounds import RoundEffect, round_effect

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELLS, ROUNDS = 12, 3


def simulated(generator: np.random.Generator, slower: float = 0.0) -> RoundEffect | None:
    """Return the effect in a run with noise of 2 % in which round 2 is slower by this share."""
    cells, rounds = (grid.ravel() for grid in np.indices((CELLS, ROUNDS)))
    y = cells + generator.normal(0, 0.02, len(cells)) + np.log1p(slower) * (rounds == 1)
    return round_effect(np.exp(y), cells, rounds + 1)


def test_a_machine_that_changes_between_rounds_is_seen() -> None:
    effect = simulated(np.random.default_rng(1), slower=0.10)

    assert effect is not None
    assert effect.p < 0.0001
    assert effect.round == 2
    assert effect.ratio == pytest.approx(1.10, abs=0.02)


def test_a_machine_that_does_not_change_is_called_changed_as_often_as_the_test_allows() -> None:
    generator = np.random.default_rng(2)

    seen = [effect.p < 0.05 for _ in range(2000) if (effect := simulated(generator))]

    assert len(seen) == 2000
    assert 0.035 < np.mean(seen) < 0.065


def by_least_squares(
    y: NDArray[np.float64], cells: NDArray[np.int64], rounds: NDArray[np.int64]
) -> tuple[float, float]:
    """Return F and p from the residuals of two full models."""
    alone = (cells[:, None] == np.unique(cells)).astype(float)
    both = np.hstack([alone, rounds[:, None] == np.unique(rounds)])
    squares = [float(np.sum((y - x @ np.linalg.lstsq(x, y)[0]) ** 2)) for x in (alone, both)]
    ranks = [int(np.linalg.matrix_rank(x)) for x in (alone, both)]
    freedom = ranks[1] - ranks[0], len(y) - ranks[1]
    f = (squares[0] - squares[1]) / freedom[0] / (squares[1] / freedom[1])
    return f, float(stats.f.sf(f, *freedom))


def test_cells_with_missing_sessions_count_as_least_squares_say() -> None:
    generator = np.random.default_rng(3)
    cells, rounds = (grid.ravel() for grid in np.indices((8, 4)))
    kept = generator.random(len(cells)) < 0.7
    y = generator.normal(0, 0.05, len(cells)) + 0.1 * (rounds == 3)
    values = np.where(kept, np.exp(y), np.nan)

    effect = round_effect(values, cells, rounds)

    assert effect is not None
    assert (effect.f, effect.p) == pytest.approx(
        by_least_squares(y[kept], cells[kept], rounds[kept])
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_too_few_sessions_show_nothing(count: int) -> None:
    cells = np.array([0, 0, 1])[:count]
    rounds = np.array([1, 2, 1])[:count]

    assert round_effect(np.arange(1.0, count + 1), cells, rounds) is None


def test_rounds_that_no_cell_connects_show_nothing() -> None:
    effect = round_effect(
        np.array([1.0, 1.1, 2.0, 2.2]), np.array([0, 0, 1, 1]), np.array([1, 1, 2, 2])
    )

    assert effect is None


def test_a_run_without_a_value_has_no_effect_of_rounds() -> None:
    none = np.array([], dtype=np.int64)

    assert round_effect(np.array([]), none, none) is None
    assert round_effect(np.array([np.nan]), np.array([0]), np.array([1])) is None
