"""The sweeps that come with llmbench, as a document."""

from __future__ import annotations

from llmbench.numbers import plural
from llmbench.report.document import Document, Note, Section
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact
from llmbench.spec import grid
from llmbench.spec.sweep import read_sweep, shipped

COLUMNS = (
    Fact("name", "sweep", kind="name"),
    Fact("device", "device"),
    Fact("backends", "backends", kind="name"),
    Fact("why", "why", kind="words"),
)


def every() -> Document:
    """Return the sweeps, a row each."""
    rows = []
    for name, path in shipped().items():
        sweep = read_sweep(path)
        backend = sweep.axes.backend
        names = list(backend) if isinstance(backend, dict) else grid.words(backend)
        rows.append(
            {
                "name": name,
                "device": ", ".join(grid.words(sweep.axes.device)),
                "backends": ", ".join(names),
                "why": sweep.why,
            }
        )
    return Document(
        plural(len(rows), "sweep"),
        [Section([facts.table(COLUMNS, rows)])],
        facts.sheet(rows, [column.key for column in COLUMNS]),
        lambda: rows,
        notes=[Note("Run one with llmbench sweep NAME; add --dry-run to see its cells first.")],
    )
