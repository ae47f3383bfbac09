"""Comparison of two sides, cell by cell: ratios, intervals, verdicts, and cells that could not be compared.

A comparison that would mislead is refused in one line. One with caveats gets a notice for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray  # noqa: TC002

from llmbench.compare import confounds
from llmbench.compare.match import compared_sessions, in_both, match
from llmbench.compare.sides import levels
from llmbench.errors import NotComparable
from llmbench.results.aggregate import DISTURBED_SHARE
from llmbench.stats import effects
from llmbench.stats.intervals import moments
from llmbench.stats.overall import Overall, overall, residuals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.compare.confounds import CompareOptions
    from llmbench.compare.match import ComparedSessions, Match, Missing
    from llmbench.compare.sides import Side
    from llmbench.results.metrics import Metric
    from llmbench.spec.sweep import Point
    from llmbench.stats.effects import Differences, Effects
    from llmbench.stats.intervals import Integers, Reals

Words: TypeAlias = "dict[effects.Verdict, str]"


BUSY = (
    "Cells are not called different if most of their sessions ran while other processes were busy; measure "
    "them again on a quiet machine, or in turn with llmbench builds, or in one sweep and use llmbench compare --by."
)
ALONE = (
    "A cell with a single session on either side is never called different, because one session does not "
    "show how much sessions vary."
)


class Contrast(NamedTuple):
    """One candidate compared with the baseline, with one row per cell that has a number on both sides.

    Attributes:
        name: the candidate's.
        cells: the baseline's cells.
        middles: the metric on each side, the geometric mean of its sessions.
        sessions: the number behind each middle.
        paired: whether sessions of the same round are compared with each other.
        effects: ratios and verdicts.
        disturbed: whether a difference may come from other work on the machine.
        overall: the geometric mean of the ratios.
        missing: the cells without a number on one side, and why.
        notices: caveats of the comparison.

    """

    name: str
    cells: tuple[Point, ...]
    middles: tuple[Reals, Reals]
    sessions: tuple[Integers, Integers]
    paired: bool
    effects: Effects
    disturbed: NDArray[np.bool_]
    overall: Overall
    missing: tuple[Missing, ...]
    notices: tuple[str, ...]


class Comparison(NamedTuple):
    """All candidates compared with one baseline; probabilities are adjusted over all of them together.

    `notices` are common to all contrasts and not repeated in each.
    """

    asked: CompareOptions
    baseline: str
    contrasts: tuple[Contrast, ...]
    notices: tuple[str, ...]


class Gate(NamedTuple):
    """What a comparison must not contain.

    Attributes:
        failing: the verdicts that fail, `missing` among them; empty if nothing does.
        allow_missing: whether cells without a number leave it decided.

    """

    failing: frozenset[object] = frozenset()
    allow_missing: bool = False


class _Draft(NamedTuple):
    """A contrast whose probabilities are not yet adjusted together with the others'."""

    candidate: Side
    matched: Match
    sides: tuple[ComparedSessions, ComparedSessions]
    made: Differences
    whole: Overall
    paired: bool
    disturbed: NDArray[np.bool_]
    notices: tuple[str, ...]


def runs(sides: Sequence[Side], asked: CompareOptions) -> Comparison:
    """Compare every other run with the first; raise NotComparable for one that cannot be compared."""
    return _compared(sides[0], sides[1:], asked)


def within(side: Side, asked: CompareOptions) -> Comparison:
    """Compare every other value of the factor with its first, session by session of the same round.

    Raises:
        SpecError: the run has no such factor, or only one value of it.
        NotComparable: its values cannot be compared.

    """
    assert asked.factor is not None
    if asked.factor == "load_format":
        raise NotComparable(f"{side.name}: {confounds.WEIGHTS}")
    first, *others = levels(side, asked.factor)
    return _compared(first, others, asked)


def words(metric: Metric) -> Words:
    """Return the words for a metric's verdicts: more or less for memory, slower or faster for all others."""
    worse, better = ("more", "less") if metric.unit.word == "MiB" else ("slower", "faster")
    verdict = effects.Verdict
    return {
        verdict.WORSE: worse,
        verdict.BETTER: better,
        verdict.SAME: "same",
        verdict.UNCLEAR: "unclear",
    }


def _compared(baseline: Side, candidates: Sequence[Side], asked: CompareOptions) -> Comparison:
    drafts = [_draft(baseline, candidate, asked) for candidate in candidates]
    columns = zip(*(draft.made for draft in drafts), strict=True)
    together = effects.effects(
        effects.Differences(*map(np.concatenate, columns)),
        asked.margin,
        lower_is_better=asked.metric.better != "higher",
    )
    ends = np.cumsum([len(draft.made.d) for draft in drafts])[:-1]
    apart = zip(*(np.split(column, ends) for column in together), strict=True)
    notices = [n for n in drafts[0].notices if all(n in draft.notices for draft in drafts)]
    contrasts = (
        _contrast(baseline, draft, effects.Effects(*rows), notices)
        for draft, rows in zip(drafts, apart, strict=True)
    )
    return Comparison(asked, baseline.name, tuple(contrasts), tuple(notices))


