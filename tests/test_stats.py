"""Intervals that cover what they promise, and percentiles that are named only when they are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from llmbench.stats import intervals

CELLS = 4000


def one_cell(values: list[float]) -> intervals.Estimates:
    return intervals.estimates(np.array(values), np.zeros(len(values), np.int64), 1)


@pytest.mark.parametrize("sessions", [3, 5, 10])
@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_the_interval_covers_the_truth_19_times_in_20(sessions: int, sigma: float) -> None:
    rng = np.random.default_rng([sessions, int(sigma * 100)])
    truth = 0.125
    values = truth * np.exp(rng.normal(0, sigma, CELLS * sessions))

    middle, half_width, _ = intervals.estimates(
        values, np.repeat(np.arange(CELLS), sessions), CELLS
    )

    covered = (middle / (1 + half_width) <= truth) & (truth <= middle * (1 + half_width))
    assert 0.93 <= covered.mean() <= 0.97


def test_an_interval_from_the_normal_distribution_would_not_have_passed() -> None:
    rng = np.random.default_rng(3)
    values = np.exp(rng.normal(0, 0.01, (CELLS, 3)))

    error = np.log(values).std(axis=1, ddof=1) / math.sqrt(3)
    covered = abs(np.log(values).mean(axis=1)) <= 1.96 * error

    assert covered.mean() < 0.93


def test_the_half_width_is_students_t_on_the_logarithms() -> None:
    # log 1, log 2, log 4: mean log 2, standard deviation log 2, t(0.975, 2) = 4.30265
    expected = math.exp(4.30265 * math.log(2) / math.sqrt(3)) - 1

    assert intervals.half_width([1.0, 2.0, 4.0]) == pytest.approx(expected, rel=1e-5)
    assert one_cell([1.0, 2.0, 4.0]).middle[0] == pytest.approx(2.0)


def test_equal_sessions_have_an_interval_of_no_width() -> None:
    assert intervals.half_width([0.2, 0.2, 0.2]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_sessions_have_no_interval(values: list[float]) -> None:
    assert intervals.half_width(values) is None


def test_a_cell_without_sessions_has_no_number() -> None:
    estimates = intervals.estimates(np.array([1.0, 1.1]), np.array([1, 1]), 3)

    assert estimates.sessions.tolist() == [0, 2, 0]
    assert np.isnan(estimates.middle).tolist() == [True, False, True]


def test_absent_and_impossible_values_are_left_out() -> None:
    values = np.array([1.0, np.nan, 2.0, 0.0, -1.0, np.inf, 4.0])

    estimates = intervals.estimates(values, np.zeros(7, np.int64), 1)

    assert estimates.sessions.tolist() == [3]
    assert estimates.middle[0] == pytest.approx(2.0)


def test_every_cell_is_estimated_as_if_it_were_alone() -> None:
    rng = np.random.default_rng(0)
    values, cells = rng.uniform(1, 2, 200), rng.integers(0, 20, 200)

    together = intervals.estimates(values, cells, 20)

    for cell in range(20):
        alone = one_cell(values[cells == cell].tolist())
        assert together.middle[cell] == pytest.approx(alone.middle[0])
        assert together.half_width[cell] == pytest.approx(alone.half_width[0])


@pytest.mark.parametrize(
    ("share", "fewest"), [(0.5, 20), (0.9, 100), (0.95, 200), (0.99, 1000), (0.999, 10_000)]
)
def test_a_percentile_needs_ten_samples_beyond_it(share: float, fewest: int) -> None:
    samples = list(range(fewest))

    assert intervals.percentile(samples[1:], share) is None
    assert intervals.percentile(samples, share) == pytest.approx(share * (fewest - 1))


@pytest.mark.parametrize("confidence", [intervals.CONFIDENCE, 0.9])
@pytest.mark.parametrize("most", [30, 60])
def test_the_quantiles_are_those_of_scipy(most: int, confidence: float) -> None:
    freedom = np.arange(-1, most + 1)

    found = intervals.t_quantile(freedom, confidence)

    assert found == pytest.approx(stdtrit(freedom, (1 + confidence) / 2), rel=1e-12, nan_ok=True)
