"""What every interval, ratio and verdict keeps to, whatever the numbers: scale, order, swapping of sides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llmbench.stats import effects, interval, intervals, shrinkage
from llmbench.stats.effects import Differences, Verdict
from llmbench.stats.interval import Interval
from llmbench.stats.shrinkage import Prior

if TYPE_CHECKING:
    from llmbench.stats.intervals import Moments

POSITIVE = st.floats(1e-6, 1e6)
FACTOR = st.floats(1e-3, 1e3)
SESSIONS = st.lists(POSITIVE, min_size=2, max_size=8)
NO_VALUE = st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf])
SWAPPED = {
    Verdict.WORSE: Verdict.BETTER,
    Verdict.BETTER: Verdict.WORSE,
    Verdict.SAME: Verdict.SAME,
    Verdict.UNCLEAR: Verdict.UNCLEAR,
}


def nearly(value: object) -> object:
    return pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True)


def cell(values: list[float], confidence: float = intervals.CONFIDENCE) -> intervals.Estimates:
    return intervals.estimates(np.array(values), np.zeros(len(values), np.int64), 1, confidence)


# -- one cell ----------------------------------------------------------------------------------------


@given(SESSIONS, FACTOR)
def test_an_interval_knows_no_unit(values: list[float], factor: float) -> None:
    one, other = cell(values), cell([factor * value for value in values])

    assert other.middle[0] == nearly(factor * one.middle[0])
    assert other.half_width[0] == nearly(one.half_width[0])


@given(SESSIONS, st.randoms(use_true_random=False))
def test_an_interval_knows_no_order(values: list[float], dice: object) -> None:
    shuffled = list(values)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]

    assert cell(shuffled).half_width[0] == nearly(cell(values).half_width[0])


@given(SESSIONS, st.lists(NO_VALUE))
def test_what_is_no_value_changes_no_interval(values: list[float], more: list[float]) -> None:
    found = cell([*more, *values])

    assert found.sessions[0] == len(values)
    assert found.middle[0] == nearly(cell(values).middle[0])
    assert found.half_width[0] == nearly(cell(values).half_width[0])


@given(SESSIONS)
def test_a_middle_lies_among_its_sessions_and_inside_its_interval(values: list[float]) -> None:
    found = cell(values)

    assert min(values) * (1 - 1e-9) <= found.middle[0] <= max(values) * (1 + 1e-9)
    assert found.half_width[0] >= 0
    assert cell(values, 0.99).half_width[0] >= found.half_width[0]


@given(st.lists(POSITIVE, min_size=1, max_size=300), st.floats(0.5, 0.999))
def test_a_percentile_is_among_its_samples_or_not_told(values: list[float], share: float) -> None:
    found = intervals.percentile(values, share)

    if len(values) * (1 - share) < 0.999 * intervals.TAIL_SAMPLES:
        assert found is None
    if found is not None:
        assert min(values) <= found <= max(values)


# -- ratios, products, slopes --------------------------------------------------------------------------


@given(SESSIONS, SESSIONS)
def test_a_ratio_the_other_way_round_is_its_inverse(a: list[float], b: list[float]) -> None:
    there, back = interval.ratio(a, b), interval.ratio(b, a)

    assert there.low <= there.value * (1 + 1e-9)
    assert there.value <= there.high * (1 + 1e-9)
    assert back.value == nearly(1 / there.value)
    if math.isfinite(there.high) and there.low > 0:
        assert (back.low, back.high) == nearly((1 / there.high, 1 / there.low))


@given(SESSIONS, FACTOR)
def test_a_ratio_knows_no_unit(values: list[float], factor: float) -> None:
    other = [1.5 * value for value in values[::-1]]

    one = interval.ratio(values, other)
    scaled = interval.ratio([factor * v for v in values], [factor * v for v in other])

    assert [*scaled] == nearly([*one])


@given(SESSIONS)
def test_a_product_of_one_is_the_cell_itself(values: list[float]) -> None:
    assert [*interval.product([(1.0, values)])] == nearly([*interval.around(values)])


@given(SESSIONS, st.sampled_from([-2.0, -1.0, 0.5, 2.0]))
def test_a_power_of_a_cell_has_its_interval_to_that_power(
    values: list[float], power: float
) -> None:
    found, one = interval.product([(power, values)]), interval.around(values)
    assume(math.isfinite(one.high) and one.low > 0)

    ends = sorted((one.low**power, one.high**power))
    assert [*found] == nearly([one.value**power, *ends])


@given(
    st.floats(-3, 3), st.lists(st.integers(1, 10**6), min_size=3, max_size=8, unique=True), FACTOR
)
def test_a_power_law_has_its_exponent_as_slope(power: float, x: list[int], factor: float) -> None:
    found = interval.slope(x, [factor * value**power for value in x])

    assert found.value == pytest.approx(power, abs=1e-6)
    assert found.low - 1e-6 <= power <= found.high + 1e-6


@given(SESSIONS, FACTOR)
def test_the_inverse_of_a_figure_turns_its_ends(values: list[float], factor: float) -> None:
    found = interval.around(values)
    assume(math.isfinite(found.high) and found.low > 0)

    inverse = found.over(factor)

    assert inverse.low <= inverse.value <= inverse.high
    assert inverse == nearly(
        Interval(factor / found.value, factor / found.high, factor / found.low)
    )


# -- verdicts ----------------------------------------------------------------------------------------

SIDE = st.lists(st.lists(st.floats(0.5, 2), min_size=1, max_size=5), min_size=1, max_size=14)
PAIR = SIDE.flatmap(
    lambda cells: st.tuples(
        st.just(cells),
        st.lists(
            st.lists(st.floats(0.5, 2), min_size=1, max_size=5),
            min_size=len(cells),
            max_size=len(cells),
        ),
    )
)


def side(cells: list[list[float]], factor: float = 1.0) -> Moments:
    values = np.array([factor * value for one in cells for value in one])
    numbers = np.array([number for number, one in enumerate(cells) for _ in one], dtype=np.int64)
    return intervals.moments(values, numbers, len(cells))


def judged(made: Differences, margin: float = 0.02, *, lower: bool = True) -> effects.Effects:
    return effects.effects(made, margin, lower_is_better=lower)


@given(PAIR)
def test_swapped_sides_have_the_opposite_verdict(
    pair: tuple[list[list[float]], list[list[float]]],
) -> None:
    a, b = map(side, pair)

    there, back = judged(effects.unpaired(a, b)), judged(effects.unpaired(b, a))

    assert back.ratio == nearly(1 / there.ratio)
    assert back.p == nearly(there.p)
    assert [SWAPPED[Verdict(v)] for v in there.verdict] == [Verdict(v) for v in back.verdict]


@given(PAIR)
def test_what_is_worse_low_is_better_high(
    pair: tuple[list[list[float]], list[list[float]]],
) -> None:
    made = effects.unpaired(*map(side, pair))

    low, high = judged(made), judged(made, lower=False)

    assert [SWAPPED[Verdict(v)] for v in low.verdict] == [Verdict(v) for v in high.verdict]


@given(PAIR, FACTOR)
def test_verdicts_know_no_unit(
    pair: tuple[list[list[float]], list[list[float]]], factor: float
) -> None:
    one = judged(effects.unpaired(*map(side, pair)))
    other = judged(effects.unpaired(*(side(cells, factor) for cells in pair)))

    assert other.ratio == nearly(one.ratio)
    assert other.p == pytest.approx(one.p, rel=1e-3, abs=1e-6, nan_ok=True)


@given(PAIR, st.floats(0.0, 0.5))
def test_a_verdict_stands_on_its_interval(
    pair: tuple[list[list[float]], list[list[float]]], margin: float
) -> None:
    made = effects.unpaired(*map(side, pair))

    seen = judged(made, margin)

    for number, verdict in enumerate(map(Verdict, seen.verdict)):
        low, high, ratio = seen.low[number], seen.high[number], seen.ratio[number]
        if made.single[number]:
            assert verdict is Verdict.UNCLEAR
        elif verdict is Verdict.WORSE:
            assert low >= (1 + margin) * (1 - 1e-9)
        elif verdict is Verdict.BETTER:
            assert high <= (1 + 1e-9) / (1 + margin)
        elif verdict is Verdict.SAME:
            assert 1 / (1 + margin) <= ratio * (1 + 1e-9)
            assert ratio <= (1 + margin) * (1 + 1e-9)


@given(PAIR, st.floats(0.0, 0.2), st.floats(0.0, 0.2))
def test_a_wider_margin_calls_nothing_more_different(
    pair: tuple[list[list[float]], list[list[float]]], margin: float, more: float
) -> None:
    made = effects.unpaired(*map(side, pair))

    narrow, wide = judged(made, margin).verdict, judged(made, margin + more).verdict

    assert set(np.flatnonzero(wide <= Verdict.BETTER)) <= set(
        np.flatnonzero(narrow <= Verdict.BETTER)
    )


@given(SIDE)
def test_a_side_is_never_different_from_itself(cells: list[list[float]]) -> None:
    seen = judged(effects.unpaired(side(cells), side(cells)))

    assert (seen.verdict >= Verdict.SAME).all()
    assert seen.ratio == nearly(np.ones(len(cells)))


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=1, max_size=30))
def test_an_adjusted_probability_is_no_smaller_and_keeps_the_order(p: list[float]) -> None:
    given_p = np.array(p)

    adjusted = effects.benjamini_hochberg(given_p)

    known = np.isfinite(given_p)
    assert (np.isfinite(adjusted) == known).all()
    assert (adjusted[known] >= given_p[known] * (1 - 1e-12)).all()
    assert (adjusted[known] <= 1).all()
    assert (np.diff(adjusted[known][np.argsort(given_p[known], kind="stable")]) >= 0).all()


# -- moderation --------------------------------------------------------------------------------------

VARIANCES = arrays.arrays(np.float64, st.integers(10, 30), elements=st.floats(1e-8, 1e2))


@given(VARIANCES, st.integers(1, 9), st.floats(1e-3, 1e3))
def test_a_prior_knows_no_unit(variances: np.ndarray, dof: int, factor: float) -> None:
    one = shrinkage.prior(variances, np.full(len(variances), float(dof)))
    other = shrinkage.prior(factor * variances, np.full(len(variances), float(dof)))

    assert one is not None
    assert other is not None
    assert other.dof == pytest.approx(one.dof, rel=1e-3)
    assert other.variance == pytest.approx(factor * one.variance, rel=1e-3)


@given(VARIANCES, st.integers(1, 9), st.floats(1e-6, 1e2), st.floats(0.1, 1e3))
def test_a_variance_is_drawn_towards_the_common_one_and_never_past_it(
    variances: np.ndarray, dof: int, common: float, d0: float
) -> None:
    own = np.full(len(variances), float(dof))

    drawn, together = shrinkage.moderated(variances, own, Prior(common, d0))

    assert (drawn >= np.minimum(variances, common) * (1 - 1e-9)).all()
    assert (drawn <= np.maximum(variances, common) * (1 + 1e-9)).all()
    assert (together >= own).all()
    assert (together <= own.sum()).all()


@given(st.floats(-7, 7), st.floats(0.01, 2))
def test_the_inverse_of_trigamma_falls(exponent: float, more: float) -> None:
    x = 10**exponent

    assert shrinkage.trigamma_inverse(x) > shrinkage.trigamma_inverse(x * (1 + more)) > 0
