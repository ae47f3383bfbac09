"""What a sweep would do, shown before it runs: which cells fit, how long each takes, and what all of it costs."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench import numbers
from llmbench.errors import SpecError
from llmbench.machine import calibration, chips, info, peaks
from llmbench.predict import estimate, history
from llmbench.redact import shown
from llmbench.report import rows as report_rows
from llmbench.report.views.run import plural
from llmbench.results.aggregate import DIGITS
from llmbench.run import plan
from llmbench.spec.sweep import groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from llmbench.machine.chips import Chip, Price
    from llmbench.results.prediction import Prediction
    from llmbench.run.plan import Planned
    from llmbench.spec.sweep import Cell, Protocol, Sweep

MOST_ROWS = 100
"""More cells than this are shown folded: a line for each model, engine and type of number."""

WORDS = {"fits": "fits", "tight": "tight", "no": "does not fit", "unknown": "unknown"}
"""How a prediction says that a cell goes into memory."""
UNSUPPORTED = "unsupported"


class Asked(NamedTuple):
    """What the command line says about a dry run: a chip to plan for, a price of an hour, a format."""

    chip: str | None
    usd_per_hour: float | None
    format: str


class Row(NamedTuple):
    """One cell, what is predicted of it, and why it cannot run, if it cannot."""

    cell: Cell
    prediction: Prediction
    refused: str | None
    sweep_s: float | None

    @property
    def fits(self) -> str:
        """Return in a word whether it fits."""
        return UNSUPPORTED if self.refused else WORDS[self.prediction.fits]


def seconds(value: float) -> str:
    """Return a time with the unit that reads best."""
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 600:
        return f"{value:.3g} s"
    return f"{value / 60:,.0f} min" if value < 36_000 else f"{value / 3600:,.1f} h"


COLUMNS = (
    report_rows.Column("model", "model"),
    report_rows.Column("backend", "backend"),
    report_rows.Column("options", "options"),
    report_rows.Column("device", "device"),
    report_rows.Column("dtype", "dtype"),
    report_rows.Column("batch_size", "batch", str),
    report_rows.Column("input_len", "in", str),
    report_rows.Column("output_len", "out", str),
    report_rows.Column("fits", "memory"),
    report_rows.Column("need_bytes", "need", numbers.binary),
    report_rows.Column("ttft_s", "TTFT", seconds),
    report_rows.Column("tpot_s", "TPOT", seconds),
    report_rows.Column("sweep_s", "all sessions", seconds),
    report_rows.Column("cell", "cell"),
)
ALWAYS = (
    "model", "batch_size", "input_len", "output_len", "fits", "need_bytes", "ttft_s", "tpot_s", "sweep_s", "cell"
)  # fmt: skip
"""Columns that a reader looks for, whether they vary or not."""
FOLDED = (
    *COLUMNS[:5],
    report_rows.Column("cells", "cells", numbers.whole),
    *(report_rows.Column(name, name, numbers.whole) for name in (*WORDS.values(), UNSUPPORTED)),
    report_rows.Column("most_bytes", "most needed", numbers.binary),
    report_rows.Column("sweep_s", "all sessions", seconds),
)


def show(sweep: Sweep, asked: Asked, results: Path) -> int:
    """Write the grid with its predictions to standard output, and return the exit code."""
    chip = chips.chip(asked.chip) if asked.chip else None
    price = _price(asked, chip)
    planned = plan.plan(sweep, device="cuda" if chip else None)
    rows = list(_rows(planned, _place(chip, results)))
    if asked.format == "json":
        sys.stdout.write(report_rows.json(_facts(rows, planned, price)))
    else:
        sys.stdout.write(_table(rows, planned.sweep.protocol))
        sys.stdout.write(report_rows.wrapped(["", *_text(rows, planned, price)]))
        if asked.chip is None:
            sys.stdout.write(_forecast(planned))
    return 0


def _place(chip: Chip | None, results: Path) -> estimate.PredictedMachine:
    if chip:
        return estimate.elsewhere(chip)
    found = info.machine()
    return estimate.here(found, peaks.probes_of(found), history.past_cells(results, found))


def _rows(planned: Planned, place: estimate.PredictedMachine) -> Iterator[Row]:
    protocol = planned.sweep.protocol
    predicted = estimate.predictions(planned.cells, planned.models, protocol, place)
    for cell in planned.cells:
        prediction, refused = predicted[cell.id], planned.refused.get(cell.id)
        runs = not refused and prediction.fits != "no"
        session_s = prediction.session_s if runs else None
        yield Row(cell, prediction, refused, session_s and protocol.sessions * session_s)


def _price(asked: Asked, chip: Chip | None) -> Price | None:
    """Return what an hour costs: as asked, else the newest dated price of the chip's file."""
    if asked.usd_per_hour is not None:
        if asked.usd_per_hour < 0:
            raise SpecError(f"--usd-per-gpu-hour: {asked.usd_per_hour} is below nothing.")
        return chips.Price(
            date=None,
            provider="as given",
            source="--usd-per-gpu-hour",
            usd_per_hour=asked.usd_per_hour,
        )
    known = [one for one in (chip.prices if chip else ()) if one.usd_per_hour and one.date]
    return max(known, key=lambda one: str(one.date), default=None)


