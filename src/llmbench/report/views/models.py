"""The catalogue as a document: all models, or one with its sources and doubts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import numbers
from llmbench.measure import described
from llmbench.models import catalogue
from llmbench.models.resolve import Engines
from llmbench.numbers import plural
from llmbench.report.document import Document, Section
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMNS = (
    Fact("name", "model", kind="name"),
    Fact("family", "family"),
    Fact("parameters", "parameters", numbers.count),
    Fact("active_parameters", "active", numbers.count),
    Fact("kv_bytes_per_token_bfloat16", "bf16 KV/token", numbers.binary),
    Fact("context", "context", numbers.whole),
    Fact("release_date", "released"),
    Fact("engines", "engines"),
    Fact("license", "licence"),
)


def every() -> Document:
    """Return the catalogue, a row a model."""
    rows = described.every()
    return Document(
        f"Catalogue: {plural(len(rows), 'model')}",
        [Section([facts.table(COLUMNS, rows)])],
        facts.sheet(rows, _keys()),
        lambda: rows,
    )


def one(name: str) -> Document:
    """Return everything that is known of one model: an entry, a checkpoint's folder, or a hub id."""
    whole = described.one(name)
    return Document(
        name,
        [Section([facts.tree(whole)])],
        facts.sheet([_row(whole)]),
        lambda: whole,
    )


def _row(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model as a row: the columns of the list, then all other facts that are one value."""
    row = {key: whole.get(key) for key in _keys()}
    row |= {key: value for key, value in whole.items() if not isinstance(value, dict | list)}
    if engines := whole.get("engines"):
        row["engines"] = catalogue.engines(msgspec.convert(engines, Engines))
    return row


def _keys() -> Sequence[str]:
    return [column.key for column in COLUMNS]
