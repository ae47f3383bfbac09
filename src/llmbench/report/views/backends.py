"""The backends as a document: all of them, or the options of one."""

from __future__ import annotations

from typing import Any

from llmbench import backends
from llmbench.errors import SpecError, did_you_mean
from llmbench.numbers import plural
from llmbench.report.document import Document, Note, Section
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact

COLUMNS = (
    Fact("name", "backend", kind="name"),
    Fact("installed", "installed"),
    Fact("about", "what it is", kind="words"),
)
OPTIONS = (
    Fact("option", "option", kind="name"),
    Fact("default", "default", kind="name"),
    Fact("others", "other values", kind="words"),
    Fact("meaning", "meaning", kind="words"),
)
TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "any text"}
"""The values of an option that has no list of choices, by the type of its default."""


def every() -> Document:
    """Return the backends, a row each."""
    rows = [
        {
            "name": name,
            "installed": _installed(name),
            "about": backends.about(name),
        }
        for name in backends.known()
    ]
    return Document(
        plural(len(rows), "backend"),
        [Section([facts.table(COLUMNS, rows)])],
        facts.sheet(rows, [column.key for column in COLUMNS]),
        lambda: rows,
        notes=[Note("llmbench backends NAME shows the options of one.")],
    )


def one(name: str) -> Document:
    """Return the options of a backend; raise SpecError with the nearest name if there is none."""
    if name not in (known := backends.known()):
        raise SpecError(f"backends: {name!r} is not a backend.{did_you_mean(name, known)}")
    rows = options(name)
    return Document(
        f"{name}: {plural(len(rows), 'option')}",
        [Section([facts.table(OPTIONS, rows)])],
        facts.sheet(rows, [column.key for column in OPTIONS]),
        lambda: rows,
        notes=[
            Note(
                f"In a sweep file: backend: {{{name}: {{OPTION: VALUE}}}}; a list of values is an axis. "
                "On the command line: llmbench sweep --option OPTION=VALUE."
            )
        ],
    )


def options(name: str) -> list[dict[str, Any]]:
    """Return the options of a backend with default, other values and meaning, as a sweep file writes them."""
    meanings = backends.meanings(name)
    return [
        {
            "option": option,
            "default": _spelled(value[0] if isinstance(value, tuple) else value),
            "others": ", ".join(map(_spelled, value[1:]))
            if isinstance(value, tuple)
            else TYPES[type(value)],
            "meaning": meanings.get(option, ""),
        }
        for option, value in backends.options(name).items()
    ]


def _installed(name: str) -> str:
    missing = backends.missing(name)
    return f"no: {missing.removesuffix('.')}" if missing else "yes"


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or "empty"
