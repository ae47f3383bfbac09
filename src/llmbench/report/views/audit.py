"""llmbench's own promises and whether they held, as documents: of a run, and of engines against a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import numbers, selftest
from llmbench.report.document import Document, Note, Section
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.results.record import Parity

CHECKS = (Fact("check", "check"), Fact("verdict", "verdict"), Fact("figures", "figures"))


def document(checked: Sequence[selftest.Checked]) -> Document:
    """Return checks with their verdicts."""
    rows = [
        {
            "check": one.check,
            "verdict": "passed" if one.passed else "FAILED",
            "figures": one.figures,
        }
        for one in checked
    ]
    return Document(
        "Audit",
        [Section([facts.table(CHECKS, rows)])],
        facts.sheet(rows, [column.key for column in CHECKS]),
        lambda: rows,
        notes=[Note(summary(checked))],
    )


def summary(checked: Sequence[selftest.Checked]) -> str:
    """Return how many checks passed, and what to do where those that failed may be the machine's doing."""
    passed = sum(one.passed for one in checked)
    loud = any(one.check.startswith(selftest.QUIET) and not one.passed for one in checked)
    why = " Other work may be why: audit again when nothing else runs." if loud else ""
    return f"{passed} of {len(checked)} passed.{why}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _nats(value: float) -> str:
    return f"{value:.1e}"


ENGINES = (
    Fact("model", "model", kind="name"),
    Fact("dtype", "dtype"),
    Fact("backend", "backend"),
    Fact("options", "options"),
    Fact("positions", "tokens", numbers.whole),
    Fact("agreement", "same", _percent),
    Fact("wrong", "wrong", numbers.whole),
    Fact("error_nats", "error", _nats),
    Fact("noise_nats", "noise", _nats),
    Fact("verdict", "verdict"),
    Fact("why", "why"),
)


def parity(verdicts: Sequence[Parity]) -> Document:
    """Return engines with their verdicts against a float32 reference."""
    rows = [_row(verdict) for verdict in verdicts]
    passed = sum(verdict.verdict == "passed" for verdict in verdicts)
    quantised = sum(verdict.verdict == "quantised" for verdict in verdicts)
    more = (
        f" {quantised} quantised: another function, by as much as the error says."
        if quantised
        else ""
    )
    return Document(
        "Engines against a float32 reference",
        [Section([facts.table(ENGINES, rows, 4)])],
        facts.sheet(rows, [column.key for column in ENGINES]),
        lambda: rows,
        notes=[Note(f"{passed} of {len(verdicts) - quantised} passed.{more}")],
    )


def _row(verdict: Parity) -> dict[str, Any]:
    options = " ".join(f"{key}={value}" for key, value in verdict.options.items())
    compared = verdict.positions and verdict.same is not None
    agreement = verdict.same / verdict.positions if compared else None  # type: ignore[operator]
    return {**msgspec.to_builtins(verdict), "options": options, "agreement": agreement}
