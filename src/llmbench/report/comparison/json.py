"""A comparison as JSON: every cell with its ratio, interval, probabilities and verdict; what is absent is null."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import __version__
from llmbench.compare import words
from llmbench.redact import spelled
from llmbench.report.views import comparison
from llmbench.stats.effects import FALSE_DISCOVERIES, SAME_CONFIDENCE, Noise, Verdict
from llmbench.stats.intervals import CONFIDENCE

if TYPE_CHECKING:
    from llmbench.compare import Comparison, Contrast
    from llmbench.report import Page

FORMAT = 1
"""The shape of this export; its history: 1, the first."""


def render(made: Comparison, page: Page) -> str:
    """Return the comparison as JSON; the page does not matter. msgspec writes NaN as null."""
    del page
    asked = made.asked
    whole = {
        "format": FORMAT,
        "llmbench": __version__,
        "metric": asked.metric.key,
        "definition": asked.metric.definition,
        "better": asked.metric.better,
        "margin": asked.margin,
        "by": asked.factor,
        "paired": asked.factor is not None,
        "confidence": CONFIDENCE,
        "confidence_same": SAME_CONFIDENCE,
        "false_discovery_rate": FALSE_DISCOVERIES,
        "baseline": made.baseline,
        "notices": made.notices,
        "candidates": [_candidate(made, contrast) for contrast in made.contrasts],
    }
    return spelled(msgspec.json.format(msgspec.json.encode(whole), indent=1).decode()) + "\n"


def _candidate(made: Comparison, contrast: Contrast) -> dict[str, Any]:
    return {
        "name": contrast.name,
        "verdicts": comparison.counts(made, contrast),
        "overall": contrast.overall._asdict(),
        "cells": _cells(made, contrast),
        "missing": [
            {
                "lacking": missing.lacking,
                "reason": missing.reason,
                "cells": [msgspec.structs.asdict(cell) for cell in missing.cells],
            }
            for missing in contrast.missing
        ],
        "notices": contrast.notices,
    }


def _cells(made: Comparison, contrast: Contrast) -> list[dict[str, Any]]:
    named, effects = words(made.asked.metric), contrast.effects
    columns = {
        "baseline": contrast.middles[0],
        "candidate": contrast.middles[1],
        "sessions_baseline": contrast.sessions[0],
        "sessions_candidate": contrast.sessions[1],
        **{name: getattr(effects, name) for name in ("ratio", "low", "high", "p", "adjusted")},
        "sessions_needed": effects.needed,
        "busy_machine": contrast.disturbed,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    ends = zip(effects.verdict.tolist(), effects.noise.tolist(), strict=True)
    return [
        {
            **msgspec.structs.asdict(cell),
            **dict(zip(columns, row, strict=True)),
            "verdict": named[Verdict(verdict)],
            "variance": Noise(noise).name.lower(),
        }
        for cell, row, (verdict, noise) in zip(contrast.cells, rows, ends, strict=True)
    ]
