"""The cells of all runs as dots: what each is called, which line it belongs to, and its numbers as shown.

Names come from anywhere: they are made harmless and short here, once, and every plot and table takes them
from here. A plot that would show too many dots is thinned here, too, and says so.
"""

from __future__ import annotations

import os
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from llmbench.redact import shown
from llmbench.report import words
from llmbench.report.document import cut
from llmbench.spec.load import LOAD
from llmbench.spec.sweep import NOT_SAID

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from llmbench.results.aggregate import Tally
    from llmbench.results.metrics import Metric
    from llmbench.results.table import Integers, Numbers, Table
    from llmbench.spec.sweep import Point

T = TypeVar("T")

KIND = ("model", "backend", "device", "dtype", "load_format", "prompts")
"""The coordinates that make another kind of cell; lengths, the batch and an engine's options do not."""

MOST_POINTS = 1000
"""Points in one plot and rows in one table; with more, a page of six plots would pass 5 MB."""
WIDEST_DRAWN = 1.0
"""A wider interval, relative to its value, leaves no room for the others."""
MOST_PANELS = 24
"""Panels side by side in one plot that are still looked at one by one."""


class ShownNumber(NamedTuple):
    """A cell's value of one metric in the unit shown; the interval's ends are None where there is none to draw."""

    value: float
    low: float | None
    high: float | None
    text: str


class ReportedRun:
    """One run as the page shows it.

    Attributes:
        label: what it is called on the page; no two runs are called alike.
        table: its table, with all metrics.
        tally: what its records add up to.
        owners: the number of the cell that each valid session is of.
        sessions: what the valid sessions measured.

    """

    def __init__(self, label: str, table: Table, tally: Tally) -> None:
        """Take a run that has been read."""
        self.label, self.table, self.tally = label, table, tally
        self.owners = tally.numbers_of_owners()
        cells = [table.cells[owner] for owner in self.owners.tolist()]
        self.sessions = tally.gatherer.sessions(cells)

    @cached_property
    def options(self) -> set[tuple[str, str]]:
        """Return the engines and their options that any of its cells sets."""
        return {(cell.backend, name) for cell in self.table.cells for name in cell.options}

    @cached_property
    def numbers(self) -> dict[str, list[ShownNumber | None]]:
        """Return the numbers of every metric that was measured, one a cell."""
        return {numbers.metric.key: _numbers(numbers) for numbers in self.table.numbers}


class Dot(NamedTuple):
    """A cell of a run.

    Attributes:
        run: the run it belongs to.
        row: its place in the run's table.
        cell: the cell itself.
        kind: its model and engine, as far as they vary.
        variant: its run and its engine's options, as far as they vary.
        name: all its coordinates that vary, in words.

    """

    run: ReportedRun
    row: int
    cell: Point
    kind: str
    variant: str
    name: str

    @property
    def series(self) -> str:
        """Return what its line in a plot is of: the kind and the variant."""
        return ", ".join(filter(None, (self.kind, self.variant)))

    @property
    def valid(self) -> int:
        """Return the valid sessions."""
        return int(self.run.table.valid[self.row])

    @property
    def warnings(self) -> str:
        """Return the reason codes of its valid sessions, those that all of the run's have among them."""
        if not self.valid:
            return ""
        own = words.warnings(self.run.table.warnings[self.row], self.valid)
        return shown(", ".join(filter(None, (*self.run.table.everywhere, own))))

    def number(self, metric: Metric) -> ShownNumber | None:
        """Return its value of a metric, None if it has none."""
        column = self.run.numbers.get(metric.key)
        return column[self.row] if column else None


def dots(runs: Sequence[ReportedRun]) -> list[Dot]:
    """Return every cell of every run, those without a number too."""
    cells = [cell for run in runs for cell in run.table.cells]
    kinds = _texts([tuple(getattr(cell, name) for name in KIND) for cell in cells])
    kinds = [kind or NOT_SAID for kind in kinds]
    options = list(dict.fromkeys(chain.from_iterable(cell.options for cell in cells)))
    options = [name for name in options if name != LOAD]
    tuples = [
        (*(_option(run, cell, name) for name in options), run.label if len(runs) > 1 else "")
        for run in runs
        for cell in run.table.cells
    ]
    variants = _texts(tuples, (*options, ""))  # a legend cuts the end, and runs begin differently
    lengths = _texts(
        [tuple(map(_said, _work(cell))) for cell in cells], ("load", "batch", "in", "out")
    )
    rows = ((run, row) for run in runs for row in range(len(run.table.cells)))
    return [
        Dot(run, row, cell, kind, variant, ", ".join(filter(None, (kind, variant, length))))
        for (run, row), cell, kind, variant, length in zip(
            rows, cells, kinds, variants, lengths, strict=True
        )
    ]