def _draft(baseline: Side, candidate: Side, asked: CompareOptions) -> _Draft:
    matched = match(baseline, candidate, asked.factor)
    confounds.refuse(baseline, candidate, matched, asked)
    made, sides, whole = _unpaired(baseline, candidate, matched)
    notices = list(dict.fromkeys(confounds.notices(baseline, candidate, asked)))
    notices += confounds.quality(baseline, candidate, matched)
    notices += confounds.apart(baseline, candidate, matched, asked.factor)
    paired = asked.factor is not None or confounds.in_turn(baseline, candidate)
    if paired:
        before = sum(len(side.values) for side in sides)
        matched, sides = in_both(baseline, candidate, matched)
        made, whole = _paired(sides, len(matched.baseline))
        if alone := before - sum(len(side.values) for side in sides):
            have = "session has" if alone == 1 else "sessions have"
            notices.append(f"{alone} {have} no counterpart in the same round; not compared.")
    elif confounds.same(baseline, candidate):
        made, whole = _nothing(made)
    if asked.calibration:
        cells = [baseline.cells[number] for number in matched.baseline]
        made = effects.calibrated(made, *asked.calibration.of(asked.metric.key, cells))
        if (made.noise == effects.Noise.CALIBRATED).any():
            notices.append(asked.calibration.label())
    if made.single.any():
        notices.append(ALONE)
    disturbed = _disturbed(sides, len(made.d)) & (not paired)
    if disturbed.any():
        notices.append(BUSY)
    return _Draft(candidate, matched, sides, made, whole, paired, disturbed, tuple(notices))


def _unpaired(
    baseline: Side, candidate: Side, matched: Match
) -> tuple[Differences, tuple[ComparedSessions, ComparedSessions], Overall]:
    """Return the differences of sides whose sessions are independent."""
    count = len(matched.baseline)
    sides = (
        compared_sessions(baseline, matched.baseline),
        compared_sessions(candidate, matched.candidate),
    )
    left, right = (moments(side.values, side.pairs, count) for side in sides)
    around = tuple(
        residuals(np.log(side.values), side.pairs, side.rounds, of.mean)
        for side, of in zip(sides, (left, right), strict=True)
    )
    return effects.unpaired(left, right), sides, overall(right.mean - left.mean, around)


def _paired(
    sides: tuple[ComparedSessions, ComparedSessions], count: int
) -> tuple[Differences, Overall]:
    """Return the differences of sides measured in the same rounds."""
    left, right = sides
    ratios = right.values / left.values
    of = moments(ratios, left.pairs, count)
    around = residuals(np.log(ratios), left.pairs, left.rounds, of.mean)
    return effects.paired(of), overall(of.mean, (around,))


def _nothing(made: Differences) -> tuple[Differences, Overall]:
    """Return the differences of measurements from themselves, which are exactly zero."""
    zeros = np.zeros_like(made.d)
    own = np.full_like(made.noise, effects.Noise.OWN)
    certain = made._replace(d=zeros, variance=zeros, dof=zeros + 1, single=zeros > 0, noise=own)
    return certain, Overall(1.0, 1.0, 1.0, len(zeros))


def _contrast(baseline: Side, draft: _Draft, judged: Effects, notices: Sequence[str]) -> Contrast:
    count = len(draft.matched.baseline)
    left, right = (moments(side.values, side.pairs, count) for side in draft.sides)
    disturbed = draft.disturbed & (judged.verdict <= effects.Verdict.BETTER)
    return Contrast(
        name=draft.candidate.name,
        cells=tuple(baseline.cells[number] for number in draft.matched.baseline),
        middles=(np.exp(left.mean), np.exp(right.mean)),
        sessions=(left.n, right.n),
        paired=draft.paired,
        effects=judged._replace(
            verdict=np.where(disturbed, effects.Verdict.UNCLEAR, judged.verdict)
        ),
        disturbed=disturbed,
        overall=draft.whole,
        missing=draft.matched.missing,
        notices=tuple(notice for notice in draft.notices if notice not in notices),
    )


def _disturbed(sides: tuple[ComparedSessions, ComparedSessions], count: int) -> NDArray[np.bool_]:
    """Return whether most of a cell's sessions on either side ran while other processes were busy."""
    shares = []
    for side in sides:
        sessions = np.bincount(side.pairs, minlength=count)
        beside = np.bincount(side.pairs, weights=side.disturbed, minlength=count)
        shares.append(beside > DISTURBED_SHARE * sessions)
    return shares[0] | shares[1]
