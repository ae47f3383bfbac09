"""The plan of a sweep as a document: which cells fit, how long each takes, and what all of it costs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from llmbench import numbers
from llmbench.numbers import plural
from llmbench.report import words
from llmbench.report.document import Document, Grid, Note, Section, foreign
from llmbench.report.views import facts as views_facts
from llmbench.report.views.facts import Fact
from llmbench.results.aggregate import DIGITS
from llmbench.spec.sweep import groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from llmbench.cost.prices import Hour
    from llmbench.run.forecast import Forecast, PlannedCell
    from llmbench.spec.sweep import Cell, Protocol

MOST_ROWS = 100
"""More cells than this are shown folded: a line for each model, engine and type of number."""

WORDS = {
    "fits": "fits",
    "tight": "tight",
    "queues": "queues",
    "no": "does not fit",
    "unknown": "unknown",
}
"""Whether a cell fits into memory, by the word of its prediction, or of the room that its engine has."""
UNSUPPORTED = "unsupported"
RUNS = (WORDS["fits"], WORDS["tight"], WORDS["unknown"])


class AtLeast(float):
    """A time of which no more is known than that it is not shorter."""


def seconds(value: float) -> str:
    """Return a time with the unit that reads best."""
    if isinstance(value, AtLeast):
        return f"≥ {seconds(float(value))}"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 600:
        return f"{value:.3g} s"
    return f"{value / 60:,.0f} min" if value < 36_000 else f"{value / 3600:,.1f} h"


COLUMNS = (
    *views_facts.CELL,
    Fact("fits", "memory"),
    Fact("need_bytes", "need", numbers.binary),
    Fact("ttft_s", "TTFT", seconds),
    Fact("tpot_s", "TPOT", seconds),
    Fact("sweep_s", "all sessions", seconds),
    Fact("cell", "cell"),
)
TIMES = ("ttft_s", "tpot_s", "sweep_s")
ALWAYS = (
    "model", "batch_size", "input_len", "output_len", "fits", "need_bytes", "ttft_s", "tpot_s", "sweep_s", "cell"
)  # fmt: skip
"""Columns that a reader looks for, whether they vary or not."""
FOLDED = (
    *views_facts.CELL[:5],
    Fact("cells", "cells", numbers.whole),
    *(Fact(name, name, numbers.whole) for name in (*WORDS.values(), UNSUPPORTED)),
    Fact("most_bytes", "most needed", numbers.binary),
    Fact("sweep_s", "all sessions", seconds),
)


def document(made: Forecast) -> Document:
    """Return the plan of a sweep with its predictions."""
    rows, planned = made.cells, made.planned
    facts = [_fact(row) for row in rows]
    several = f"{made.gpus} x " if made.gpus > 1 else ""
    where = f" on {several}{foreign(made.chip.name)}" if made.chip else ""
    return Document(
        f"{foreign(planned.sweep.name)}: what would run{where}",
        [Section([_table(rows, facts, planned.sweep.protocol)])],
        views_facts.sheet(
            [{**fact, "refused": row.refused} for fact, row in zip(facts, rows, strict=True)]
        ),
        lambda: _data(made),
        facts=_same(planned.cells),
        notes=_notes(made),
    )


def _same(cells: Sequence[Cell]) -> dict[str, str]:
    """Return the coordinates that all cells share, by the head that a column would have."""
    told = [
        {
            "backend": cell.backend,
            "options": views_facts.options(cell.options),
            "device": cell.device,
            "dtype": cell.dtype,
            "weights": cell.load_format,
        }
        for cell in cells
    ]
    values = {name: {each[name] for each in told} for name in told[0]}
    return {
        name: words.value_of(*texts)
        for name, texts in values.items()
        if len(texts) == 1 and "" not in texts
    }


def _table(
    rows: Sequence[PlannedCell], facts: Sequence[dict[str, Any]], protocol: Protocol
) -> Grid:
    """Return the cells with what is predicted; of very many a line for all that differ in batch and lengths only."""
    folded = len(rows) > MOST_ROWS
    queues = any(_fits(row) == WORDS["queues"] for row in rows)
    columns = (
        [column for column in FOLDED if queues or column.key != WORDS["queues"]]
        if folded
        else views_facts.worth_showing(COLUMNS, facts, ALWAYS)
    )
    keys = [column.key for column in columns].index("cells" if folded else "fits")
    named = [_by_sessions(column, protocol) for column in columns]
    if folded:
        return views_facts.table(named, _folded(rows, facts), keys)
    least = [_at_least(fact) if row.least else fact for row, fact in zip(rows, facts, strict=True)]
    return views_facts.table(named, least, keys)


def _at_least(fact: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a cell with its times marked as the least."""
    times = {key: fact[key] for key in TIMES if fact[key] is not None}
    return {**fact, **{key: AtLeast(value) for key, value in times.items()}}