def _table(rows: Sequence[Row], protocol: Protocol) -> str:
    """Return the cells with what is predicted; of very many a line for all that differ in batch and lengths only."""
    facts = [_fact(row) for row in rows]
    folded = len(rows) > MOST_ROWS
    columns = FOLDED if folded else _worth_showing(facts)
    names = [column.key for column in columns].index("cells" if folded else "fits")
    return report_rows.rows(
        [_by_sessions(column, protocol) for column in columns],
        _folded(rows, facts) if folded else facts,
        "terminal",
        names,
    )


def _text(rows: Sequence[Row], planned: Planned, price: Price | None) -> Iterator[str]:
    yield from _refusals(rows)
    yield from _too_large(rows)
    for basis, count in Counter(row.prediction.basis for row in rows).items():
        yield shown(
            f"{plural(count, 'cell')}: {basis}." if len(rows) > count else f"Estimates: {basis}."
        )
    yield from map(shown, planned.warnings)
    protocol = planned.sweep.protocol
    shared = len(groups(planned.cells, protocol.isolation))
    yield f"{plural(len(rows), 'cell')} in {plural(shared, 'group')}, {_sessions(protocol)} each."
    yield from _total(rows, price, protocol)


def _by_sessions(column: report_rows.Column, protocol: Protocol) -> report_rows.Column:
    """Return the column of times with the sessions in its head that they are of, where it may be more."""
    if column.key != "sweep_s" or protocol.max_sessions == protocol.sessions:
        return column
    return column._replace(head=plural(protocol.sessions, "session"))


def _sessions(protocol: Protocol) -> str:
    least, most = protocol.sessions, protocol.max_sessions
    if least == most:
        return plural(least, "session")
    return (
        f"{least} to {most} sessions (until the interval is within ±{protocol.interval_within:.1%})"
    )


def _forecast(planned: Planned) -> str:
    """Return how many sessions an interval takes, where this machine was calibrated."""
    known = calibration.kept_calibration(info.machine()).calibration
    within = planned.sweep.protocol.interval_within
    forecast = known.forecast(planned.cells, within) if known else ""
    return report_rows.wrapped([forecast]) if forecast else ""


def _refusals(rows: Sequence[Row]) -> Iterator[str]:
    """Yield why cells cannot run; of many that differ in their figures only, the first and how many there are."""
    alike: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.refused:
            alike.setdefault((row.cell.model, DIGITS.sub("#", row.refused)), []).append(row.refused)
    for reasons in alike.values():
        others = (
            f" And {plural(len(reasons) - 1, 'more cell')} like it." if len(reasons) > 1 else ""
        )
        yield shown(f"unsupported: {reasons[0]}{others}")


