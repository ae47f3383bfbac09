"""Numbers, coordinates and outcomes as people read them: the same in every view."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench.measure.reasons import MEANINGS
from llmbench.models.resolve import AT
from llmbench.numbers import MOST_SYMMETRIC, plural
from llmbench.redact import shown
from llmbench.report.document import ABSENT, Note, foreign
from llmbench.results.metrics import SHARES
from llmbench.results.utilization import OVERHEAD_OVER
from llmbench.spec.sweep import HEADS, NOT_SAID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from llmbench.results.aggregate import Failure
    from llmbench.results.metrics import Metric
    from llmbench.results.record import Stop
    from llmbench.results.table import Numbers, RunProgress, Table
    from llmbench.results.trust import Trust
    from llmbench.results.utilization import Words

INTERVAL = (
    "±, or (low to high) where ± would mislead: 95 % interval between sessions, Student's t on the logarithms of"
    " medians."
)
WITHIN = " Intervals hold within this run: another day or machine can differ by more."

STOPPED = {
    "planned": "{cells} at {reached} after the {sessions} sessions that {wanted} was planned to take",
    "interval": "{cells} within {wanted} after {sessions} sessions",
    "maximum": "{cells} at {reached} after {sessions} sessions, the most allowed (max_sessions)",
    "budget": "{cells} at {reached} after {sessions} sessions, when budget_s was spent",
}
"""The sentence about the cells that stopped for each reason; failed ones have a section of their own."""
WIDEST = 9.0
"""The ends of an interval that reaches more than ten times its value are no figures to read."""
SPREAD_DIGITS, MOST_DIGITS, PLAIN_DIGITS = 2, 5, 4
"""Digits shown of a spread and of a value that may be off by more than itself, at most of a value with a spread, and
of one without."""
BOUND_BY = (
    "bound by: what takes longer at its ceiling, operations (compute) or bytes (bandwidth); overhead where the"
    f" measured time is over {OVERHEAD_OVER:g} times that."
)
TRUST = {
    "trust": "Trust these numbers",
    "with care": "Take these numbers with care",
    "measure again": "Measure again",
}
"""The closing verdict on a run in words."""
TOO_WIDE = "(over 10x)"
COPIES = {
    "tiny": (
        "NAME@tiny: a scaled-down copy with two layers, not the model it is named after; its speed is not that "
        "model's."
    ),
    "small": "NAME@small: a scaled-down copy with a 64th of the parameters, not the model it is named after.",
}
"""What the ending of a model's name means, by its size."""
NAMED_CELLS = 3
"""Cells of a kind of failure that are named; the rest are counted."""


class Figures(NamedTuple):
    """The numbers of a column as shown: values, and their spreads, empty where there are none."""

    values: list[str]
    spreads: list[str]


def head(name: str) -> str:
    """Return an axis's name as the head of a column."""
    return HEADS.get(name) or shown(name)


def value_of(value: object) -> str:
    """Return one coordinate as text; what a backend's default left out is not written down."""
    return "default" if value is None else str(value)


def figures(numbers: Numbers, rows: Sequence[int]) -> Figures:
    """Return a metric's figures for these rows, in the unit that a table shows."""
    middle = numbers.middle[rows] * numbers.metric.unit.factor
    single = numbers.sessions[rows] == 1
    relative = np.where(single, numbers.spread[rows], numbers.half_width[rows])
    wide = relative > WIDEST
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.where(wide, np.nan, middle * relative)
        digits = MOST_DIGITS - 1 - np.floor(np.log10(middle))
        below = np.where(relative > MOST_SYMMETRIC, apart / (1 + relative), apart)
        wanted = SPREAD_DIGITS - 1 - np.floor(np.log10(below))
        shown_digits = np.where(wide, SPREAD_DIGITS, PLAIN_DIGITS)
        plain = shown_digits - 1 - np.floor(np.log10(middle))
    places = np.where(np.isfinite(wanted), np.minimum(wanted, digits), plain)
    places = np.where(np.isfinite(places), np.maximum(places, 0), 0).astype(int)
    decimals = places.tolist()
    columns = (middle, apart, relative, single)
    rows_of = zip(*(column.tolist() for column in columns), decimals, strict=True)
    return Figures(
        [
            _fixed(value, digits) or ABSENT
            for value, digits in zip(middle.tolist(), decimals, strict=True)
        ],
        [_spread(*row) for row in rows_of],
    )


