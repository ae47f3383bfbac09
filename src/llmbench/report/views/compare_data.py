"""A comparison for programs: every cell with its ratio, interval, probabilities and verdict."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import __version__
from llmbench.compare import words as verdict_words
from llmbench.report.views import facts
from llmbench.stats.effects import FALSE_DISCOVERIES, SAME_CONFIDENCE, Noise, Verdict
from llmbench.stats.intervals import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.compare import Comparison, Contrast

FORMAT = 1
"""The shape of the data; its history: 1, the first."""


def sheet(made: Comparison) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield the columns of all candidates' cells, those without a comparison too."""
    rows = [
        {"candidate_name": contrast.name, **cell, "options": _options(cell["options"])}
        for contrast in made.contrasts
        for cell in _cells(made, contrast)
    ]
    rows += [
        {"candidate_name": contrast.name, **msgspec.structs.asdict(cell), "options": _options(cell.options),
         "verdict": "missing", "reason": f"{missing.lacking}: {missing.reason}"}
        for contrast in made.contrasts
        for missing in contrast.missing
        for cell in missing.cells
    ]  # fmt: skip
    return facts.sheet(rows)


def _options(options: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def data(made: Comparison) -> dict[str, Any]:
    """Return the comparison whole; what is absent is NaN or None."""
    asked = made.asked
    return {
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


def _candidate(made: Comparison, contrast: Contrast) -> dict[str, Any]:
    return {
        "name": contrast.name,
        "verdicts": counts(made, contrast),
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
    named, effects = verdict_words(made.asked.metric), contrast.effects
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


def counts(made: Comparison, contrast: Contrast) -> dict[str, int]:
    """Return how many cells have which verdict, and how many could not be compared."""
    found = Counter(contrast.effects.verdict.tolist())
    lacking = sum(len(missing.cells) for missing in contrast.missing)
    return {word: found[verdict] for verdict, word in verdict_words(made.asked.metric).items()} | {
        "missing": lacking
    }
