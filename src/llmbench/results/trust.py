"""How far the numbers of a run can be trusted: one verdict over all its cells, with the reasons."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from llmbench.numbers import MOST_SYMMETRIC, plural
from llmbench.results.aggregate import DISTURBED_SHARE, DISTURBING, UNSETTLED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.results.aggregate import Tally
    from llmbench.results.table import Integers, Numbers, Reals, RunProgress

Verdict: TypeAlias = Literal["trust", "with care", "measure again"]

WIDER_THAN_VALUE = (5**0.5 - 1) / 2
"""The relative half-width w above which an interval is wider than its value: 1 + w - 1 / (1 + w) = 1."""


class Trust(NamedTuple):
    """The verdict, a clause for each reason, and whether other work is all that asks to measure again."""

    verdict: Verdict
    reasons: tuple[str, ...]
    only_disturbed: bool = False


def verdict_on(
    tally: Tally,
    owners: Integers,
    e2e: Numbers | None,
    progress: RunProgress,
    *,
    rounds_differ: bool,
) -> Trust | None:
    """Return the verdict on a run; None if nothing has ended yet.

    Args:
        tally: the run's records.
        owners: the number of the cell that each valid session is of.
        e2e: the end-to-end times of all cells; None if no session has one.
        progress: the sessions, counted.
        rounds_differ: whether rounds differ by more than chance allows.

    """
    if not progress.ended:
        return None
    valid = np.bincount(owners, minlength=len(tally.cells))
    widths = e2e.half_width[np.isfinite(e2e.half_width)] if e2e else np.zeros(0)
    disturbed = _disturbed(tally, owners, valid)
    if worthless := tuple(_worthless(tally, valid, widths, disturbed)):
        only_disturbed = len(worthless) == 1 and 0 < disturbed == int((valid > 0).sum())
        reasons = (*worthless, *_incomplete(progress, valid))
        return Trust("measure again", reasons, only_disturbed=only_disturbed)
    doubts = (
        *_doubts(tally, valid, widths, disturbed),
        *(["rounds differ more than chance allows"] if rounds_differ else ()),
        *_incomplete(progress, valid),
    )
    if doubts:
        return Trust("with care", doubts)
    return Trust(
        "trust", (f"the 95 % intervals of end-to-end times are within ±{widths.max():.1%}",)
    )


def _disturbed(tally: Tally, owners: Integers, valid: Integers) -> int:
    """Return in how many cells most sessions ran while other work was seen on the machine."""
    sessions = np.bincount(owners, weights=tally.disturbed or None, minlength=len(valid))
    return int((sessions > DISTURBED_SHARE * valid).sum())


def _worthless(tally: Tally, valid: Integers, widths: Reals, disturbed: int) -> Iterator[str]:
    """Yield why the whole run says nothing."""
    measured = int((valid > 0).sum())
    if not measured:
        yield "no cell has a number"
        return
    if len(widths) and (widths > WIDER_THAN_VALUE).all():
        yield "every interval is wider than its value"
    if disturbed == measured:
        yield f"other work on the machine disturbed every cell ({_codes(tally, DISTURBING)})"


def _doubts(tally: Tally, valid: Integers, widths: Reals, disturbed: int) -> Iterator[str]:
    """Yield why some of the numbers say less than the others."""
    measured = plural(int((valid > 0).sum()), "cell")
    if wide := int((widths > MOST_SYMMETRIC).sum()):
        yield f"{wide:,} of {plural(len(widths), 'end-to-end interval')} above ±{MOST_SYMMETRIC:.0%}"
    if alone := int((valid > 0).sum()) - len(widths):
        yield f"{alone:,} of {measured} without an interval, which takes two sessions"
    if disturbed:
        yield f"{disturbed:,} of {measured} disturbed by other work ({_codes(tally, DISTURBING)})"
    pairs = zip(tally.cells, valid.tolist(), strict=True)
    if unsettled := sum(_mostly(tally.warnings.get(cell.id), count) for cell, count in pairs):
        yield f"{unsettled:,} of {measured} without a steady speed ({_codes(tally, UNSETTLED)})"


def _mostly(codes: Counter[str] | None, valid: int) -> bool:
    """Return whether most sessions of a cell have the same warning about their speed."""
    return any(codes[code] > DISTURBED_SHARE * valid for code in UNSETTLED) if codes else False


def _codes(tally: Tally, of_kind: frozenset[str]) -> str:
    """Return the warnings of a kind, with the number of sessions that have each."""
    totals: Counter[str] = Counter()
    for codes in tally.warnings.values():
        totals.update({code: count for code, count in codes.items() if code in of_kind})
    return ", ".join(f"{code} {count:,}" for code, count in sorted(totals.items()))


def _incomplete(progress: RunProgress, valid: Integers) -> Iterator[str]:
    """Yield what has no number."""
    if progress.failed:
        yield f"{plural(progress.failed, 'session')} failed"
    if progress.invalid:
        yield f"{plural(progress.invalid, 'session')} invalid"
    if without := int((valid == 0).sum()) if valid.any() else 0:
        yield f"{without:,} of {plural(len(valid), 'cell')} without a number"
    if progress.to_come:
        yield f"{plural(progress.to_come, 'session')} still to come"
