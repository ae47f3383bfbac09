"""Importer of SGLang's `bench_serving --output-file`: one line per run, appended; HTTP requests timed by the client.

Its file names no model. Its gaps between tokens are left out: with some of its backends, the gap between two pieces is
spread over the tokens of a piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmbench.errors import Unconvertible
from llmbench.importers import Reading, served
from llmbench.importers.fields import Fields, agree, last_name
from llmbench.results.record import Finding
from llmbench.spec.digest import digest_of

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile
    from llmbench.results.record import Given

TOOL = "sglang bench_serving"

KEYS = {"backend", "request_rate", "duration", "completed", "total_output_tokens_retokenized"}

CLOCK = "the client, perf_counter, from the request sent"
TOKENS = "the server's usage, or the lengths asked for where the server says none"

SETTINGS = ("dataset_name", "request_rate", "max_concurrency")
"""Settings that are always shown, if the file has them."""
OF_RANDOM = ("random_input_len", "random_output_len", "random_range_ratio")
"""Settings of random data sets, which files of others have too."""

MEDIANS = {
    "request_ttft_s": "median_ttft_ms",
    "request_tpot_s": "median_tpot_ms",
    "request_e2e_s": "median_e2e_latency_ms",
}

RESULTS = {
    "duration", "completed", "total_input_tokens", "total_input_text_tokens", "total_input_vision_tokens",
    "total_output_tokens", "total_output_tokens_retokenized", "concurrency", "accept_length", "server_info",
    "sharegpt_output_len", "backend", "max_output_tokens_per_s", "max_concurrent_requests",
}  # fmt: skip
NUMBERS = (
    r"(mean|median|std|min|max|p\d+)_\w+_ms",
    r"(request|input|output|total)_throughput(_retokenized)?",
)
"""Patterns of the keys of results."""

REFUSED = {
    "mean_*_ms": "means; the medians are taken",
    "p*_*_ms": "percentiles of few requests are guesses",
    "median_itl_ms": "with some backends the gap between two pieces is spread over the tokens of a piece",
    "request_throughput": "says nothing without the lengths of the requests",
}


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file."""
    return served.has_keys(document, KEYS)


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return its runs."""
    del said
    return [_reading(fields) for fields in served.each_run(document)]


def _reading(fields: Fields) -> Reading:
    completed = fields.count("completed")
    if not completed:
        raise Unconvertible(f"{fields.where}: no request was completed.")
    refused = dict(REFUSED)
    server = fields.inner("server_info") if isinstance(fields.raw("server_info"), dict) else None
    made, counted = (
        fields.count("total_output_tokens"),
        fields.count("total_output_tokens_retokenized"),
    )
    recounted = (
        f"the client counted {counted:,} new tokens in the text, and the server made {made:,}"
    )
    return Reading(
        where={"model": _model(server), "options": _settings(fields)},
        traits={
            "backend": fields.text("backend"),
            **({"server_info": digest_of(fields.raw("server_info"))} if server else {}),
        },
        given={**_rates(fields, made), **served.medians(fields, MEDIANS, CLOCK, TOKENS, refused)},
        warnings=[
            *served.zero(fields, MEDIANS, completed),
            *([Finding("tokens_recounted", recounted)] if made != counted else []),
        ],
        refused=refused,
        version=server.text("version") if server and server.has("version") else None,
    )


def _settings(fields: Fields) -> dict[str, Any]:
    random = fields.has("dataset_name") and fields.text("dataset_name").startswith("random")
    names = (*SETTINGS, *(OF_RANDOM if random else ()))
    known = {name: fields.scalar(name) for name in names if fields.has(name)}
    return known | fields.rest({*SETTINGS, *OF_RANDOM, *RESULTS}, *NUMBERS)


def _model(server: Fields | None) -> str | None:
    return last_name(server.text("model_path")) if server and server.has("model_path") else None


def _rates(fields: Fields, made: int) -> dict[str, Given]:
    duration_s, rate = fields.positive("duration"), fields.positive("output_throughput")
    agree(rate, made / duration_s, "output_throughput", fields.where)
    if fields.has("input_throughput"):
        prompt = fields.count("total_input_tokens")
        agree(
            fields.positive("input_throughput"),
            prompt / duration_s,
            "input_throughput",
            fields.where,
        )
    total = (fields.count("total_input_tokens") + made) / duration_s
    return {
        **served.of_run("served_output_tok_s", rate, CLOCK, TOKENS),
        **served.of_run("served_total_tok_s", total, CLOCK, f"prompts by the client; {TOKENS}"),
    }
