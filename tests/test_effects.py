"""Ratios and verdicts: each verdict by hand, and the promises of the whole by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from llmbench.stats import effects, overall
from llmbench.stats.effects import Differences, Noise, Verdict
from llmbench.stats.intervals import Moments, moments
from simulated import Setting, simulate

MARGIN = 0.02


def side(*cells: list[float]) -> Moments:
    """Return the moments of a side whose cells have these session values."""
    values = np.array([value for cell in cells for value in cell])
    numbers = np.array([number for number, cell in enumerate(cells) for _ in cell], dtype=np.int64)
    return moments(values, numbers, len(cells))


def judged(made: Differences, *, lower_is_better: bool = True) -> effects.Effects:
    return effects.effects(made, MARGIN, lower_is_better=lower_is_better)


def verdicts(made: Differences, *, lower_is_better: bool = True) -> list[Verdict]:
    return [Verdict(v) for v in judged(made, lower_is_better=lower_is_better).verdict.tolist()]


QUIET = [0.999, 1.0, 1.001]


def times(factor: float) -> list[float]:
    return [factor * value for value in QUIET]


@pytest.mark.parametrize(
    ("factor", "lower", "verdict"),
    [
        (1.05, True, Verdict.WORSE),
        (0.95, True, Verdict.BETTER),
        (1.05, False, Verdict.BETTER),
        (0.95, False, Verdict.WORSE),
        (1.001, True, Verdict.SAME),
        (1.015, True, Verdict.SAME),
        (1.02, True, Verdict.UNCLEAR),
    ],
)
def test_each_verdict(factor: float, lower: bool, verdict: Verdict) -> None:
    made = effects.unpaired(side(QUIET), side(times(factor)))

    assert verdicts(made, lower_is_better=lower) == [verdict]


def test_a_plain_interval_is_that_of_welch() -> None:
    baseline, candidate = [1.0, 1.02, 0.97, 1.01], [1.1, 1.3, 1.2]

    seen = judged(effects.unpaired(side(baseline), side(candidate)))

    test = scipy_stats.ttest_ind(np.log(candidate), np.log(baseline), equal_var=False)
    interval = test.confidence_interval(0.95)
    assert seen.p[0] == pytest.approx(test.pvalue)
    assert np.log([seen.low[0], seen.high[0]]) == pytest.approx([interval.low, interval.high])


def test_a_plain_paired_interval_is_that_of_student() -> None:
    ratios = [1.02, 1.05, 1.01, 1.04]

    seen = judged(effects.paired(side(ratios)))

    test = scipy_stats.ttest_1samp(np.log(ratios), 0.0)
    interval = test.confidence_interval(0.95)
    assert seen.p[0] == pytest.approx(test.pvalue)
    assert np.log([seen.low[0], seen.high[0]]) == pytest.approx([interval.low, interval.high])


def test_probabilities_are_adjusted_as_scipy_does() -> None:
    p = np.random.default_rng(0).uniform(size=50) ** 2
    p[[3, 17]] = np.nan

    adjusted = effects.benjamini_hochberg(p)

    known = np.isfinite(p)
    assert adjusted[known] == pytest.approx(scipy_stats.false_discovery_control(p[known]))
    assert np.isnan(adjusted[~known]).all()


def test_one_session_is_never_different() -> None:
    made = effects.unpaired(side([1.0], QUIET), side([9.0], [9.0]))

    seen = judged(made)

    assert seen.verdict.tolist() == [Verdict.UNCLEAR, Verdict.UNCLEAR]
    assert np.isnan([*seen.low, *seen.high, *seen.p, *seen.needed]).all()
    assert seen.noise.tolist() == [Noise.NONE, Noise.NONE]


def test_a_calibration_gives_one_session_an_interval_and_leaves_the_others() -> None:
    made = effects.unpaired(side([1.0], QUIET), side([1.1], times(1.1)))

    seen = judged(effects.calibrated(made, np.array([1e-4, 1.0]), np.array([100.0, 100.0])))

    # sd of the difference: sqrt(2) x 1 % = 1.41 %, x t(0.975, 100) = 1.984: 2.81 % around log 1.1
    assert seen.noise.tolist() == [Noise.CALIBRATED, Noise.OWN]
    assert np.log(seen.high[0] / seen.ratio[0]) == pytest.approx(0.0281, abs=1e-4)
    assert seen.verdict.tolist() == [Verdict.WORSE, Verdict.WORSE]


def test_values_that_never_vary_differ_if_they_differ_at_all() -> None:
    made = effects.unpaired(side([1.0] * 3, [1.0] * 3), side([1.1] * 3, [1.0] * 3))

    seen = judged(made)

    assert seen.verdict.tolist() == [Verdict.WORSE, Verdict.SAME]
    assert seen.p.tolist() == [0.0, 1.0]


def test_an_empty_table_has_no_verdicts() -> None:
    assert verdicts(effects.unpaired(side(), side())) == []


def test_a_moderated_cell_rests_on_the_others() -> None:
    rng = np.random.default_rng(4)
    cells = [list(np.exp(rng.normal(0, 0.01, 3))) for _ in range(40)]
    alone = effects.unpaired(side(*cells[:5]), side(*cells[20:25]))

    together = effects.unpaired(side(*cells[:20]), side(*cells[20:]))

    assert set(alone.noise.tolist()) == {Noise.OWN}
    assert set(together.noise.tolist()) == {Noise.SHARED}
    assert (together.dof > 4).all()


def test_the_sessions_needed_decide_as_often_as_they_promise() -> None:
    made = effects.unpaired(side([0.97, 1.0, 1.03]), side(times(1.05)))
    needed = int(judged(made).needed[0])
    spread, d = float(np.sqrt(made.variance[0] / 2)), float(made.d[0])
    rng = np.random.default_rng(5)

    decided = np.mean(
        [
            verdicts(
                effects.unpaired(
                    side(list(np.exp(rng.normal(0, spread, needed)))),
                    side(list(np.exp(rng.normal(d, spread, needed)))),
                )
            )
            == [Verdict.WORSE]
            for _ in range(400)
        ]
    )

    assert needed > 3
    assert 0.7 < decided < 0.92


# -- the geometric mean ------------------------------------------------------------------------------


def test_a_round_that_is_slow_for_all_cells_widens_the_mean_and_not_by_the_number_of_cells() -> (
    None
):
    rng = np.random.default_rng(6)
    inside, widths = 0, []
    for _ in range(2000):
        shared = rng.normal(0, 0.01, (2, 1, 5))
        y = shared + rng.normal(0, 0.002, (2, 30, 5))
        seen = overall.overall(*_of(y))
        inside += seen.low <= 1 <= seen.high
        widths.append(seen.high / seen.ratio - 1)

    assert 0.935 < inside / 2000 < 0.965
    assert np.mean(widths) > 0.01  # 30 cells taken for independent would give 0.0035


def _of(y: np.ndarray) -> tuple[np.ndarray, tuple[overall.Residuals, ...]]:
    cells, rounds = np.divmod(np.arange(y[0].size), y.shape[2])
    means = y.mean(axis=2)
    around = (
        overall.residuals(half.ravel(), cells, rounds, mean)
        for half, mean in zip(y, means, strict=True)
    )
    return means[1] - means[0], tuple(around)


def test_one_round_gives_the_mean_no_interval() -> None:
    seen = overall.overall(*_of(np.zeros((2, 4, 1))))

    assert seen.ratio == 1.0
    assert np.isnan([seen.low, seen.high]).all()


# -- promises, by simulation; `scripts/bench-self compare` draws more tables ------------------------------


@pytest.mark.parametrize("paired", [False, True])
def test_a_table_without_a_change_has_none_called(paired: bool) -> None:
    for alike in (None, 4):
        for sessions in (3, 5):
            setting = Setting(changed=0, sessions=sessions, alike=alike, paired=paired)
            assert simulate(setting, 200).false <= 0.1


@pytest.mark.parametrize(("sessions", "least"), [(3, 6.0), (5, 9.5)])
@pytest.mark.parametrize("paired", [False, True])
def test_true_changes_are_found(sessions: int, least: float, paired: bool) -> None:
    seen = simulate(Setting(sessions=sessions, paired=paired), 100)

    assert seen.found >= least
    assert seen.false <= 0.1


@pytest.mark.parametrize("sessions", [3, pytest.param(5, marks=pytest.mark.slow), 10])
@pytest.mark.parametrize("alike", [None, 4])
@pytest.mark.parametrize(("cells", "tables"), [(120, 100), (8, 1500)])
def test_intervals_hold_the_truth_as_often_as_they_say(
    sessions: int, alike: int | None, cells: int, tables: int
) -> None:
    for paired in (False, True):
        setting = Setting(cells, 2, sessions, alike=alike, paired=paired)
        assert 0.93 <= simulate(setting, tables).coverage <= 0.97


@pytest.mark.parametrize(("reach", "verdict"), [(0.99, Verdict.SAME), (1.01, Verdict.UNCLEAR)])
def test_same_means_that_the_90_percent_interval_lies_within_the_margin(
    reach: float, verdict: Verdict
) -> None:
    # n sessions of one ratio each: y = +-s, so that the 90 % interval reaches just inside or outside the margin.
    n = 6
    wanted = reach * np.log1p(MARGIN) / scipy_stats.t.ppf(0.95, n - 1) * np.sqrt(n)
    s = wanted * np.sqrt((n - 1) / n)

    made = effects.paired(side([float(np.exp(s)), float(np.exp(-s))] * (n // 2)))

    assert verdicts(made) == [verdict]