def short(names: Iterable[str]) -> dict[str, str]:
    """Return each name harmless and short, and no two alike that were not."""
    taken: dict[str, str] = {}
    for name in dict.fromkeys(names):
        text, count = cut(shown(name)), 1
        while text in taken:
            count += 1
            text = f"{cut(shown(name))} ({count})"
        taken[text] = name
    return {name: text for text, name in taken.items()}


def labels(folders: Sequence[Path]) -> list[str]:
    """Return each folder's name, or as much of its path as tells it from the others."""
    paths = [Path(os.path.realpath(folder)).parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if distinct(names) == distinct(paths):
            break
    shortened = short(names)
    return [shortened[name] for name in names]


def thinned(items: Sequence[T], most: int, first: Callable[[T], bool] | None = None) -> list[T]:
    """Return at most so many items in their order: the `first` ones, then others at even steps."""
    if len(items) <= most:
        return list(items)
    ranks = np.array([not (first and first(item)) for item in items])
    ahead, behind = np.flatnonzero(~ranks), np.flatnonzero(ranks)
    kept = _even(ahead, most)
    kept = np.concatenate([kept, _even(behind, most - len(kept))])
    return [items[number] for number in np.sort(kept).tolist()]


def distinct(values: Iterable[Hashable]) -> int:
    """Return how many different values there are."""
    return len(set(values))


def _even(numbers: Integers, most: int) -> Integers:
    if len(numbers) <= most:
        return numbers
    steps: Integers = np.linspace(0, len(numbers) - 1, most).astype(np.int64)
    return numbers[steps]


def _numbers(numbers: Numbers) -> list[ShownNumber | None]:
    rows = list(range(len(numbers.middle)))
    figures = words.figures(numbers, rows)
    middle = (numbers.middle * numbers.metric.unit.factor).tolist()
    widths = numbers.half_width.tolist()
    return [
        _number(value, width, " ".join(pair).rstrip())
        for value, width, pair in zip(middle, widths, zip(*figures, strict=True), strict=True)
    ]


def _number(value: float, width: float, text: str) -> ShownNumber | None:
    if value != value:  # noqa: PLR0124 - NaN
        return None
    if not width <= WIDEST_DRAWN:
        return ShownNumber(value, None, None, text)
    return ShownNumber(value, value / (1 + width), value * (1 + width), text)


def _option(run: ReportedRun, cell: Point, name: str) -> object:
    """Return an engine's option, None for the default where the run sets it elsewhere; others do not say it."""
    set_here = (cell.backend, name) in run.options and not run.table.imported
    return cell.options.get(name, None if set_here else NOT_SAID)


def _work(cell: Point) -> tuple[object, ...]:
    """Return the load of a served cell or the batch of another, and the lengths."""
    load = cell.options.get(LOAD)
    batch = cell.batch_size if load is None else None
    return load, batch, cell.asked("input_len"), cell.output_len


def _said(length: object) -> object:
    return NOT_SAID if length is None else length


def _texts(tuples: Sequence[tuple[object, ...]], heads: Sequence[str] = ()) -> list[str]:
    """Return each tuple as one text of those of its values that vary, each after its head if it has one."""
    if not tuples:
        return []
    columns = list(zip(*tuples, strict=True))
    heads = heads or [""] * len(columns)
    varying = [number for number, column in enumerate(columns) if distinct(column) > 1]
    if not varying and not any(heads):
        varying = [0]
    texts = [_column(columns[number], heads[number]) for number in varying]
    return [", ".join(filter(None, row)) for row in zip(*texts, strict=True)] or [""] * len(tuples)


def _column(values: Sequence[object], head: str) -> list[str]:
    """Return values as texts after their head; nothing for what nobody said."""
    names = short(map(words.value_of, values))
    before = f"{cut(shown(head))} " if head else ""
    return ["" if value == NOT_SAID else before + names[words.value_of(value)] for value in values]
