"""Importer of vLLM's `bench throughput`: one elapsed time and one token count for all requests, run offline.

Its `tokens_per_second` counts prompt tokens, and is therefore `total_tok_s`, never `output_tok_s`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.errors import Unconvertible
from llmbench.importers import Reading
from llmbench.importers.fields import Fields, agree
from llmbench.importers.vllm_latency import sample
from llmbench.results.record import Finding, Given

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile

TOOL = "vllm bench throughput"

KEYS = {
    "elapsed_time",
    "num_requests",
    "total_num_tokens",
    "requests_per_second",
    "tokens_per_second",
}

ONCE = Finding(
    "measured_once",
    "one call, whose warm-up, engine and prefix cache the file does not tell",
)


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file."""
    return document.only.keys() >= KEYS


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return its one call as a sample of a batch of all requests, and its rate as `total_tok_s`."""
    fields = Fields(document.values[0], document.name)
    elapsed_s, requests, tokens = (
        fields.positive("elapsed_time"),
        fields.count("num_requests"),
        fields.count("total_num_tokens"),
    )
    if not requests or not tokens:
        raise Unconvertible(f"{document.name}: has {requests} requests and {tokens} tokens.")
    rate = fields.positive("tokens_per_second")
    agree(rate, tokens / elapsed_s, "tokens_per_second", fields.where)
    agree(
        fields.positive("requests_per_second"),
        requests / elapsed_s,
        "requests_per_second",
        fields.where,
    )
    _check_lengths(document.name, requests, tokens, said)
    return [
        Reading(
            where={"batch_size": requests, "options": fields.rest(KEYS)},
            samples=[sample(elapsed_s)],
            timed="the one call that generates all requests, detokenising included; host, perf_counter",
            given={
                "total_tok_s": Given(
                    value=rate,
                    definition="(prompt tokens + new tokens of all requests) / elapsed time of the one call",
                    clock="host, perf_counter, around the call",
                    tokens="prompt and new ids of vLLM's own outputs; the lengths asked for with another engine",
                )
            },
            warnings=[ONCE],
            refused={"requests_per_second": "says nothing without the lengths of the requests"},
        )
    ]


def _check_lengths(name: str, requests: int, tokens: int, said: Said) -> None:
    """Refuse lengths given by the user that contradict the file's token count."""
    if "input_len" not in said or "output_len" not in said:
        return
    each = int(said["input_len"]) + int(said["output_len"])
    if requests * each != tokens:
        raise Unconvertible(
            f"{name}: {requests:,} requests of {said['input_len']} + {said['output_len']} tokens are "
            f"{requests * each:,}, and the file counts {tokens:,}: the lengths vary, and output tokens per "
            f"second cannot be derived. Leave out --input-len and --output-len."
        )
