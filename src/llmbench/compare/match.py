"""Matching of the cells of two sides, with the reason for each cell that has no match."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray  # noqa: TC002

from llmbench.compare.sides import FORMS, key_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from llmbench.compare.sides import KeyForm, Side
    from llmbench.spec.sweep import Point
    from llmbench.stats.intervals import Integers, Reals

Lacking = Literal["baseline", "candidate", "both"]

ELSEWHERE = {
    "load_format": "the other side uses other weights",
    "attached_digest": "the other side has drafts or adapters of this name with other weights, or no record of them",
    "input_lens": "the other side has prompts of other lengths, drawn or read in the same way",
    "model_digest": "the other side has a model of this name with another configuration or other weights",
}
"""Axes that a table does not show, and the reason given for cells that differ only in them."""


class Missing(NamedTuple):
    """Cells that could not be compared: the side without a number, the reason, and the cells."""

    lacking: Lacking
    reason: str
    cells: tuple[Point, ...]


class Match(NamedTuple):
    """The indices of matched cells on each side, and the unmatched cells."""

    baseline: Integers
    candidate: Integers
    missing: tuple[Missing, ...]


class ComparedSessions(NamedTuple):
    """The compared sessions of one side: value, index of the matched pair, round, and whether other work was seen."""

    values: Reals
    pairs: Integers
    rounds: Integers
    disturbed: NDArray[np.bool_]


def match(baseline: Side, candidate: Side, factor: str | None) -> Match:
    """Return the cells that agree in everything but the factor, and have a number on both sides.

    Options that mean nothing without the factor differ freely, unless a side then has several cells in one place. Where
    it has several all the same, those whose weights are quantised alike belong together.
    """
    for form in FORMS:
        left, right = (_by_key(side, factor, form) for side in (baseline, candidate))
        if all(len(numbers) == 1 for side in (left, right) for numbers in side.values()):
            break
    has = _measured(baseline), _measured(candidate)
    why = _Why(baseline, candidate, factor)
    pairs = []
    groups: defaultdict[tuple[Lacking, str], list[Point]] = defaultdict(list)
    for key in dict.fromkeys((*left, *right)):
        a, b = left.get(key, ()), right.get(key, ())
        if len(a) == len(b) == 1 and has[0][a[0]] and has[1][b[0]]:
            pairs.append((a[0], b[0]))
            continue
        cells = [baseline.cells[number] for number in a] or [candidate.cells[n] for n in b]
        groups[why(a, b, has)].extend(cells)
    numbers = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    missing = (
        Missing(lacking, reason, tuple(cells)) for (lacking, reason), cells in groups.items()
    )
    return Match(numbers[:, 0], numbers[:, 1], tuple(sorted(missing, key=lambda m: -len(m.cells))))


def compared_sessions(side: Side, numbers: Integers) -> ComparedSessions:
    """Return the sessions of these cells that have a value."""
    pair_of = np.full(len(side.cells), -1)
    pair_of[numbers] = np.arange(len(numbers))
    pairs = pair_of[side.owners]
    kept = (pairs >= 0) & np.isfinite(side.values) & (side.values > 0)
    return ComparedSessions(side.values[kept], pairs[kept], side.rounds[kept], side.disturbed[kept])


def in_both(
    baseline: Side, candidate: Side, matched: Match
) -> tuple[Match, tuple[ComparedSessions, ComparedSessions]]:
    """Return the cells that have a round with both sides in it, and those sessions, in the same order."""
    sides = _aligned(
        compared_sessions(baseline, matched.baseline),
        compared_sessions(candidate, matched.candidate),
    )
    shared = np.bincount(sides[0].pairs, minlength=len(matched.baseline)) > 0
    if shared.all():
        return matched, sides
    apart = tuple(baseline.cells[number] for number in matched.baseline[~shared])
    missing = (
        *matched.missing,
        Missing("both", "measured on both sides, but never in the same round", apart),
    )
    kept = Match(matched.baseline[shared], matched.candidate[shared], missing)
    sides = _aligned(
        compared_sessions(baseline, kept.baseline), compared_sessions(candidate, kept.candidate)
    )
    return kept, sides


def _aligned(
    baseline: ComparedSessions, candidate: ComparedSessions
) -> tuple[ComparedSessions, ComparedSessions]:
    most = 1 + max(
        (int(side.rounds.max()) for side in (baseline, candidate) if len(side.rounds)), default=0
    )
    _, left, right = np.intersect1d(
        baseline.pairs * most + baseline.rounds,
        candidate.pairs * most + candidate.rounds,
        return_indices=True,
    )
    return _picked(baseline, left), _picked(candidate, right)


def _picked(side: ComparedSessions, which: Integers) -> ComparedSessions:
    return ComparedSessions(
        side.values[which], side.pairs[which], side.rounds[which], side.disturbed[which]
    )


def _by_key(side: Side, factor: str | None, form: KeyForm) -> Mapping[Hashable, Sequence[int]]:
    numbers: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number, cell in enumerate(side.cells):
        numbers[key_of(cell, factor, form)].append(number)
    return numbers


def _measured(side: Side) -> list[bool]:
    """Return whether each cell has a value of the metric, in no session 0."""
    kept, zero = np.isfinite(side.values) & (side.values > 0), side.values == 0
    some, none = (
        np.bincount(side.owners[which], minlength=len(side.cells)) for which in (kept, zero)
    )
    measured: list[bool] = ((some > 0) & (none == 0)).tolist()
    return measured


class _Why:
    """Finds the reason why cells have no match; reads the other side only when needed."""

    def __init__(self, baseline: Side, candidate: Side, factor: str | None) -> None:
        """Keep the sides."""
        self.sides, self.factor = (baseline, candidate), factor
        self._valid = tuple(set(side.owners.tolist()) for side in self.sides)
        self._seen: dict[tuple[int, str], set[Hashable]] = {}

    def __call__(
        self, a: Sequence[int], b: Sequence[int], has: tuple[list[bool], list[bool]]
    ) -> tuple[Lacking, str]:
        """Return the side without a number, and why."""
        if max(len(a), len(b)) > 1:
            return (
                "both",
                f"ambiguous: {max(len(a), len(b))} cells on one side differ only in settings not compared here",
            )
        if not b:
            return "candidate", self._absent(self.sides[0].cells[a[0]], 1)
        if not a:
            return "baseline", self._absent(self.sides[1].cells[b[0]], 0)
        if has[0][a[0]]:
            return "candidate", self._without(1, b[0])
        if has[1][b[0]]:
            return "baseline", self._without(0, a[0])
        return "both", self._without(0, a[0])

    def _absent(self, cell: Point, side: int) -> str:
        if self.factor is None:
            for axis, words in ELSEWHERE.items():
                if key_of(cell, axis) in self._keys(side, axis):
                    return words
        return "not planned on this side"

    def _keys(self, side: int, axis: str) -> set[Hashable]:
        if (side, axis) not in self._seen:
            self._seen[side, axis] = {key_of(cell, axis) for cell in self.sides[side].cells}
        return self._seen[side, axis]

    def _without(self, side: int, number: int) -> str:
        of = self.sides[side]
        if (of.values[of.owners == number] == 0).any():
            return "is 0 in a session, of which there is no ratio"
        if number in self._valid[side]:
            return "has no value of this metric"
        return of.failed.get(of.cells[number].id, "not measured yet")
