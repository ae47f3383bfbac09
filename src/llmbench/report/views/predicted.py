"""Predictions of a run against its measurements, as a document: cell by cell, and over the whole run.

The predictions were written before anything ran. An error is a factor, predicted over measured; twice too much
counts the same as twice too little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmbench.errors import RunError
from llmbench.report import words
from llmbench.report.document import Document, Note, Section, foreign
from llmbench.report.views import facts as views_facts
from llmbench.report.views.facts import Fact
from llmbench.results import accuracy, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llmbench.results.store import Log


class Quantity(NamedTuple):
    """A predicted quantity: its key, its name, the unit, and how a number is shown in that unit."""

    key: str
    name: str
    unit: str
    figure: Callable[[float], str]


def milliseconds(time_s: float) -> str:
    """Return a time in ms with three digits at least."""
    return f"{time_s * 1e3:.3g}" if time_s < 1 else f"{time_s * 1e3:,.0f}"


def mebibytes(size: float) -> str:
    """Return bytes in MiB."""
    return f"{size / 2**20:,.0f}"


def factor(value: float) -> str:
    """Return an error as a factor."""
    return f"{value:.2f}x"


QUANTITIES = (
    Quantity("ttft_s", "TTFT", "ms", milliseconds),
    Quantity("tpot_s", "TPOT", "ms", milliseconds),
    Quantity("peak_bytes", "peak", "MiB", mebibytes),
)

FIGURES = [
    column
    for one in QUANTITIES
    for column in (
        Fact(f"{one.key}_measured", f"{one.name}\n({one.unit})", one.figure),
        Fact(f"{one.key}_predicted", f"{one.name}\npredicted", one.figure),
        Fact(f"{one.key}_factor", f"{one.name}\nfactor", factor),
    )
]
FACTOR = "factor: predicted over measured; above 1 the prediction was too large."
ALWAYS = ("batch_size", "input_len", "output_len")


def document(log: Log) -> Document:
    """Return predicted next to measured; raise RunError if the run holds no predictions."""
    built = table.build(log)
    if built.plan is None or not built.plan.predictions:
        raise RunError(
            "--predicted: this run holds no predictions; they are made when a sweep begins, never after."
        )
    facts = list(accuracy.rows(built, built.plan.predictions))
    sums = accuracy.summary(facts)
    keys = views_facts.worth_showing(views_facts.CELL, facts, ALWAYS)
    figures = [one for one in FIGURES if any(fact[one.key] is not None for fact in facts)]
    bases = dict.fromkeys(prediction.basis for prediction in built.plan.predictions.values())
    return Document(
        f"Predicted and measured: {foreign(built.plan.name)}",
        [Section([views_facts.table([*keys, *figures], facts, len(keys))])],
        views_facts.sheet(facts, [column.key for column in (*views_facts.CELL, *FIGURES)]),
        lambda: {"cells": facts, "summary": sums, "within": accuracy.WITHIN},
        notes=[
            *map(Note, _sentences(sums)),
            *(Note(f"Predicted from: {foreign(basis)}.") for basis in bases),
            Note(FACTOR, "legend"),
            *(Note(line, "legend") for line in words.copies(fact["model"] for fact in facts)),
        ],
    )


def _sentences(sums: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for one in QUANTITIES:
        if errors := sums.get(one.key):
            near = round(errors["within_share"] * errors["cells"])
            yield (
                f"{one.name}: {near} of {errors['cells']} cells within a factor of {accuracy.WITHIN};"
                f" off by {factor(errors['median_factor'])} in the median, {factor(errors['worst_factor'])} at worst."
            )
