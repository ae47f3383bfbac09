"""Importer of vLLM's `bench serve`: HTTP requests timed by the client; `--save-detailed` adds each request."""

from __future__ import annotations

from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.errors import Unconvertible
from llmbench.importers import Reading, served
from llmbench.importers.fields import Fields, agree, last_name
from llmbench.results.record import Given  # noqa: TC001 - a plain import is as cheap

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile

TOOL = "vllm bench serve"

KEYS = {"model_id", "num_prompts", "request_rate", "duration", "completed", "total_input_tokens"}

CLOCK = "the client, perf_counter, from the request sent"
TOKENS = "the server's usage, or the text tokenised again by the client where the server says none"

REFUSED = {
    "mean_*_ms": "means; the medians are taken",
    "p*_*_ms": "percentiles of few requests are guesses; the requests are taken where the file has them",
    "max_output_tokens_per_s": "the best second, not the run",
    "request_throughput": "says nothing without the lengths of the requests",
}


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file."""
    value = document.values[0]
    return len(document.values) == 1 and isinstance(value, dict) and value.keys() >= KEYS


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return its run; its times include the queue and the network and therefore get names of their own."""
    del said
    fields = Fields(document.values[0], document.name)
    completed, asked = fields.count("completed"), fields.count("num_prompts")
    if not 0 < completed <= asked:
        raise Unconvertible(f"{document.name}: {completed:,} of {asked:,} requests were completed.")
    if not fields.has("total_output_tokens", "output_throughput"):
        raise Unconvertible(
            f"{document.name}: counts no new tokens; benchmarks of embeddings cannot be imported."
        )
    detailed = fields.has("ttfts", "itls", "output_lens", "input_lens")
    requests = _requests(fields) if detailed else []
    given = {
        **_rates(fields),
        **(_given_by_each(fields, requests) if detailed else _given_in_sum(fields)),
    }
    return [
        Reading(
            where=_where(fields, requests),
            given=given,
            warnings=served.failed(asked - completed, asked),
            refused=REFUSED,
            ended=_date(fields),
            own_process=False,
        )
    ]


def _where(fields: Fields, requests: list[Request]) -> dict[str, Any]:
    options = {
        key: fields.scalar(key) for key in ("max_concurrency", "request_rate") if fields.has(key)
    }
    return {
        "model": last_name(fields.text("model_id")),
        "options": options,
        "input_len": served.shared([request.input_len for request in requests]),
        "output_len": served.shared([request.output_len for request in requests]),
    }


def _rates(fields: Fields) -> dict[str, Given]:
    duration_s = fields.positive("duration")
    prompt, new = fields.count("total_input_tokens"), fields.count("total_output_tokens")
    rate, total = fields.positive("output_throughput"), fields.positive("total_token_throughput")
    agree(rate, new / duration_s, "output_throughput", fields.where)
    agree(total, (prompt + new) / duration_s, "total_token_throughput", fields.where)
    return {
        **served.of_run("served_output_tok_s", rate, CLOCK, TOKENS),
        **served.of_run("served_total_tok_s", total, CLOCK, f"prompts by the client; {TOKENS}"),
    }


class Request(NamedTuple):
    """A completed request: its lengths, seconds to its first piece, and the gaps after that."""

    input_len: int
    output_len: int
    ttft_s: float
    gaps_s: list[float]


def _requests(fields: Fields) -> list[Request]:
    """Return the completed requests: lengths, seconds to the first piece, and the gaps after it."""
    columns = [fields.lists(key) for key in ("input_lens", "output_lens", "ttfts", "itls")]
    errors = fields.lists("errors") if fields.has("errors") else [""] * len(columns[0])
    if len({len(column) for column in (*columns, errors)}) != 1:
        raise Unconvertible(
            f"{fields.where}: its lists of requests differ in length; the file is incomplete."
        )
    requests: list[Request] = []
    for number, (*row, error) in enumerate(zip(*columns, errors, strict=True)):
        if error or not row[1]:
            continue
        one = Fields(
            dict(zip(("in", "out", "ttft", "gaps"), row, strict=True)),
            f"{fields.where}: request {number}",
        )
        gaps = one.not_negatives("gaps")
        requests.append(Request(one.count("in"), one.count("out"), one.positive("ttft"), gaps))
    if len(requests) != fields.count("completed"):
        raise Unconvertible(
            f"{fields.where}: says that {fields.count('completed'):,} requests were completed, "
            f"but contains {len(requests):,}."
        )
    agree(
        fields.count("total_output_tokens"),
        sum(request.output_len for request in requests),
        "total_output_tokens",
        fields.where,
    )
    return requests


def _given_by_each(fields: Fields, requests: list[Request]) -> dict[str, Given]:
    """Return medians over the requests after checking them against those in the file."""
    columns: dict[str, tuple[str, list[float], str]] = {
        "request_ttft_s": ("median_ttft_ms", [request.ttft_s for request in requests], ""),
        "request_tpot_s": (
            "median_tpot_ms",
            [
                sum(request.gaps_s) / (request.output_len - 1)
                for request in requests
                if request.output_len > 1 and request.gaps_s
            ],
            TOKENS,
        ),
        "request_itl_s": (
            "median_itl_ms",
            [gap for request in requests for gap in request.gaps_s],
            "",
        ),
        "request_e2e_s": (
            "median_e2el_ms",
            [request.ttft_s + sum(request.gaps_s) for request in requests],
            "",
        ),
    }
    given: dict[str, Given] = {}
    for key, (theirs, samples, tokens) in columns.items():
        given.update(served.of_requests(key, samples, CLOCK, tokens))
        if samples and fields.has(theirs):
            agree(fields.positive(theirs) / 1e3, median(samples), theirs, fields.where)
    return given


def _given_in_sum(fields: Fields) -> dict[str, Given]:
    """Return the medians in the file; it writes 0 for missing ones."""
    names = {
        "request_ttft_s": "median_ttft_ms",
        "request_tpot_s": "median_tpot_ms",
        "request_itl_s": "median_itl_ms",
        "request_e2e_s": "median_e2el_ms",
    }
    given: dict[str, Given] = {}
    for key, theirs in names.items():
        if fields.has(theirs) and fields.scalar(theirs) != 0:
            given.update(served.of_run(key, fields.positive(theirs) / 1e3, CLOCK, TOKENS))
    return given


def _date(fields: Fields) -> str | None:
    if not fields.has("date"):
        return None
    try:
        return datetime.strptime(fields.text("date"), "%Y%m%d-%H%M%S").isoformat()  # noqa: DTZ007 - it says no zone
    except ValueError:
        return None