def _spread(middle: float, apart: float, relative: float, alone: bool, places: int) -> str:  # noqa: FBT001 - a row
    """Return the interval around a value: ± while both halves are nearly alike, else its two ends."""
    if relative > WIDEST:
        return TOO_WIDE
    if math.isnan(relative):
        return ""
    half = _fixed(apart, places)
    if alone:
        return f"(±{half})"
    if relative <= MOST_SYMMETRIC:
        return f"±{half}"
    return f"({_fixed(middle / (1 + relative), places)} to {_fixed(middle + apart, places)})"


def _fixed(value: float, places: int) -> str:
    return "" if math.isnan(value) else f"{value:,.{places}f}"


def title(table: Table) -> str:
    """Return the name of the run's sweep, or of its import; without either, of its folder."""
    named = table.plan or table.imported
    return named.name if named else table.run


def origin(table: Table) -> str:
    """Return on which machine and day a run was planned; of an import the machine, if the user named it."""
    if not table.plan:
        machine = table.imported.machine if table.imported else ""
        return f"on {machine}" if machine else ""
    name = table.plan.machine.get("name")
    return f"on {name}, {table.plan.at[:10]}" if name else table.plan.at[:10]


def everywhere(table: Table) -> Iterator[Note]:
    """Yield what holds for every number, which belongs above them; nothing if nothing does."""
    if table.rows and table.everywhere:
        yield Note(f"Every number: {', '.join(map(foreign, table.everywhere))}.", "warning")


def progress(progress: RunProgress) -> str:
    """Return how many sessions stand where: `16 sessions: 12 valid, 1 failed, 3 still to come`."""
    listed = ", ".join(f"{count:,} {word}" for word, count in counts(progress).items() if count)
    again = (
        f" ({progress.interrupted} interrupted, to be run again)" if progress.interrupted else ""
    )
    return f"{plural(progress.planned, 'session')}: {listed or 'none planned'}{again}"


def trust(trust: Trust) -> Note:
    """Return the closing verdict on a run, with its reasons."""
    text = f"{TRUST[trust.verdict]}: {'; '.join(trust.reasons)}."
    return Note(text, "strong" if trust.verdict == "trust" else "warning")


def counts(progress: RunProgress) -> dict[str, int]:
    """Return the sessions by how they ended."""
    return {
        "valid": progress.valid,
        "valid with warnings": progress.warned,
        "invalid": progress.invalid,
        "failed": progress.failed,
        "still to come": progress.to_come,
    }


def constants(table: Table) -> dict[str, str]:
    """Return the coordinates that are the same in every row, by the head that their column would have."""
    said = {name: value for name, value in table.constants.items() if value != NOT_SAID}
    same = {head(name): value_of(value) for name, value in said.items()}
    if open_ones := [head(name) for name in table.constants if name not in said]:
        same["not said:"] = ", ".join(open_ones)
    return same


def repetitions(table: Table) -> str:
    """Return the sessions and iterations behind a number: `3 sessions of 5 iterations`; empty if no cell has one."""
    if not table.rows:
        return ""
    valid, (fewest, most) = table.valid[table.rows], table.iterations[:, table.rows]
    sessions = count_range(int(valid.min()), int(valid.max()), "session")
    return (
        f"{sessions} of {count_range(int(fewest.min()), int(most.max()), 'iteration')}"
        if fewest.all()
        else sessions
    )


def count_range(least: int, most: int, noun: str) -> str:
    """Return the least and the most of a count: `1 to 3 sessions`."""
    return plural(most, noun) if least == most else f"{least:,} to {plural(most, noun)}"


def repeated(table: Table) -> Iterator[Note]:
    """Yield the sessions and iterations behind each value, how far its interval holds, and what is too few."""
    if not (behind := repetitions(table)):
        return
    several = (table.valid[table.rows] > 1).any()
    yield Note(f"Each cell: {behind}.{WITHIN if several else ''}")
    single = table.iterations[0, table.rows] == 1
    if single.any():
        where = "" if single.all() else f" in {single.sum():,} of {plural(len(single), 'cell')}"
        yield Note(
            f"1 iteration a session{where}: such a value is one call's time, not a median.",
            "warning",
        )


def places(table: Table) -> Iterator[Note]:
    """Yield which boxes and GPUs measured how many cells each, where there were several."""
    counts = Counter(filter(None, table.places))
    spread = any(", " in place for place in counts)
    where = "Sessions of a cell are spread over boxes" if spread else "A cell stays on one"
    if counts:
        said = (f"{foreign(place)} ({plural(n, 'cell')})" for place, n in sorted(counts.items()))
        yield Note(f"Measured on {', '.join(said)}. {where}; two GPUs of one model differ.")


