"""Importer of vLLM's `bench latency`: the seconds of each offline call for one batch, without shape or model."""

from __future__ import annotations

from statistics import fmean, median
from typing import TYPE_CHECKING

from llmbench.importers import Reading
from llmbench.importers.fields import Fields, agree
from llmbench.results.record import Finding, Sample

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile

TOOL = "vllm bench latency"

KEYS = {"avg_latency", "latencies", "percentiles"}

NOT_COUNTED = Finding(
    "tokens_not_counted",
    "the lengths are those asked for; sampled at temperature 1, detokenised unless that was switched off",
)


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file."""
    return document.only.keys() >= KEYS


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return its iterations as samples, which like ours run until all tokens are on the host."""
    del said
    fields = Fields(document.values[0], document.name)
    latencies = fields.positives("latencies")
    agree(fields.positive("avg_latency"), fmean(latencies), "avg_latency", fields.where)
    percentiles = fields.inner("percentiles")
    agree(percentiles.positive("50"), median(latencies), "percentiles.50", fields.where)
    return [
        Reading(
            where={"backend": "vllm", "prompts": "synthetic", "options": fields.rest(KEYS)},
            samples=[sample(seconds) for seconds in latencies],
            timed="the call that generates the batch, detokenising included; host, perf_counter",
            warnings=[NOT_COUNTED],
            refused={
                "avg_latency": "a mean; the iterations themselves are taken, and their median shown",
                "percentiles": "with few iterations they are guesses; the iterations themselves are taken",
            },
        )
    ]


def sample(seconds: float) -> Sample:
    """Return one timed call of which only the total time is known."""
    return Sample(e2e_ns=round(seconds * 1e9), wall_ns=None, token_ns=[])
