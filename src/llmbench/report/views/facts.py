"""Plain facts as tables: rows of facts by column, or all that is known of one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.report.document import ABSENT, Column, Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from llmbench.report.document import Kind
    from llmbench.stats.interval import Interval

SHORT = 40
"""Characters of a list's item that leave the list on one line."""


class Fact(NamedTuple):
    """One fact of every row: its key, its head, and how a number is shown to people."""

    key: str
    head: str
    figure: Callable[[Any], str] | None = None
    kind: Kind = "words"


CELL = (
    Fact("model", "model", kind="name"),
    *(Fact(name, name) for name in ("backend", "options", "device", "dtype")),
    Fact("batch_size", "batch", str),
    Fact("input_len", "in", str),
    Fact("output_len", "out", str),
)
"""The coordinates of a cell."""


def options(options: Mapping[str, object]) -> str:
    """Return an engine's options as text."""
    return ", ".join(f"{key}={value}" for key, value in options.items())


def ends(figure: Interval | None) -> tuple[float | None, float | None, float | None]:
    """Return a figure and the two ends of its interval; None where there is none."""
    if figure is None:
        return None, None, None
    return (figure.value, figure.low, figure.high) if figure.known else (figure.value, None, None)


def worth_showing(
    facts: Sequence[Fact], rows: Sequence[Mapping[str, Any]], always: Collection[str]
) -> list[Fact]:
    """Return the facts that differ between rows, and those that are always shown."""
    return [
        fact for fact in facts if fact.key in always or len({row[fact.key] for row in rows}) > 1
    ]


def table(facts: Sequence[Fact], rows: Sequence[Mapping[str, Any]], keys: int = 1) -> Grid:
    """Return rows as a table of these facts."""
    columns = [
        Column(
            fact.head,
            [_text(fact, row[fact.key]) for row in rows],
            "number" if fact.figure else fact.kind,
        )
        for fact in facts
    ]
    return Grid(columns, keys)


def sheet(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str] = ()
) -> Iterator[tuple[str, list[object]]]:
    """Yield the columns of rows for programs: these keys, or all in order of appearance."""
    for key in keys or dict.fromkeys(key for row in rows for key in row):
        yield key, [row.get(key) for row in rows]


def tree(whole: Mapping[str, Any]) -> Grid:
    """Return everything about one thing, a row a fact; what is not known is left out."""
    rows = list(named(whole))
    return Grid(
        [
            Column("fact", [name for name, _ in rows], "words"),
            Column("value", [text for _, text in rows], "words"),
        ]
    )


def named(whole: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield nested facts as names and texts."""
    for (first, *path), value in leaves(whole):
        yield ": ".join((first.replace("_", " "), *path)), _plain(value)


def leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield nested facts with the keys that lead to each; what is not known is left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    elif isinstance(value, list) and not all(map(_short, value)):
        for number, item in enumerate(value, 1):
            yield from leaves(item, (*path, str(number)) if len(value) > 1 else path)
    elif value not in (None, []):
        yield path, value


def _short(item: object) -> bool:
    """Return whether an item of a list leaves room for others on its line."""
    return isinstance(item, int | float | str) and len(str(item)) <= SHORT


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.0f}" if float(value).is_integer() else str(value)
    return str(value)


def _text(fact: Fact, value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return fact.figure(value) if fact.figure else str(value)