def _total(rows: Sequence[Row], price: Price | None, protocol: Protocol) -> Iterator[str]:
    """Yield the time of the whole sweep, with the fewest sessions and the most, and its cost if there is a price."""
    known = [row.sweep_s for row in rows if row.sweep_s is not None]
    if not known:
        yield "Time: unknown."
        return
    missing = sum(
        row.sweep_s is None and not row.refused and row.prediction.fits != "no" for row in rows
    )
    least = f", and {plural(missing, 'cell')} whose time is unknown" if missing else ""
    times = [sum(known), sum(known) * protocol.max_sessions / protocol.sessions]
    told = " to ".join(dict.fromkeys(map(seconds, times)))
    yield f"Time: about {told}{least}."
    if price and price.usd_per_hour is not None:
        dated = f", {price.date}" if price.date else ""
        usd = dict.fromkeys(f"{time_s / 3600 * price.usd_per_hour:,.2f}" for time_s in times)
        yield shown(
            f"Cost: about {' to '.join(usd)} USD at {price.usd_per_hour:g} USD an hour ({price.provider}{dated})."
        )


def _too_large(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the figures of the smallest cell that does not fit, and what most of it is."""
    large = [row.prediction for row in rows if row.prediction.fits == "no" and not row.refused]
    if large:
        least = min(large, key=lambda one: one.need_bytes or 0)
        parts = (("weights", least.weights_bytes), ("KV", least.kv_cache_bytes))
        told = ", ".join(f"{word} {numbers.binary(value or 0)}" for word, value in parts)
        need, have = numbers.binary(least.need_bytes or 0), numbers.binary(least.have_bytes or 0)
        yield f"Without room: {plural(len(large), 'cell')}; the least of them needs {need} of {have} ({told})."


def _fact(row: Row) -> dict[str, Any]:
    cell, told = row.cell, row.prediction
    return {
        "id": cell.id,
        "cell": cell.id.rpartition("-")[
            2
        ],  # an end that no other cell has is enough for `llmbench cell`
        "model": cell.model,
        "backend": cell.backend,
        "options": ", ".join(f"{key}={value}" for key, value in cell.options.items()),
        "device": cell.device,
        "dtype": cell.dtype,
        "batch_size": cell.batch_size,
        "input_len": cell.input_len,
        "output_len": cell.output_len,
        "fits": row.fits,
        "need_bytes": told.need_bytes,
        "ttft_s": None if row.refused else told.ttft_s,
        "tpot_s": None if row.refused else told.tpot_s,
        "sweep_s": row.sweep_s,
    }


def _worth_showing(facts: Sequence[dict[str, Any]]) -> list[report_rows.Column]:
    """Return the columns that vary, and those that stand in any case."""
    varying = {key for key in facts[0] if len({fact[key] for fact in facts}) > 1}
    return [column for column in COLUMNS if column.key in {*ALWAYS, *varying}]


def _folded(rows: Sequence[Row], facts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for all cells that differ in batch and lengths only."""
    keys = ("model", "backend", "options", "device", "dtype")
    together: dict[tuple[Any, ...], list[Row]] = {}
    for row, fact in zip(rows, facts, strict=True):
        together.setdefault(tuple(fact[key] for key in keys), []).append(row)
    return [
        {
            **dict(zip(keys, key, strict=True)),
            "cells": len(members),
            **dict.fromkeys((*WORDS.values(), UNSUPPORTED), 0),
            **Counter(row.fits for row in members),
            "most_bytes": max(row.prediction.need_bytes or 0 for row in members) or None,
            "sweep_s": sum(row.sweep_s or 0.0 for row in members) or None,
        }
        for key, members in together.items()
    ]


def _facts(rows: Sequence[Row], planned: Planned, price: Price | None) -> dict[str, Any]:
    known = [row.sweep_s for row in rows if row.sweep_s is not None]
    return {
        "name": planned.sweep.name,
        "sessions": planned.sweep.protocol.sessions,
        "max_sessions": planned.sweep.protocol.max_sessions,
        "cells": [
            {**_fact(row), "refused": row.refused, "prediction": row.prediction} for row in rows
        ],
        "sweep_s": sum(known) if known else None,
        "cells_without_time": len(rows) - len(known),
        "price": price,
        "warnings": planned.warnings,
    }
