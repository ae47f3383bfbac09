"""The catalogue as a document: all models, or one with its sources and doubts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench import numbers
from llmbench.models import catalogue, resolve
from llmbench.numbers import plural
from llmbench.report.document import Document, Section
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    names = resolve.catalogue()
    rows = [catalogue.facts(name) for name in names]
    return Document(
        f"Catalogue: {plural(len(names), 'model')}",
        [Section([facts.table(COLUMNS, rows)])],
        facts.sheet(rows, _keys()),
        lambda: rows,
    )


def one(name: str) -> Document:
    """Return everything that is known of one model."""
    whole = catalogue.whole(name)
    return Document(
        name,
        [Section([facts.tree(whole)])],
        facts.sheet([catalogue.facts(name)], _keys()),
        lambda: whole,
    )


def _keys() -> Sequence[str]:
    return [column.key for column in COLUMNS]