def _notes(made: Forecast) -> Iterator[Note]:
    rows, planned = made.cells, made.planned
    protocol = planned.sweep.protocol
    yield from (Note(refusal, "warning") for refusal in _refusals(rows))
    yield from map(Note, words.copies(row.cell.model for row in rows))
    yield from map(Note, _too_large(rows))
    yield from map(Note, _without_room(rows))
    if any(row.room for row in rows):
        yield Note(
            "need, where an engine takes its memory in advance: on each of its GPUs, or on a CPU with its whole cache."
        )
    for basis, count in Counter((row.least or row.prediction).basis for row in rows).items():
        which = plural(count, "cell") if len(rows) > count else "Estimates"
        yield Note(f"{which}: {foreign(basis)}.")
    yield from (Note(foreign(warning), "warning") for warning in planned.warnings)
    shared = plural(len(groups(planned.cells, protocol.isolation)), "group")
    yield Note(f"{plural(len(rows), 'cell')} in {shared}, {_sessions(protocol)} each.")
    yield from map(Note, _total(rows, made.price, protocol))
    yield from map(Note, _of_boxes(made))
    if made.sessions:
        yield Note(made.sessions)


def _by_sessions(column: Fact, protocol: Protocol) -> Fact:
    """Return the column of times with the sessions in its head that they are of: all, or the first of more."""
    if column.key != "sweep_s":
        return column
    which = "all" if protocol.max_sessions == protocol.sessions else "first"
    return column._replace(head=f"{which} {plural(protocol.sessions, 'session')}")


def _sessions(protocol: Protocol) -> str:
    least, most = protocol.sessions, protocol.max_sessions
    if least == most:
        return plural(least, "session")
    return (
        f"{least} to {most} sessions (as many as intervals of ±{protocol.interval_within:.1%} take)"
    )


def _refusals(rows: Sequence[PlannedCell]) -> Iterator[str]:
    """Yield why cells cannot run; of many that differ in their figures only, the first and how many there are."""
    alike: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.refused:
            alike.setdefault((row.cell.model, DIGITS.sub("#", row.refused)), []).append(row.refused)
    for reasons in alike.values():
        others = (
            f" And {plural(len(reasons) - 1, 'more cell')} like it." if len(reasons) > 1 else ""
        )
        yield f"unsupported: {foreign(reasons[0])}{others}"


def _total(rows: Sequence[PlannedCell], price: Hour | None, protocol: Protocol) -> Iterator[str]:
    """Yield the time of the whole sweep, with the fewest sessions and the most, and its cost if there is a price."""
    known = [row.sweep_s for row in rows if row.sweep_s is not None]
    if not known:
        yield "Time: unknown."
        return
    missing = sum(row.sweep_s is None and _fits(row) in RUNS for row in rows)
    least = f", and {plural(missing, 'cell')} whose time is unknown" if missing else ""
    times = [sum(known), sum(known) * protocol.max_sessions / protocol.sessions]
    about = "at least" if any(row.least and row.sweep_s for row in rows) else "about"
    yield f"Time: {about} {_by_count(list(map(seconds, times)), protocol)}{least}."
    if price:
        usd = [f"${time_s / 3600 * price.usd:,.2f}" for time_s in times]
        yield f"Cost: {about} {_by_count(usd, protocol)}, at {foreign(price.said)}."


def _of_boxes(made: Forecast) -> Iterator[str]:
    """Yield what each box would do, and how long all take together; the price is of an hour of one."""
    for box in made.boxes:
        gpus = f"{plural(box.gpus, 'GPU')}, " if box.gpus else ""
        time = f", about {seconds(box.busy_s)} for first sessions" if box.busy_s else ""
        yield f"Box {foreign(box.name)}: {gpus}{plural(box.cells, 'cell')}{time}."
    walls = [box.busy_s for box in made.boxes if box.busy_s is not None]
    if walls:
        hours = max(walls) / 3600 * len(walls)
        cost = f", ${hours * made.price.usd:,.2f}" if made.price else ""
        yield f"All boxes together: about {seconds(max(walls))}, {hours:,.2g} hours of a box{cost}."


