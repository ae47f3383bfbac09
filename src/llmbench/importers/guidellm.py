"""Importer of GuideLLM's JSON report: one benchmark per rate or concurrency, with each request's wall-clock times.

Its `median` is the lower of two middle values and weighs requests by their tokens; medians are therefore computed
from the requests; its `time_per_output_token_ms` includes the prompt and is not TPOT.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llmbench.errors import Unconvertible
from llmbench.importers import Reading, served
from llmbench.importers.fields import AGREE_WITHIN, NOT_OF_A_CELL, Fields, agree, last_name

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile
    from llmbench.results.record import Given

TOOL = "guidellm"

CLOCK = "the client, wall clock, from the request sent"
TOKENS = "the server's usage, or the client's tokenizer where the server says none"

REFUSED = {
    "time_per_output_token_ms": "divides the whole request, its prompt too, by its tokens: no TPOT",
    "median of metrics": "the lower of two middle values, weighed by tokens; the requests are taken instead",
    "request_latency": "ends with the stream; the time of the last token is taken",
    "gaps between tokens": "are not in the file",
}


def recognises(document: ToolFile) -> bool:
    """Return whether this is such a file."""
    value = document.values[0]
    if len(document.values) != 1 or not isinstance(value, dict):
        return False
    metadata = value.get("metadata")
    return "benchmarks" in value and isinstance(metadata, dict) and "guidellm_version" in metadata


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return one reading per benchmark."""
    del said
    fields = Fields(document.values[0], document.name)
    version = fields.inner("metadata").text("guidellm_version")
    benchmarks = fields.each("benchmarks")
    if not benchmarks:
        raise Unconvertible(f"{document.name}: holds no benchmark.")
    return [_reading(benchmark, version) for benchmark in benchmarks]


def _reading(benchmark: Fields, version: str) -> Reading:
    counts = benchmark.inner("metrics").inner("request_totals")
    done, total = counts.count("successful"), counts.count("total")
    if not done:
        raise Unconvertible(f"{benchmark.where}: 0 of {total:,} requests were completed.")
    requests = benchmark.inner("requests").each("successful")
    refused = dict(REFUSED)
    given: dict[str, Given] = {}
    lengths: tuple[int | None, int | None] = (None, None)
    if len(requests) == done:
        given, lengths = _of_requests(requests), _lengths(requests)
    else:
        refused["requests"] = (
            f"{len(requests):,} of {done:,} are in the file, and a median needs all of them"
        )
    if _trimmed(benchmark):
        refused["rates"] = "warm-up or cool-down are cut off: not the whole run's"
    else:
        given |= _rates(benchmark, refused)
    if not given:
        raise Unconvertible(f"{benchmark.where}: {'; '.join(refused.values())}.")
    return Reading(
        where={**_where(benchmark), "input_len": lengths[0], "output_len": lengths[1]},
        traits=benchmark.inner("config").rest({"strategy"}, *NOT_OF_A_CELL),
        given=given,
        warnings=served.failed(counts.count("errored"), total),
        refused=refused,
        version=version,
    )


def _where(benchmark: Fields) -> dict[str, Any]:
    config = benchmark.inner("config")
    strategy = config.inner("strategy")
    options: dict[str, Any] = {"strategy": strategy.text("type_")}
    for key in ("max_concurrency", "streams", "rate"):
        if strategy.has(key):
            options[key] = strategy.scalar(key)
    backend = config.inner("backend")
    return {
        "model": last_name(backend.text("model")) if backend.has("model") else None,
        "options": options,
    }


def _lengths(requests: list[Fields]) -> tuple[int | None, int | None]:
    prompts = [
        request.count("prompt_tokens") for request in requests if request.has("prompt_tokens")
    ]
    news = [request.count("output_tokens") for request in requests]
    return (served.shared(prompts) if len(prompts) == len(requests) else None), served.shared(news)


def _of_requests(requests: list[Fields]) -> dict[str, Given]:
    """Return medians over requests, computed from their timestamps and checked against their own figures."""
    ttfts: list[float] = []
    tpots: list[float] = []
    wholes: list[float] = []
    for request in requests:
        timings = request.inner("info").inner("timings")
        start = timings.positive("request_start")
        if not timings.has("first_token_iteration", "last_token_iteration"):
            continue  # not streamed
        first, last = (
            timings.positive("first_token_iteration"),
            timings.positive("last_token_iteration"),
        )
        if not start < first <= last:
            raise Unconvertible(f"{request.where}: its tokens come before it was sent.")
        agree(
            request.positive("time_to_first_token_ms") / 1e3,
            first - start,
            "time_to_first_token_ms",
            request.where,
        )
        ttfts.append(first - start)
        wholes.append(last - start)
        tokens = request.count("output_tokens")
        if tokens > 1 and last > first:
            tpots.append((last - first) / (tokens - 1))
            agree(
                request.positive("inter_token_latency_ms") / 1e3,
                tpots[-1],
                "inter_token_latency_ms",
                request.where,
            )
    if len(ttfts) != len(requests):
        return {}
    return {
        **served.of_requests("request_ttft_s", ttfts, CLOCK),
        **served.of_requests("request_tpot_s", tpots, CLOCK, TOKENS),
        **served.of_requests("request_e2e_s", wholes, CLOCK),
    }


def _trimmed(benchmark: Fields) -> bool:
    return any(
        benchmark.has(key) and benchmark.scalar(key) != 0
        for key in ("warmup_duration", "cooldown_duration")
    )


def _rates(benchmark: Fields, refused: dict[str, str]) -> dict[str, Given]:
    """Return the rates that are over the whole run; some versions divide by the time since the first token."""
    metrics, duration_s = benchmark.inner("metrics"), benchmark.positive("duration")
    given: dict[str, Given] = {}
    for key, theirs, counted in (
        ("served_output_tok_s", "output_tokens_per_second", ("output_token_count",)),
        ("served_total_tok_s", "tokens_per_second", ("prompt_token_count", "output_token_count")),
    ):
        tokens = sum(
            metrics.inner(name).inner("successful").positive("total_sum") for name in counted
        )
        rate = metrics.inner(theirs).inner("successful").positive("mean")
        if math.isclose(rate, tokens / duration_s, rel_tol=AGREE_WITHIN):
            given |= served.of_run(key, rate, CLOCK, TOKENS)
        else:
            refused[theirs] = (
                f"{rate:.6g} is not the {tokens / duration_s:.6g} of the whole run; some versions divide by the time "
                "since the first token"
            )
    return given
