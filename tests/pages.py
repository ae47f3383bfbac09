"""Reading of HTML pages, and small runs to make them from."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import claims, compare
from llmbench import report as reports
from llmbench.claims import Answer, ClaimVerdict, Evidence, Part
from llmbench.claims.claim import Range, held
from llmbench.commands import report
from llmbench.compare import sides
from llmbench.compare.confounds import CompareOptions
from llmbench.cost import prices
from llmbench.report.views import claims as views_claims
from llmbench.report.views import compare as views_compare
from llmbench.report.views import report as views_report
from llmbench.report.views import table as views_table
from llmbench.report.views.claims import Judged
from llmbench.results import lines as results_lines
from llmbench.results import store
from llmbench.results.metrics import BY_KEY
from llmbench.stats.interval import Interval
from make_records import make_cell, make_plan, make_record, make_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from llmbench.report.document import Document
    from llmbench.results.record import Record
    from llmbench.results.table import Table
    from llmbench.spec.sweep import Cell


class Page(HTMLParser):
    """A parsed page: sections by heading, their tables, the data of their plots."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, dict[str, Any]] = {"": {"text": "", "rows": [], "spec": None}}
        self._open: list[str] = []
        self._kind = ""
        self.feed(text)

    @property
    def _section(self) -> dict[str, Any]:
        return self.sections[list(self.sections)[-1]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self._kind = dict(attrs).get("type") or ""
        if tag == "tr":
            self._section["rows"].append([])
        if tag in ("td", "th"):
            self._section["rows"][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        if tag == "h2":
            self.sections[data] = {"text": "", "rows": [], "spec": None}
        elif tag == "script" and self._kind == "application/json":
            self._section["spec"] = json.loads(data)
        elif tag in ("td", "th"):
            self._section["rows"][-1][-1] += data
        elif tag not in ("script", "style"):
            self._section["text"] += data

    def section(self, title: str) -> dict[str, Any]:
        """Return the section whose heading begins with this text."""
        return next(held for name, held in self.sections.items() if name.startswith(title))

    def values(self, title: str) -> list[dict[str, Any]]:
        """Return the data of a section's plot."""
        values: list[dict[str, Any]] = self.section(title)["spec"]["data"]["values"]
        return values

    def column(self, title: str, head: str) -> list[str]:
        """Return one column of a section's table."""
        heads, *rows = self.section(title)["rows"]
        return [row[heads.index(head)] for row in rows]


def told(page: Page, title: str) -> list[dict[str, str]]:
    heads, *rows = page.section(title)["rows"]
    return [dict(zip(heads, row, strict=True)) for row in rows]


def save(folder: Path, records: Iterable[Record], cells: Sequence[Cell], **plan: Any) -> Path:
    """Write a run."""
    folder.mkdir(parents=True)
    encode = msgspec.json.Encoder().encode
    lines = (results_lines.seal(encode(line)) for line in (make_plan(cells, **plan), *records))
    (folder / store.RECORDS).write_bytes(b"".join(lines))
    return folder


def page_of(*folders: Path) -> Page:
    runs = [
        views_report.seen(store.read(path), label) for path, label in report.labelled(list(folders))
    ]
    compared = report.compared(runs) if len(folders) > 1 else None
    return drawn(views_report.document(runs, compared), "report")


def shown(made: Table, format: str = "terminal", page: reports.Page | None = None) -> str:
    """Return the table of a run as text."""
    return reports.render(views_table.document(made), format, page)


def drawn(document: Document, command: str) -> Page:
    """Return a document as a page."""
    return Page(reports.render(document, "html", reports.Page(command=command)))


def comparison_of(*folders: Path) -> Page:
    """Return the page that compares these runs."""
    logs = [(str(path), store.read(path)) for path in folders]
    asked = CompareOptions(BY_KEY["e2e_s"])
    made = compare.runs([sides.read(name, log, asked.metric) for name, log in logs], asked)
    return drawn(views_compare.document(made, logs), "compare")


def claims_of(*names: str) -> Page:
    """Return the page of a claim whose conditions, words, units and notes are these names."""
    parts = [held(name, name, Interval(15.0, 14.0, 16.0), Range(10.0), name) for name in names]
    answer = Answer((*parts, Part(names[0], ClaimVerdict.CONTRADICTED, names[0])), names)
    given = Evidence((), prices.PriceOptions())
    judged = [Judged(claims.claim("edge-models"), answer)]
    return drawn(views_claims.document(judged, (), given), "claims")


def timed(cell: Cell, session: int, ttft_s: float, tpot_s: float, **changes: Any) -> Record:
    e2e_s = ttft_s + tpot_s * (cell.output_len - 1)
    samples = make_samples([e2e_s] * 3, ttft_s, cell.output_len)
    return make_record(cell, session, samples, **changes)


def grid(**changes: Any) -> list[Cell]:
    return [
        make_cell(number, model="m", batch_size=batch, input_len=length, **changes)
        for number, (batch, length) in enumerate([(1, 128), (8, 128), (64, 128), (1, 1024)])
    ]
