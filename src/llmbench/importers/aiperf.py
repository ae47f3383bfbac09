"""Importer of AIPerf's `profile_export_aiperf.json`, the summary of a run; its client uses a monotonic clock.

Its inter token latency is TPOT: the request's time after its first piece, divided by its tokens less one.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llmbench.errors import Unconvertible
from llmbench.importers import Reading, served
from llmbench.importers.fields import NOT_OF_A_CELL, Fields, agree, last_name
from llmbench.results.record import Finding

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile
    from llmbench.results.record import Given

TOOL = "aiperf"

CLOCK = "the client, perf_counter, from the request sent"
TOKENS = "the client's tokenizer, or the server's usage with --use-server-token-count"

MEDIANS = {
    "request_ttft_s": "time_to_first_token",
    "request_tpot_s": "inter_token_latency",
    "request_itl_s": "inter_chunk_latency",
    "request_e2e_s": "request_latency",
}
"""Its metrics of single requests, by our key with the same definition."""

LOAD = ("type", "concurrency", "rate", "request_rate")
"""Settings of a phase that change the number, kept as options if the file has them."""

REFUSED = {
    "avg": "means; the medians are taken",
    "p90, p95, p99": "percentiles of few requests are guesses",
    "output_token_throughput_per_user": "the inverse of TPOT, as a mean of rates",
    "time_to_second_token": "one gap of each request; the median of all gaps is taken",
}


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file; up to 0.10 it does not say its version."""
    whole = _whole(document)
    config = whole.get("input_config")
    if not isinstance(config, dict) or "request_latency" not in whole:
        return False
    endpoint = config.get("endpoint")
    return "aiperf_version" in whole or (isinstance(endpoint, dict) and "model_names" in endpoint)


def _whole(document: ToolFile) -> dict[str, Any]:
    """Return the file's only object, in which 0.1 has the metrics under `records`; empty for other files."""
    records = document.only.get("records")
    return {**document.only, **records} if isinstance(records, dict) else document.only


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return the run in the file as one reading."""
    del said
    fields = Fields(_whole(document), document.name)
    done = round(stated(fields, "request_count", "requests", "avg"))
    failed = _failed(fields)
    if fields.has("was_cancelled") and fields.scalar("was_cancelled") is True:
        raise Unconvertible(
            f"{document.name}: was cancelled after {done:,} requests; import a complete run."
        )
    given: dict[str, Given] = {}
    for key, theirs in MEDIANS.items():
        if fields.has(theirs):
            tokens = TOKENS if key == "request_tpot_s" else ""
            given |= served.of_run(key, median_s(fields, theirs), CLOCK, tokens)
    given |= _rates(fields)
    return [
        Reading(
            where=_where(fields),
            traits=fields.inner("input_config").rest({"models"}, *NOT_OF_A_CELL, lists=True),
            given=given,
            warnings=[*served.failed(failed, done + failed), *_empty(fields), *_recounted(fields)],
            refused=REFUSED,
            version=fields.text("aiperf_version") if fields.has("aiperf_version") else None,
            ended=fields.text("end_time") if fields.has("end_time") else None,
        )
    ]


def _failed(fields: Fields) -> int:
    """Return how many requests failed, by their count or by the summary of errors."""
    if fields.has("error_request_count"):
        return round(stated(fields, "error_request_count", "requests", "avg"))
    errors = fields.each("error_summary") if fields.has("error_summary") else []
    return sum(error.count("count") for error in errors)


def median_s(fields: Fields, name: str) -> float:
    """Return the median of a metric in milliseconds, in seconds."""
    return stated(fields, name, "ms", "p50") / 1e3


def stated(fields: Fields, name: str, unit: str, which: str) -> float:
    """Return one figure of a metric after checking its unit, and its mean against its sum and count."""
    metric = fields.inner(name)
    if metric.text("unit") != unit:
        raise Unconvertible(f"{metric.where}.unit: {metric.text('unit')!r} is not {unit!r}.")
    if metric.has("avg", "sum", "count"):
        agree(
            metric.positive("avg"),
            metric.positive("sum") / max(1, metric.count("count")),
            "avg",
            metric.where,
        )
    if which == "p50" and metric.has("p25", "p75"):
        low, middle, high = (metric.positive(key) for key in ("p25", "p50", "p75"))
        if not low <= middle <= high:
            raise Unconvertible(
                f"{metric.where}.p50: {middle:g} lies outside of {low:g} to {high:g}."
            )
    return metric.positive(which)


def _rates(fields: Fields) -> dict[str, Given]:
    """Return token rates over the run, which the tool takes from start to end, or up to 0.11 from its first request."""
    given: dict[str, Given] = {}
    if not fields.has("output_token_throughput", "total_osl", "start_time", "end_time"):
        return given
    durations_s = [_duration_s(fields)]
    if fields.has("benchmark_duration"):
        durations_s.append(stated(fields, "benchmark_duration", "sec", "avg"))
    for key, theirs, counted in (
        ("served_output_tok_s", "output_token_throughput", ("total_osl",)),
        ("served_total_tok_s", "total_token_throughput", ("total_osl", "total_isl")),
    ):
        if fields.has(theirs, *counted):
            rate = stated(fields, theirs, "tokens/sec", "avg")
            tokens = sum(stated(fields, name, "tokens", "avg") for name in counted)
            nearest_s = min(durations_s, key=lambda duration_s: abs(rate * duration_s - tokens))
            agree(rate, tokens / nearest_s, theirs, fields.where)
            given |= served.of_run(key, rate, CLOCK, TOKENS)
    return given


def _duration_s(fields: Fields) -> float:
    start, end = fields.text("start_time"), fields.text("end_time")
    try:
        return (
            datetime.fromisoformat(end) - datetime.fromisoformat(start)
        ).total_seconds() or math.nan
    except (ValueError, TypeError):
        raise Unconvertible(
            f"{fields.where}: {start!r} to {end!r} is not a valid period."
        ) from None


def _where(fields: Fields) -> dict[str, Any]:
    config = fields.inner("input_config")
    return {
        "model": _model(config),
        "options": _load(config),
        "input_len": length(fields, "input_sequence_length"),
        "output_len": length(fields, "output_sequence_length"),
    }


def _model(config: Fields) -> str | None:
    """Return the model's name if there is only one."""
    models = config.inner("models").each("items") if config.has("models") else []
    names = [model.text("name") for model in models]
    if config.has("endpoint") and config.inner("endpoint").has("model_names"):
        names = config.inner("endpoint").texts("model_names")
    return last_name(names[0]) if len(names) == 1 else None


