"""The `fit` command: the largest batch that fits for each model and length, and how that is known."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from llmbench import numbers
from llmbench.commands.options import tell
from llmbench.predict import capacity
from llmbench.report import rows as report_rows
from llmbench.results import store

AXES = ("backend", "options", "device", "dtype", "load_format")
LENGTHS = (
    report_rows.Column("input_len", "in", numbers.whole),
    report_rows.Column("output_len", "out", numbers.whole),
)
"""What is shown only if it varies, the lengths only if both do; the model and the context always are."""

FIGURES = (
    report_rows.Column("context", "context", numbers.whole),
    report_rows.Column("answer", "largest batch"),
    report_rows.Column("sessions", "sessions", numbers.whole),
    report_rows.Column("beyond", "beyond it"),
    report_rows.Column("predicted", "predicted", numbers.whole),
)

ALL = tuple(report_rows.Column(name, name) for name in capacity.Fit.__struct_fields__)

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


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    format: Annotated[
        Literal["terminal", "markdown", "csv", "json"],
        typer.Option("--format", help="How to write it."),
    ] = "terminal",
) -> None:
    """Show the largest batch that fits, by model and context."""
    rows = capacity.fits(store.read(run, tell=tell))
    if format == "json":
        text = report_rows.json(rows)
    elif format == "csv":
        text = report_rows.rows(ALL, [_plain(row) for row in rows], format)
    else:
        text = "\n".join(_sections(rows, format))
    sys.stdout.write(_sayable(text))


def _plain(row: capacity.Fit) -> dict[str, Any]:
    facts = msgspec.structs.asdict(row)
    options = ", ".join(f"{key}={value}" for key, value in row.options.items())
    return {**facts, "options": options or None, "preallocates": str(row.preallocates).lower()}


def _sections(rows: Sequence[capacity.Fit], format: str) -> Iterator[str]:
    """Yield a table of the engines that take what they need, and apart from it one of the others."""
    if not rows:
        yield "No cell is planned.\n"
    for title, preallocates in (("", False), (ADVANCE, True)):
        facts = [
            {**_plain(row), "answer": answer(row), "beyond": beyond(row)}
            for row in rows
            if row.preallocates is preallocates
        ]
        if facts:
            columns = _columns(facts)
            names = [column.key for column in columns].index("context") + 1
            table = report_rows.rows(columns, facts, format, names)
            notes = [note for word, note in NOTES.items() if word in table]
            mark = "- " if format == "markdown" else ""
            below = report_rows.wrapped((f"{mark}{note}" for note in notes), format)
            above = report_rows.wrapped([title, ""], format) if title else ""
            yield f"{above}{table}\n{below}"


def _columns(facts: Sequence[Mapping[str, Any]]) -> list[report_rows.Column]:
    axes = [report_rows.Column(name, name) for name in AXES if _varies(name, facts)]
    lengths = LENGTHS if _varies("output_len", facts) else ()
    known = [
        column
        for column in FIGURES
        if column.key == "answer" or any(row[column.key] for row in facts)
    ]
    return [report_rows.Column("model", "model"), *axes, *lengths, *known]


def _varies(name: str, facts: Sequence[Mapping[str, Any]]) -> bool:
    return len({row[name] for row in facts}) > 1


def answer(row: capacity.Fit) -> str | None:
    """Return the largest batch in words: measured from both sides, from one, or not at all."""
    if row.largest is not None:
        return f"{row.largest}" if row.oom or row.inferred else f"≥ {row.largest}"
    if row.oom:
        return f"< {row.oom} (oom {row.ooms}x)"
    if row.inferred:
        return f"< {row.inferred} (inferred)"
    return None if row.predicted is None else f"predicted {row.predicted}"


def beyond(row: capacity.Fit) -> str | None:
    """Return what is known of larger batches, and of OOMs among those that fitted."""
    parts = []
    if row.largest is not None and row.oom:
        parts.append(f"{row.oom}: oom {row.ooms}x")
    if row.inferred:
        parts.append(f"{row.inferred}: inferred, {row.why}")
    if row.ooms_up_to_it:
        parts.append(f"oom {row.ooms_up_to_it}x at {row.largest} or below, too")
    return "; ".join(parts) or None


def _sayable(text: str) -> str:
    """Return the text in signs that the terminal has."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return text.replace("≥", ">=")
    return text
