"""The end of a warm-up, on simulated times with a known truth."""

import math
import random
from collections.abc import Callable

import pytest

from llmbench.measure.warmup import converged, settled
from llmbench.spec.sweep import Protocol

WITHIN = Protocol().warmup_within
MOST = 400


def constant(_call: int) -> float:
    return 1.0


def slow(call: int) -> float:
    return 1 + 0.5 * math.exp(-call / 30)


def calls_until_settled(shape: Callable[[int], float], noise: float, seed: int) -> list[int]:
    """Return the simulated times of a warm-up, in nanoseconds."""
    rng = random.Random(seed)  # noqa: S311
    times: list[int] = []
    while len(times) < MOST and not settled(times, WITHIN):
        times.append(round(8e6 * shape(len(times)) * math.exp(rng.gauss(0, noise))))
    return times


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01, 0.05])
def test_a_constant_time_settles_within_ten_calls_in_the_median_and_never_warns(
    noise: float,
) -> None:
    warm_ups = [calls_until_settled(constant, noise, seed) for seed in range(200)]

    assert sorted(map(len, warm_ups))[100] <= 10
    assert all(converged(times, WITHIN) for times in warm_ups)


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.003])
def test_a_slow_warming_is_not_settled_while_it_is_over_2_percent_off(noise: float) -> None:
    for seed in range(100):
        times = calls_until_settled(slow, noise, seed)

        assert slow(len(times)) < 1.02, (seed, len(times))


@pytest.mark.parametrize("calls", [3, 4, 5, 8, 20, 60, 96])
def test_a_slow_warming_that_the_budget_cuts_off_has_not_converged(calls: int) -> None:
    assert converged([round(8e6 * slow(call)) for call in range(calls)], WITHIN) is False


@pytest.mark.parametrize("calls", [3, 5, 12])
def test_a_constant_time_that_the_budget_cuts_off_seldom_warns(calls: int) -> None:
    rng = random.Random(calls)  # noqa: S311
    warm_ups = [
        [round(8e6 * math.exp(rng.gauss(0, 0.01))) for _ in range(calls)] for _ in range(500)
    ]

    assert sum(converged(times, WITHIN) is False for times in warm_ups) < 0.15 * len(warm_ups)


def test_fewer_than_three_calls_cannot_be_compared() -> None:
    assert converged([], WITHIN) is None
    assert converged([8_000_000, 8_000_000], WITHIN) is None
    assert converged([8_000_000, None, 8_000_000], WITHIN) is None
    assert not settled([8_000_000, 8_000_000], WITHIN)
