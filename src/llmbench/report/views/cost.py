"""The cost of tokens, by cell, as a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench import cost, numbers
from llmbench.models import scaled
from llmbench.models.resolve import AT
from llmbench.report import words
from llmbench.report.document import Document, Note, Section, foreign
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact
from llmbench.results import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.cost import prices
    from llmbench.results.cells import Measured

COLUMNS = (
    Fact("model", "model", kind="name"),
    Fact("batch_size", "batch", str),
    Fact("input_len", "in", str),
    Fact("output_len", "out", str),
)
"""The columns of every row; whatever else varies follows the model, or two rows would look alike."""
FIGURES = {
    "tpot_s": "TPOT (ms)",
    "usd_per_1m_output": "$/1M output",
    "usd_per_1m_input": "$/1M input",
    "usd_per_1m_token": "$/1M tokens",
    "energy_usd_per_1m_output": "energy $/1M output",
}
BREAK_EVEN = (
    "Break-even: the volume, input and output, from which this machine, paid day and night, costs no"
    " more than the API for the same requests. The utilisation is the share of what the machine can serve in a day;"
    " never: it cannot serve that much, and the API is cheaper at every volume that it can."
)


class TokenCosts(NamedTuple):
    """The costs of a run.

    Attributes:
        cells: that have a number.
        hours: what an hour of each costs, and where that is from.
        charge: the rule by which tokens are charged.
        utilisation: the share of the paid time at the measured pace.
        costs: of the cells that have one.
        breaks: the volumes from which a cell costs no more than an API.
        cheapest: the cheapest cell in words; empty unless asked for.

    """

    cells: Sequence[Measured]
    hours: Sequence[prices.Hour]
    charge: str
    utilisation: float
    costs: Sequence[cost.Cost]
    breaks: Sequence[tuple[Measured, cost.BreakEven]]
    cheapest: str


def document(made: TokenCosts) -> Document:
    """Return the costs as a document."""
    others = _others(made.cells)
    rows = [_row(one, others) for one in made.costs]
    breaks = [_break_row(cell, even, others) for cell, even in made.breaks]
    notes = [*_about(made), *([made.cheapest] if made.cheapest else [])]
    flat = [_flat(row) for row in rows]
    return Document(
        "Cost of tokens",
        _sections(_keys(others), rows, breaks),
        facts.sheet(flat),
        lambda: {"notes": notes, "cells": flat, "break_even": [_flat(row) for row in breaks]},
        [Note(foreign(note)) for note in notes],
        notes=[
            Note(words.INTERVAL + words.WITHIN, "legend"),
            *([Note(BREAK_EVEN, "legend")] if breaks else []),
        ],
    )


def _about(made: TokenCosts) -> Iterator[str]:
    said = "; ".join(dict.fromkeys(hour.said for hour in made.hours))
    yield f"Price: {said}; busy {made.utilisation:.0%} of the paid time."
    yield f"Rule ({made.charge}): {cost.CHARGES[made.charge].rule}."
    if any(one.cell.model.partition(AT)[2] in scaled.SIZES for one in made.cells):
        yield f"NAME{AT}SIZE is a small copy of a model: its tokens cost a fraction of the model's."


def _sections(
    keys: Sequence[Fact], rows: Sequence[dict[str, Any]], breaks: Sequence[dict[str, Any]]
) -> Iterator[Section]:
    figures = [
        Fact(key, name, numbers.plus_minus)
        for key, name in FIGURES.items()
        if any(key in row for row in rows)
    ]
    shown = [{**dict.fromkeys(column.key for column in figures), **_in_ms(row)} for row in rows]
    yield Section([facts.table([*keys, *figures], shown, len(keys))])
    if breaks:
        columns = (
            *keys,
            Fact("api", "API"),
            Fact("tokens_per_day", "break-even tokens/day", _volume),
            Fact("utilisation", "at utilisation", _share),
        )
        yield Section([facts.table(columns, breaks, len(keys))], "Break-even")


def _others(cells: Sequence[Measured]) -> dict[str, dict[str, object]]:
    """Return the coordinates of each cell that vary and have no column in COLUMNS, by the cell's id."""
    usual = {column.key for column in COLUMNS}
    axes = [
        axis for axis in table.axes_of([one.cell for one in cells])[0] if axis.name not in usual
    ]
    return {
        one.cell.id: {axis.name: axis.values[number] for axis in axes}
        for number, one in enumerate(cells)
    }


def _keys(others: Mapping[str, Mapping[str, object]]) -> list[Fact]:
    names = next(iter(others.values()), {})
    return [COLUMNS[0], *(Fact(name, words.head(name)) for name in names), *COLUMNS[1:]]


def _row(one: cost.Cost, others: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    cell = one.measured.cell
    row: dict[str, Any] = {
        "cell": cell.id,
        **{column.key: cell.asked(column.key) for column in COLUMNS},
        "backend": cell.backend,
        **others[cell.id],
        **{f"usd_per_1m_{kind}": usd for kind, usd in one.usd.items()},
    }
    if one.measured.has("tpot_s"):
        row["tpot_s"] = one.measured.figure("tpot_s")
    if one.energy_usd:
        row["energy_usd_per_1m_output"] = one.energy_usd
    return row


def _break_row(
    measured: Measured, even: cost.BreakEven, others: Mapping[str, Mapping[str, object]]
) -> dict[str, Any]:
    cell = measured.cell
    return {
        "cell": cell.id,
        **{column.key: cell.asked(column.key) for column in COLUMNS},
        **others[cell.id],
        "api": even.price.name,
        "tokens_per_day": even.tokens_per_day,
        "utilisation": even.utilisation,
    }


def _in_ms(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "tpot_s": row["tpot_s"].times(1e3)} if "tpot_s" in row else row


def _volume(tokens: float) -> str:
    return numbers.count(round(tokens))


def _share(figure: Any) -> str:
    return f"{numbers.digits(100 * figure.value)} %" if figure.value <= 1 else "never"


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in which both ends of its interval follow each figure; None where there is none."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if hasattr(value, "low"):
            keys = (key, f"{key}_low", f"{key}_high")
            flat |= dict(zip(keys, facts.ends(value), strict=True))
        else:
            flat[key] = value
    return flat
