"""A document as JSON: its data, whole. What is absent is null."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmbench.redact import spelled

if TYPE_CHECKING:
    from llmbench.report import Page
    from llmbench.report.document import Document


def render(document: Document, page: Page) -> str:
    """Return the data as indented JSON; the page does not matter. msgspec writes NaN as null."""
    del page
    text = msgspec.json.format(msgspec.json.encode(document.data()), indent=2).decode()
    return spelled(text) + "\n"