def sides(table: Table) -> list[Words]:
    """Return the columns of words that belong to shares: what held a cell back; mixed ceilings, too."""
    if not any(numbers.metric.key in SHARES for numbers in table.headline):
        return []
    same = len({*table.sides[-1].values} - {""}) == 1  # then the head of every share says it
    return list(table.sides[:-1] if same else table.sides)


def warnings(codes: Mapping[str, int], valid: int) -> str:
    """Return a row's reason codes, and in how many of its sessions if not in all."""
    return ", ".join(
        code if n == valid else f"{code} ({n} of {valid})" for code, n in codes.items()
    )


def how(failure: Failure) -> str:
    """Return how sessions ended: `oom in warmup`."""
    return f"{failure.status} in {shown(failure.phase)}" if failure.phase else str(failure.status)


def cells_of(failure: Failure, table: Table) -> Iterator[str]:
    """Yield the cells of a failure by the coordinates that vary, and the sessions if there are several."""
    ids = [cell.id for cell in table.cells]
    for name, sessions in list(failure.cells.items())[:NAMED_CELLS]:
        number = ids.index(name)
        where = ", ".join(
            f"{head(axis.name)} {value_of(axis.values[number])}" for axis in table.axes
        )
        times = f" ({sessions} sessions)" if sessions > 1 else ""
        yield (where or "the only cell") + times
    if len(failure.cells) > NAMED_CELLS:
        yield f"and {plural(len(failure.cells) - NAMED_CELLS, 'more cell')}"


def stops(table: Table) -> str:
    """Return where sessions were enough for the interval wanted, and where they ended before; empty if fixed.

    What failed has a section of its own.
    """
    settings = table.plan and table.plan.settings
    if not settings or settings.max_sessions == settings.sessions:
        return ""
    by_reason: dict[str, list[Stop]] = {reason: [] for reason in STOPPED}
    for stop in filter(None, table.stops):
        by_reason.get(stop.reason, []).append(stop)
    parts = [
        STOPPED[reason].format(
            cells=plural(len(of_reason), "cell"),
            sessions=_range([stop.sessions for stop in of_reason], "{}"),
            reached=_range([stop.half_width for stop in of_reason if stop.half_width], "±{:.1%}"),
            wanted=f"±{settings.interval_within:.1%}",
        )
        for reason, of_reason in by_reason.items()
        if of_reason
    ]
    return f"End-to-end times: {'; '.join(parts)}." if parts else ""


def _range(values: Sequence[float], form: str) -> str:
    """Return the least and the most of some values: `3 to 6`."""
    ends = dict.fromkeys(form.format(end) for end in (min(values), max(values))) if values else ()
    return " to ".join(ends) or "no interval"


def legend(table: Table) -> Iterator[str]:
    """Yield what the signs and the columns mean."""
    rows = table.rows
    yield from copies(cell.model for cell in table.cells)
    if any(np.isfinite(numbers.half_width[rows]).any() for numbers in table.headline):
        yield INTERVAL
    if any((numbers.half_width[rows] > WIDEST).any() for numbers in table.headline):
        yield f"{TOO_WIDE}: the interval reaches over ten times the value; measure on a quieter machine."
    if any(np.isfinite(numbers.spread[rows]).any() for numbers in table.headline):
        yield "(±): half the range within the only session's process; not an interval."
    if any(np.isnan(numbers.middle[rows]).any() for numbers in table.headline):
        yield f"{ABSENT}: no figure; the engine does not tell it, or the cell has none."
    yield from (meaning(numbers.metric) for numbers in table.headline)
    if sides(table):
        yield BOUND_BY
    codes = dict.fromkeys(table.everywhere + tuple(chain.from_iterable(table.warnings)))
    yield from (f"{code}: {MEANINGS[code]}" for code in codes if code in MEANINGS)


def copies(models: Iterable[str]) -> Iterator[str]:
    """Yield what the name of a scaled-down copy means, if any of the models is one."""
    sizes = {model.rpartition(AT)[2] for model in models if AT in model}
    return (COPIES[size] for size in COPIES if size in sizes)


def meaning(metric: Metric) -> str:
    """Return the definition of a metric, as a sentence."""
    peak = "; the largest of the sessions" if metric.over == "max" else ""
    return f"{metric.label}: {metric.definition}{peak}."
