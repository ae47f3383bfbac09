"""Variances drawn towards each other: the prior is found again, and never invented from too little."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import polygamma

from llmbench.stats import shrinkage
from llmbench.stats.shrinkage import Prior


def drawn(
    rng: np.random.Generator, cells: int, dof: int, truth: Prior
) -> tuple[np.ndarray, np.ndarray]:
    """Return variances of `dof` degrees of freedom around true ones that follow the prior, by its definition."""
    true = truth.variance * (truth.dof / rng.chisquare(truth.dof, cells))
    return true * rng.chisquare(dof, cells) / dof, np.full(cells, float(dof))


@pytest.mark.parametrize("dof", [1, 2, 4])
@pytest.mark.parametrize("d0", [3.0, 8.0, 30.0])
def test_the_prior_of_many_cells_is_found_again(dof: int, d0: float) -> None:
    rng = np.random.default_rng(1)

    found = shrinkage.prior(*drawn(rng, 200_000, dof, Prior(0.01, d0)))

    assert found is not None
    assert found.dof == pytest.approx(d0, rel=0.15)
    assert found.variance == pytest.approx(0.01, rel=0.03)


def test_the_moments_agree_with_a_fit_by_likelihood() -> None:
    rng = np.random.default_rng(2)
    variances, dof = drawn(rng, 5_000, 4, Prior(0.02, 6.0))

    def against(guess: np.ndarray) -> float:
        scale, d0 = np.exp(guess)
        return float(-stats.f.logpdf(variances / scale, 4, d0).sum() + len(variances) * guess[0])

    best = np.exp(optimize.minimize(against, np.log([0.01, 3.0]), method="Nelder-Mead").x)
    found = shrinkage.prior(variances, dof)

    assert found is not None
    assert found.variance == pytest.approx(best[0], rel=0.05)
    assert found.dof == pytest.approx(best[1], rel=0.2)


def test_equal_variances_share_all_degrees_of_freedom() -> None:
    variances, dof = np.full(12, 4.0), np.full(12, 2.0)

    found = shrinkage.prior(variances, dof)

    assert found == Prior(4.0, np.inf)
    drawn_to, together = shrinkage.moderated(variances, dof, found)
    assert drawn_to.tolist() == [4.0] * 12
    assert together.tolist() == [24.0] * 12


def test_a_cell_is_drawn_by_the_weight_of_the_prior() -> None:
    variances, dof = np.array([9.0, 3.0]), np.array([2.0, 3.0])

    drawn_to, together = shrinkage.moderated(variances, dof, Prior(3.0, 4.0))

    # (2 x 9 + 4 x 3) / 6 = 5; of 6 degrees of freedom no more than the table's own 5
    assert drawn_to.tolist() == [5.0, 3.0]
    assert together.tolist() == [5.0, 5.0]


@pytest.mark.parametrize("cells", [0, 1, 9])
def test_too_few_cells_have_no_prior(cells: int) -> None:
    assert shrinkage.prior(np.full(cells, 2.0), np.full(cells, 2.0)) is None


def test_cells_without_degrees_of_freedom_do_not_count() -> None:
    variances = np.array([1.0] * 9 + [np.nan] * 9)
    dof = np.array([2.0] * 9 + [0.0] * 9)

    assert shrinkage.prior(variances, dof) is None


def test_variances_that_are_all_zero_have_no_prior() -> None:
    assert shrinkage.prior(np.zeros(20), np.full(20, 2.0)) is None


def test_a_single_zero_does_not_pull_the_prior_to_nothing() -> None:
    rng = np.random.default_rng(3)
    variances, dof = drawn(rng, 60, 4, Prior(0.01, 20.0))

    variances[0] = 0.0
    found = shrinkage.prior(variances, dof)

    assert found is not None
    assert 0.001 < found.variance < 0.05


@pytest.mark.parametrize("x", [1e-7, 1e-3, 0.3, 1.0, 20.0, 1e7])
def test_the_inverse_of_trigamma_inverts_it(x: float) -> None:
    assert float(polygamma(1, shrinkage.trigamma_inverse(x))) == pytest.approx(x, rel=1e-6)
