"""Importer of vLLM's `bench serve`: HTTP requests timed by the client; `--save-detailed` adds each request."""

from __future__ import annotations

from datetime import datetime
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

LOAD = ("max_concurrency", "request_rate")
"""Settings that are always shown, if the file has them."""

DEFAULTS: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "use_beam_search": (False,),
    "burstiness": (1, 1.0),
}
"""What other settings are if nobody sets them. Whatever else stands at the top was added by `bench sweep` or
--metadata, and is shown."""

TRAITS = ("backend", "endpoint_type", "tokenizer_id", "num_prompts")
"""What the file says of its client and its data."""

RESULTS = {
    "date", "model_id", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
    "request_goodput", "request_goodput:", "max_output_tokens_per_s", "max_concurrent_requests", "rtfx",
    "total_input", "total_output",
}  # fmt: skip
NUMBERS = (
    r"(mean|median|std|min|max|p\d+(\.\d+)?)_\w+_ms",
    r"(request|input|output|total_token|total)_throughput",
    r"(spec_decode|diffusion)_\w+",
)
"""Patterns of the keys of results."""

REFUSED = {
    "mean_*_ms": "means; the medians are taken",
    "p*_*_ms": "percentiles of few requests are guesses; the requests are taken where the file has them",
    "max_output_tokens_per_s": "the best second, not the run",
    "request_throughput": "says nothing without the lengths of the requests",
}


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file."""
    return served.has_keys(document, KEYS)


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return its runs: one, one per line (`--append-result`), or a list (the summary of `bench sweep`)."""
    del said
    return [_reading(fields) for fields in served.each_run(document)]


def _reading(fields: Fields) -> Reading:
    """Return a run; its times include the queue and the network and therefore get names of their own."""
    completed, asked = fields.count("completed"), fields.count("num_prompts")
    if not 0 < completed <= asked:
        raise Unconvertible(f"{fields.where}: {completed:,} of {asked:,} requests were completed.")
    if not fields.has("total_output_tokens", "output_throughput"):
        raise Unconvertible(
            f"{fields.where}: counts no new tokens; benchmarks of embeddings cannot be imported."
        )
    detailed = fields.has("ttfts", "itls", "output_lens", "input_lens")
    requests = _requests(fields) if detailed else []
    refused = dict(REFUSED)
    failed = fields.count("failed") if fields.has("failed") else asked - completed
    given = {
        **_rates(fields),
        **(
            _given_by_each(fields, requests, refused)
            if detailed
            else served.medians(fields, MEDIANS, CLOCK, TOKENS, refused)
        ),
    }
    empty = sum(not request.output_len for request in requests)
    return Reading(
        where=_where(fields, requests),
        traits={name: fields.scalar(name) for name in TRAITS if fields.has(name)},
        given=given,
        warnings=[
            *served.failed(failed, failed + completed),
            *(
                served.empty(empty, completed)
                if detailed
                else served.zero(fields, MEDIANS, completed)
            ),
        ],
        refused=refused,
        ended=_date(fields),
    )


MEDIANS = {
    "request_ttft_s": "median_ttft_ms",
    "request_tpot_s": "median_tpot_ms",
    "request_itl_s": "median_itl_ms",
    "request_e2e_s": "median_e2el_ms",
}


def _where(fields: Fields, requests: list[Request]) -> dict[str, Any]:
    others = fields.rest({*LOAD, *TRAITS, *RESULTS}, *NUMBERS)
    options = {key: fields.scalar(key) for key in LOAD if fields.has(key)} | {
        key: value for key, value in others.items() if value not in DEFAULTS.get(key, ())
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
    rate, total = fields.positive("output_throughput"), (prompt + new) / duration_s
    agree(rate, new / duration_s, "output_throughput", fields.where)
    if fields.has("total_token_throughput"):  # not in files of 2024
        stated, total = total, fields.positive("total_token_throughput")
        agree(total, stated, "total_token_throughput", fields.where)
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
        if error:
            continue
        one = Fields(
            dict(zip(("in", "out", "ttft", "gaps"), row, strict=True)),
            f"{fields.where}: request {number}",
        )
        new = one.count("out")
        ttft_s = one.positive("ttft") if new else 0.0
        requests.append(Request(one.count("in"), new, ttft_s, one.not_negatives("gaps")))
    if len(requests) > fields.count(
        "completed"
    ):  # those that failed have no error in some versions
        requests = [request for request in requests if request.output_len]
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


def _given_by_each(
    fields: Fields, requests: list[Request], refused: dict[str, str]
) -> dict[str, Given]:
    """Return medians over the requests that gave a token, after checking them against those in the file."""
    answered = [request for request in requests if request.output_len]
    columns: dict[str, tuple[list[float], str]] = {
        "request_ttft_s": ([request.ttft_s for request in answered], ""),
        "request_tpot_s": (
            [
                sum(request.gaps_s) / (request.output_len - 1)
                for request in answered
                if request.output_len > 1 and request.gaps_s
            ],
            TOKENS,
        ),
        "request_itl_s": ([gap for request in answered for gap in request.gaps_s], ""),
        "request_e2e_s": ([request.ttft_s + sum(request.gaps_s) for request in answered], ""),
    }
    given: dict[str, Given] = {}
    for key, (samples, tokens) in columns.items():
        theirs = MEDIANS[key]
        stated = served.stated(fields, theirs, refused) if samples else None
        taken = served.of_requests(key, samples, CLOCK, tokens)
        if stated is not None and len(answered) == len(requests):
            agree(stated, taken[key].value, theirs, fields.where)
        elif stated is not None:
            refused[theirs] = (
                "counts requests without a token; the median is over those that gave one"
            )
        given |= taken
    return given


def _date(fields: Fields) -> str | None:
    if not fields.has("date"):
        return None
    try:
        return datetime.strptime(fields.text("date"), "%Y%m%d-%H%M%S").isoformat()  # noqa: DTZ007 - it says no zone
    except ValueError:
        return None
