"""The largest batch that fits, for each model and length, as a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import numbers
from llmbench.predict.capacity import Fit
from llmbench.report import words
from llmbench.report.document import Document, Note, Section
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

AXES = (*facts.CELL[:5], Fact("load_format", "load_format"))
"""Columns that are shown only if they vary, but for the model."""
LENGTHS = (Fact("input_len", "in", str), Fact("output_len", "out", str))
"""Columns that are shown only if the output varies: else the context says the same."""

FIGURES = (
    Fact("context", "context", str),
    Fact("answer", "largest batch"),
    Fact("sessions", "sessions", numbers.whole),
    Fact("beyond", "beyond it"),
    Fact("predicted", "predicted", numbers.whole),
)

ADVANCE = (
    "Engines that take memory in advance: a batch that does not fit waits in a queue, so these ran,"
    " which does not say that they fit at once."
)

NOTES = {
    "≥": "≥: it fitted, and nothing larger has been tried.",
    "oom": "oom 2x: so many processes ran out of memory there.",
    "inferred": "inferred: not measured. It is no smaller than what ran out of memory, or was predicted not to fit.",
    "predicted": "predicted: the largest batch whose predicted need is there, measured or not.",
}


def document(rows: Sequence[Fit]) -> Document:
    """Return the largest batches; engines that take what they need apart from the others."""
    return Document(
        "Largest batch that fits",
        _sections(rows),
        facts.sheet([_plain(row) for row in rows], Fit.__struct_fields__),
        lambda: rows,
        notes=[Note(line, "legend") for line in words.copies(row.model for row in rows)],
    )


def _plain(row: Fit) -> dict[str, Any]:
    whole = msgspec.structs.asdict(row)
    return {
        **whole,
        "options": facts.options(row.options) or None,
        "preallocates": str(row.preallocates).lower(),
    }


def _sections(rows: Sequence[Fit]) -> Iterator[Section]:
    if not rows:
        yield Section([Note("No cell is planned.")])
    for before, preallocates in (((), False), ((Note(ADVANCE, "warning"),), True)):
        shown = [
            {**_plain(row), "answer": answer(row), "beyond": beyond(row)}
            for row in rows
            if row.preallocates is preallocates
        ]
        if shown:
            columns = _columns(shown)
            keys = [column.key for column in columns].index("context") + 1
            table = facts.table(columns, shown, keys)
            said = " ".join(
                text for column in table.columns for text in (column.head, *column.texts)
            )
            notes = [Note(note, "legend") for word, note in NOTES.items() if word in said]
            yield Section([*before, table, *notes])


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Fact]:
    axes = facts.worth_showing(AXES, rows, {"model"})
    lengths = LENGTHS if len({row["output_len"] for row in rows}) > 1 else ()
    known = [
        column
        for column in FIGURES
        if column.key == "answer" or any(row[column.key] for row in rows)
    ]
    return [*axes, *lengths, *known]


def answer(row: Fit) -> str | None:
    """Return the largest batch in words: measured from both sides, from one, or not at all."""
    if row.largest is not None:
        return f"{row.largest}" if row.oom or row.inferred else f"≥ {row.largest}"
    if row.oom:
        return f"< {row.oom} (oom {row.ooms}x)"
    if row.inferred:
        return f"< {row.inferred} (inferred)"
    return None if row.predicted is None else f"predicted {row.predicted}"


def beyond(row: Fit) -> str | None:
    """Return the outcomes of larger batches, and the OOMs among those that fitted, in words."""
    parts = []
    if row.largest is not None and row.oom:
        parts.append(f"{row.oom}: oom {row.ooms}x")
    if row.inferred:
        parts.append(f"{row.inferred}: inferred, {row.why}")
    if row.ooms_up_to_it:
        parts.append(f"oom {row.ooms_up_to_it}x at {row.largest} or below, too")
    return "; ".join(parts) or None
