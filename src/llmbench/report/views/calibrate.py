"""The variation of a machine's numbers, by shape, as a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench.numbers import plural
from llmbench.report.document import Document, Note, Section, foreign
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact
from llmbench.results import metrics
from llmbench.stats import sample_size

if TYPE_CHECKING:
    from llmbench.machine.calibration import Calibration

SHOWN = ("ttft_s", "tpot_s", "e2e_s")
"""The phases and the whole; the rates vary as these do."""

LEGEND = (
    "between: of the medians of sessions, over all models and engines of a shape.",
    "with its neighbours: shrunk towards what all shapes have in common; compare and sweep --dry-run use this one.",
    f"sessions: how many a cell needs for an interval this narrow; - means over {sample_size.MOST}.",
)


def document(made: Calibration, within: float, kept: str) -> Document:
    """Return for each shape how much a metric varies, and how many sessions an interval of `within` takes."""
    rows = [_row(key, spread, within) for key in SHOWN for spread in _shapes(made, key)]
    sessions = f"{plural(made.sessions, 'session')} of {plural(made.cells, 'cell')}"
    columns = [
        Fact("metric", "metric"),
        *(Fact(key, head, str) for key, head in (("batch", "batch"), ("in", "in"), ("out", "out"))),
        *(
            Fact(key, head, _percent)
            for key, head in (("within", "within"), ("between", "between"))
        ),
        Fact("drawn", "with its\nneighbours", _percent),
        Fact("sessions", f"sessions\nfor ±{within:.1%}", str),
    ]
    return Document(
        f"{foreign(made.name)}, {made.at[:10]}: {sessions}",
        [Section([facts.table(columns, rows, 4)])],
        facts.sheet(
            [_row(key, spread, within) for key in made.metrics for spread in _shapes(made, key)]
        ),
        lambda: msgspec.to_builtins(made),
        [Note("Standard deviations, within a session and between sessions.")],
        notes=[
            Note(f"Kept in {foreign(kept)}; compare uses it for cells with one session."),
            *(Note(line, "legend") for line in LEGEND),
        ],
    )


def _shapes(made: Calibration, key: str) -> Any:
    return made.metrics[key].shapes if key in made.metrics else ()


def _row(key: str, spread: Any, within: float) -> dict[str, Any]:
    return {
        "metric": metrics.BY_KEY[key].label,
        "batch": spread.batch_size,
        "in": spread.input_len,
        "out": spread.output_len,
        "within": spread.within,
        "between": spread.between,
        "drawn": spread.drawn,
        "sessions": sample_size.sessions_for(spread.drawn, within),
    }


def _percent(share: float) -> str:
    """Return a share as a percentage with three digits."""
    return f"{100 * share:.3g} %"
