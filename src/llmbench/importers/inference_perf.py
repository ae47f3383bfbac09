"""Importer of inference-perf's reports of a stage or a whole run: a summary of requests timed by the client.

Its file names no model and no server. Its gaps between tokens are left out: tokens of one piece are 0 apart there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.errors import Unconvertible
from llmbench.importers import Reading, served
from llmbench.importers.fields import Fields, agree
from llmbench.results.record import Finding

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile
    from llmbench.results.record import Given

TOOL = "inference-perf"

KEYS = {"load_summary", "successes", "failures"}

CLOCK = "the client, from the request sent"
TOKENS = "the client's tokenizer, or the server's usage if the client was told to"

LOAD = ("requested_rate", "concurrency")
"""Settings in the file; the whole run's summary has none."""

MEDIANS = {"request_ttft_s": "time_to_first_token", "request_tpot_s": "time_per_output_token"}

REFUSED = {
    "mean, p*": "means, and percentiles of few requests, which are guesses; the medians are taken",
    "request_latency": "ends with the stream, not with the last token",
    "normalized_time_per_output_token": "divides the whole request, its prompt too, by its tokens: no TPOT",
    "inter_token_latency": "tokens of one piece are 0 apart",
    "requests_per_sec": "says nothing without the lengths of the requests",
}


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file."""
    return document.only.keys() >= KEYS


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return the stage or run in the file as one reading."""
    del said
    fields = Fields(document.values[0], document.name)
    successes, failures = fields.inner("successes"), fields.inner("failures")
    done, failed = successes.count("count"), failures.count("count")
    if not done:
        raise Unconvertible(f"{fields.where}: 0 of {failed:,} requests were completed.")
    latency, load = successes.inner("latency"), fields.inner("load_summary")
    given: dict[str, Given] = {}
    for key, theirs in MEDIANS.items():
        if latency.has(theirs) and latency.inner(theirs).has("median"):
            tokens = TOKENS if key == "request_tpot_s" else ""
            median_s = latency.inner(theirs).positive("median")
            given |= served.of_run(key, median_s, CLOCK, tokens)
    rates, recounted = _rates(successes, fields)
    return [
        Reading(
            where={
                "options": {name: load.scalar(name) for name in LOAD if load.has(name)},
                "input_len": _shared(successes, "prompt_tokens", "prompt_len"),
                "output_len": _shared(successes, "output_tokens", "output_len"),
            },
            given={**given, **rates},
            warnings=[*served.failed(failed, failed + done), *recounted],
            refused=dict(REFUSED),
        )
    ]


def _rates(successes: Fields, fields: Fields) -> tuple[dict[str, Given], list[Finding]]:
    """Return the rates over the run; new tokens by the server's count where the file has one."""
    stated = successes.inner("throughput")
    made, prompts = (stated.positive(f"{kind}_tokens_per_sec") for kind in ("output", "input"))
    agree(
        stated.positive("total_tokens_per_sec"),
        made + prompts,
        "total_tokens_per_sec",
        fields.where,
    )
    tokens, recounted = TOKENS, []
    if successes.has("output_tokens") and fields.has("benchmark_time_seconds"):
        seconds = fields.positive("benchmark_time_seconds")
        counted, total = made * seconds, successes.inner("output_tokens").positive("total")
        made, tokens = (
            total / seconds,
            "the server's usage, or the client's tokenizer where it says none",
        )
        if round(counted) != round(total):
            detail = f"the client counted {counted:,.0f} new tokens in the text, and the server made {total:,.0f}"
            recounted = [Finding("tokens_recounted", detail)]
    return {
        **served.of_run("served_output_tok_s", made, CLOCK, tokens),
        **served.of_run("served_total_tok_s", made + prompts, CLOCK, tokens),
    }, recounted


def _shared(successes: Fields, *names: str) -> int | None:
    """Return the length of all prompts or answers if it is one; older versions have another key."""
    held = next((successes.inner(name) for name in names if successes.has(name)), None)
    if held is None or not held.has("min", "max") or held.scalar("min") != held.scalar("max"):
        return None
    return held.count("min")
