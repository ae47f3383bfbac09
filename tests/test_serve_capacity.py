"""The search for the highest rate within limits, against servers whose answer is known."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from llmbench.serve import capacity
from llmbench.serve.capacity import Probe

if TYPE_CHECKING:
    from collections.abc import Callable


def server(carries: float, noise: float = 0.0) -> Callable[[float, int], Probe]:
    """Return a trial of a server that meets its limits up to a rate, with a share of answers that fail by chance."""
    rng = random.Random(1)  # noqa: S311 - a simulation, not a secret

    def trial(rate: float, due: int) -> Probe:
        good = sum(rate <= carries and rng.random() >= noise for _ in range(due))
        return Probe(rate, good, due, carried=rate <= 1.2 * carries)

    return trial


@pytest.mark.parametrize("carries", [0.4, 3.0, 55.0, 700.0])
def test_the_rate_that_is_found_is_the_highest_that_is_carried(carries: float) -> None:
    trial = server(carries)

    found, tried = capacity.search(
        1.0, 0.9, lambda rate: trial(rate, 40), lambda rate: trial(rate, 400)
    )

    assert found is not None
    assert 0.95 * carries <= found.rate <= carries
    assert tried[-1] is found


def test_a_server_that_never_meets_the_limits_has_no_rate() -> None:
    trial = server(1e-9)

    found, tried = capacity.search(
        1.0, 0.9, lambda rate: trial(rate, 40), lambda rate: trial(rate, 400)
    )

    assert found is None
    assert tried


def test_a_share_that_is_met_by_luck_is_lowered_until_it_is_sure() -> None:
    """With 8 of 100 answers failing everywhere, 90 % is met at any rate, and sure only with many requests."""
    trial = server(50.0, noise=0.08)

    sure, _ = capacity.search(
        1.0, 0.9, lambda rate: trial(rate, 40), lambda rate: trial(rate, 4000)
    )
    few, _ = capacity.search(1.0, 0.9, lambda rate: trial(rate, 40), lambda rate: trial(rate, 20))

    assert sure is not None
    assert few is None


@pytest.mark.parametrize(("share", "count"), [(0.9, 29), (0.99, 299)])
def test_so_many_good_ones_show_a_share(share: float, count: int) -> None:
    assert capacity.fewest(share) == count
    assert capacity.lower_end(count, count) >= share > capacity.lower_end(count - 1, count - 1)
    assert capacity.lower_end(0, 10) == 0
