"""Importer of llmperf's summary (`token_benchmark_ray.py`): quantiles over requests, all at the top of one object.

Its inter token latency divides the whole request, its prompt too, by the tokens, and its latency ends with the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmbench.errors import Unconvertible
from llmbench.importers import Reading, served
from llmbench.importers.fields import Fields, agree, last_name

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile
    from llmbench.results.record import Given

TOOL = "llmperf"

COUNTS = ("results_num_requests_started", "results_num_completed_requests")
TTFT, RATE, TOKENS_EACH, PER_MINUTE = (
    "results_ttft_s_quantiles_p50",
    "results_mean_output_throughput_token_per_s",
    "results_number_output_tokens_mean",
    "results_num_completed_requests_per_min",
)
KEYS = {"model", "num_concurrent_requests", *COUNTS, RATE}

CLOCK = "the client, monotonic, from the request sent"
TOKENS = "the text tokenised again by the client"

SETTINGS = (
    "num_concurrent_requests",
    "mean_input_tokens",
    "stddev_input_tokens",
    "mean_output_tokens",
    "stddev_output_tokens",
)
NOT_SETTINGS = {"version", "name", "model", "timestamp"}

REFUSED = {
    "inter_token_latency_s": "divides the whole request, its prompt too, by its tokens: no TPOT",
    "end_to_end_latency_s": "ends with the stream, not with the last piece of text",
    "request_output_throughput_token_per_s": "a rate of each request",
    "mean, p90, p95, p99": "means, and percentiles of few requests; the medians are taken",
}


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file."""
    return document.only.keys() >= KEYS


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return the run in the file as one reading."""
    del said
    fields = Fields(document.values[0], document.name)
    started, completed = (fields.count(name) for name in COUNTS)
    if not 0 < completed <= started:
        raise Unconvertible(
            f"{fields.where}: {completed:,} of {started:,} requests were completed."
        )
    given = _rate(fields, completed)
    if fields.has(TTFT):
        given |= served.of_run("request_ttft_s", fields.positive(TTFT), CLOCK)
    settings: dict[str, Any] = {key: fields.scalar(key) for key in SETTINGS if fields.has(key)}
    others = fields.rest({*SETTINGS, *NOT_SETTINGS}, r"results_.*")
    return [
        Reading(
            where={"model": last_name(fields.text("model")), "options": settings | others},
            given=given,
            warnings=served.failed(started - completed, started),
            refused=REFUSED,
        )
    ]


def _rate(fields: Fields, completed: int) -> dict[str, Given]:
    """Return the rate over the run, whose duration follows from the requests per minute."""
    rate, per_minute = fields.positive(RATE), fields.positive(PER_MINUTE)
    tokens = fields.positive(TOKENS_EACH) * completed
    agree(rate, tokens * per_minute / 60 / completed, RATE, fields.where)
    return served.of_run("served_output_tok_s", rate, CLOCK, TOKENS)
