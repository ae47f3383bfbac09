"""Half a minute of what `scripts/soak` does for ten, and that it would notice."""

import pytest

import soak
from soak import Level
from sweeps import Bench

SEED = 19


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_full_of_faults_outlives_every_stroke(bench: Bench) -> None:
    print(f"seed {SEED}")  # pytest shows it with a failure
    struck = soak.Soak(bench, soak.SHORT, SEED)

    soak.check(struck, struck.run())

    assert struck.blows.total() > soak.SHORT.strokes


@pytest.mark.parametrize("growing", [Level(0, 2**20, 0), Level(0, 0, 1)])
def test_a_parent_that_holds_more_and_more_is_noticed(growing: Level) -> None:
    levels = [
        Level(n, 50 * 2**20 + n * growing.rss_bytes, 9 + n * growing.files) for n in range(60)
    ]

    with pytest.raises(AssertionError, match=r"memory: |open files: "):
        soak.assert_level([levels])
