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

TIMES = ("request_start", "first_token_iteration", "last_token_iteration")
OF_2025 = ("start_time", "first_token_time", "last_token_time")
"""When a request was sent, and when its first and last tokens came; the names until 0.3."""

REFUSED = {
    "time_per_output_token_ms": "divides the whole request, its prompt too, by its tokens: no TPOT",
    "median of metrics": "the lower of two middle values, weighed by tokens; the requests are taken instead",
    "request_latency": "ends with the stream; the time of the last token is taken",
    "gaps between tokens": "are not in the file",
}


def recognises(document: ToolFile) -> bool:
    """Return whether this is such a file."""
    metadata, benchmarks = document.only.get("metadata"), document.only.get("benchmarks")
    if isinstance(metadata, dict) and "guidellm_version" in metadata:
        return isinstance(benchmarks, list)
    return bool(benchmarks) and _is_of_2025(benchmarks)


def _is_of_2025(benchmarks: Any) -> bool:
    """Return whether these are benchmarks of versions 0.2 and 0.3, which do not say their version."""
    return isinstance(benchmarks, list) and all(
        isinstance(one, dict)
        and one.get("type_") == "generative_benchmark"
        and {"args", "run_stats", "worker", "request_totals", "requests"} <= one.keys()
        for one in benchmarks
    )


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return one reading per benchmark."""
    del said
    fields = Fields(document.values[0], document.name)
    version = fields.inner("metadata").text("guidellm_version") if fields.has("metadata") else None
    benchmarks = fields.each("benchmarks")
    if not benchmarks:
        raise Unconvertible(f"{document.name}: holds no benchmark.")
    return [_reading(benchmark, version) for benchmark in benchmarks]


def _reading(benchmark: Fields, version: str | None) -> Reading:
    of_2025 = benchmark.has("request_totals")
    counts = (benchmark if of_2025 else benchmark.inner("metrics")).inner("request_totals")
    done, total = counts.count("successful"), counts.count("total")
    if not done:
        raise Unconvertible(f"{benchmark.where}: 0 of {total:,} requests were completed.")
    requests = benchmark.inner("requests").each("successful")
    refused = dict(REFUSED)
    given: dict[str, Given] = {}
    lengths: tuple[int | None, int | None] = (None, None)
    answered = [request for request in requests if request.count("output_tokens")]
    if len(requests) == done:
        given, lengths = _of_requests(answered), _lengths(answered)
        if answered and not given:
            refused["times of tokens"] = "the requests were not streamed"
    else:
        refused["requests"] = (
            f"{len(requests):,} of {done:,} are in the file, and a median needs all of them"
        )
    if of_2025:
        refused["rates"] = (
            "of each moment between two requests, weighed by its length: not the whole run's"
        )
    elif _trimmed(benchmark):
        refused["rates"] = "warm-up or cool-down are cut off: not the whole run's"
    else:
        given |= _rates(benchmark, refused)
    if not given:
        raise Unconvertible(f"{benchmark.where}: {'; '.join(refused.values())}.")
    return Reading(
        where={**_where(benchmark), "input_len": lengths[0], "output_len": lengths[1]},
        traits=benchmark.inner("args" if of_2025 else "config").rest(
            {"strategy"}, *NOT_OF_A_CELL, lists=True
        ),
        given=given,
        warnings=[
            *served.failed(counts.count("errored"), total),
            *served.empty(len(requests) - len(answered), len(requests)),
        ],
        refused=refused,
        version=version,
    )


def _where(benchmark: Fields) -> dict[str, Any]:
    of_2025 = benchmark.has("worker")
    config = benchmark.inner("args" if of_2025 else "config")
    strategy = config.inner("strategy")
    options: dict[str, Any] = {"strategy": strategy.text("type_")}
    for key in ("max_concurrency", "streams", "rate"):
        if strategy.has(key):
            options[key] = strategy.scalar(key)
    backend = benchmark.inner("worker") if of_2025 else config.inner("backend")
    name = "backend_model" if of_2025 else "model"
    return {
        "model": last_name(backend.text(name)) if backend.has(name) else None,
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
        names = OF_2025 if request.has("start_time", "first_token_time") else TIMES
        timings = request if names is OF_2025 else request.inner("info").inner("timings")
        start = timings.positive(names[0])
        if not timings.has(*names[1:]):
            continue  # not streamed
        first, last = timings.positive(names[1]), timings.positive(names[2])
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
