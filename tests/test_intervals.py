"""Intervals against scipy's own tests, and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from llmbench.stats.interval import around, exactly, ratio, slope


def test_a_cell_has_the_interval_of_students_t_on_logarithms() -> None:
    # logs 0, 0.1, 0.2: mean 0.1, standard error 0.1 / sqrt(3) = 0.057735, t(0.975, 2) = 4.302653
    found = around([math.exp(0.0), math.exp(0.1), math.exp(0.2)])

    assert found.value == pytest.approx(math.exp(0.1))
    assert found.high == pytest.approx(math.exp(0.1 + 4.302653 * 0.057735), rel=1e-5)
    assert found.low == pytest.approx(math.exp(0.1 - 4.302653 * 0.057735), rel=1e-5)


def test_one_session_has_a_figure_and_no_interval() -> None:
    assert around([3.0]).value == pytest.approx(3.0)
    assert not around([3.0]).known
    assert not ratio([3.0], [1.0, 1.1]).known


def test_a_ratio_has_the_interval_of_welchs_test() -> None:
    left, right = [1.0, 1.1, 1.25], [2.0, 2.05, 2.3, 2.1]

    found = ratio(left, right)

    logs = np.log(left), np.log(right)
    low, high = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    assert found.low == pytest.approx(math.exp(low))
    assert found.high == pytest.approx(math.exp(high))


def test_a_ratio_of_sessions_that_do_not_vary_is_exact() -> None:
    assert ratio([3.0, 3.0], [2.0, 2.0]) == pytest.approx(exactly(1.5))


def test_a_slope_has_the_interval_of_least_squares() -> None:
    x, y = [1.0, 2.0, 4.0, 8.0], [1.1, 1.9, 4.4, 7.5]

    found = slope(x, y)

    line = stats.linregress(np.log(x), np.log(y))
    reach = stats.t.ppf(0.975, 2) * line.stderr
    assert found.value == pytest.approx(line.slope)
    assert found.high == pytest.approx(line.slope + reach)


def test_two_points_have_a_slope_and_no_interval() -> None:
    found = slope([1.0, 2.0], [3.0, 6.0])

    assert found.value == pytest.approx(1.0)
    assert not found.known


def test_the_ends_of_an_inverse_change_places() -> None:
    found = around([1.0, 1.2, 1.1]).over(6.0)

    assert found.low < found.value < found.high
    assert found.low == pytest.approx(6.0 / around([1.0, 1.2, 1.1]).high)


def test_sessions_whose_interval_reaches_infinity_have_none() -> None:
    apart = [1e-60, 1e60]

    for found in (around(apart), ratio(apart, apart[::-1]), around(apart).over(2.0)):
        assert found.value > 0
        assert not found.known
        assert math.isnan(found.low)
        assert math.isnan(found.high)