def _by_count(figures: Sequence[str], protocol: Protocol) -> str:
    """Return the figures with the fewest and the most sessions of each cell; one if both are the same."""
    least, most = protocol.sessions, protocol.max_sessions
    if least == most:
        return figures[0]
    return (
        f"{figures[0]} with {plural(least, 'session')} of each cell, up to {figures[1]} with {most}"
    )


def _too_large(rows: Iterable[PlannedCell]) -> Iterator[str]:
    """Yield the figures of the smallest cell that does not fit, and what most of it is."""
    large = [row.prediction for row in rows if row.prediction.fits == "no" and not row.refused]
    if large:
        least = min(large, key=lambda one: one.need_bytes or 0)
        parts = (("weights", least.weights_bytes), ("KV", least.kv_cache_bytes))
        largest = ", ".join(f"{word} {numbers.binary(value or 0)}" for word, value in parts)
        need, have = numbers.binary(least.need_bytes or 0), numbers.binary(least.have_bytes or 0)
        yield f"Too large: {plural(len(large), 'cell')}; the smallest needs {need} ({largest}), and there are {have}."


def _without_room(rows: Iterable[PlannedCell]) -> Iterator[str]:
    """Yield why an engine has no room for cells, the reasons that differ in figures once."""
    alike: dict[tuple[str, str], list[PlannedCell]] = {}
    for row in rows:
        if row.room and row.room.why:
            alike.setdefault((row.room.fits, DIGITS.sub("#", row.room.why)), []).append(row)
    for (fits, _), members in alike.items():
        first = members[0]
        others = (
            f", and {plural(len(members) - 1, 'more cell')} like it" if len(members) > 1 else ""
        )
        end = "; llmbench records such a cell as unsupported" if fits == "queues" else ""
        why = first.room.why if first.room else ""
        yield f"{WORDS[fits].capitalize()}: {foreign(first.cell.where())}: {why}{others}{end}."


def _fact(row: PlannedCell) -> dict[str, Any]:
    cell, times = row.cell, row.least or row.prediction
    return {
        "id": cell.id,
        "cell": cell.id.rpartition("-")[2],  # enough for `llmbench cell`
        **{column.key: cell.asked(column.key) for column in views_facts.CELL},
        "options": views_facts.options(cell.options),
        "fits": _fits(row),
        "need_bytes": _need(row),
        "ttft_s": None if row.refused else times.ttft_s,
        "tpot_s": None if row.refused else times.tpot_s,
        "sweep_s": row.sweep_s,
        "times": "least" if row.least else "estimates",
    }


def _need(row: PlannedCell) -> int | None:
    return row.room.need_bytes if row.room else row.prediction.need_bytes


def _fits(row: PlannedCell) -> str:
    """Return in a word whether a cell fits."""
    fits = row.room.fits if row.room else row.prediction.fits
    return UNSUPPORTED if row.refused else WORDS[fits]


def _folded(rows: Sequence[PlannedCell], facts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for all cells that differ in batch and lengths only."""
    keys = [column.key for column in views_facts.CELL[:5]]
    together: dict[tuple[Any, ...], list[PlannedCell]] = {}
    for row, fact in zip(rows, facts, strict=True):
        together.setdefault(tuple(fact[key] for key in keys), []).append(row)
    return [
        {
            **dict(zip(keys, key, strict=True)),
            "cells": len(members),
            **dict.fromkeys((*WORDS.values(), UNSUPPORTED), 0),
            **Counter(_fits(row) for row in members),
            "most_bytes": max(_need(row) or 0 for row in members) or None,
            "sweep_s": sum(row.sweep_s or 0.0 for row in members) or None,
        }
        for key, members in together.items()
    ]


def _data(made: Forecast) -> dict[str, Any]:
    rows, planned, price = made.cells, made.planned, made.price
    known = [row.sweep_s for row in rows if row.sweep_s is not None]
    return {
        "name": planned.sweep.name,
        "sessions": planned.sweep.protocol.sessions,
        "max_sessions": planned.sweep.protocol.max_sessions,
        "cells": [
            {
                **_fact(row),
                "refused": row.refused,
                "room": row.room and row.room._asdict(),
                "prediction": row.prediction,
            }
            for row in rows
        ],
        "sweep_s": sum(known) if known else None,
        "cells_without_time": len(rows) - len(known),
        "price": {"usd_per_hour": price.usd, "source": price.said} if price else None,
        "gpus": made.gpus,
        **({"boxes": [box._asdict() for box in made.boxes]} if made.boxes else {}),
        "warnings": planned.warnings,
    }