def _load(config: Fields) -> dict[str, Any]:
    """Return the load on the server, if it was constant; up to 0.10 it is under `loadgen`."""
    phases = config.each("phases") if config.has("phases") else []
    measured = [one for one in phases if "profiling" in _names(one)]
    if config.has("loadgen"):
        measured.append(config.inner("loadgen"))
    if len(measured) != 1:
        return {}
    return {key: measured[0].scalar(key) for key in LOAD if measured[0].has(key)}


def _names(phase: Fields) -> list[str]:
    """Return what a phase is called: its kind, or up to 0.11 its name."""
    return [phase.text(key) for key in ("kind", "name") if phase.has(key)][:1]


def length(fields: Fields, name: str) -> int | None:
    """Return the common length of all requests, if there is one."""
    if not fields.has(name):
        return None
    metric = fields.inner(name)
    same = metric.has("min", "max") and metric.count("min") == metric.count("max")
    return metric.count("min") if same else None


def _empty(fields: Fields) -> list[Finding]:
    """Return a warning if the shortest answer has no token; the file does not say how many there are."""
    name = "output_sequence_length"
    if not fields.has(name) or fields.inner(name).raw("min") != 0:
        return []
    return [Finding("empty_answers", "at least one completed request gave no token")]


def _recounted(fields: Fields) -> list[Finding]:
    """Return a warning if the client's token count of the text differs from the server's count."""
    if not fields.has("total_osl", "total_usage_completion_tokens"):
        return []
    counted = round(stated(fields, "total_osl", "tokens", "avg"))
    made = round(stated(fields, "total_usage_completion_tokens", "tokens", "avg"))
    detail = f"the client counted {counted:,} new tokens in the text, and the server made {made:,}"
    return [Finding("tokens_recounted", detail)] if counted != made else []
