"""Importer of genai-perf's `profile_export_genai_perf.json`, the summary of a run through perf_analyzer.

Its inter token latency is TPOT: the request's time after its first piece, divided by its tokens less one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmbench.importers import Reading, served
from llmbench.importers.aiperf import MEDIANS, REFUSED, length, median_s, stated
from llmbench.importers.fields import NOT_OF_A_CELL, Fields, agree, last_name

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile
    from llmbench.results.record import Given

TOOL = "genai-perf"

KEYS = {"request_throughput", "request_latency", "output_token_throughput", "input_config"}

CLOCK = "perf_analyzer, from the request sent"
TOKENS = "the client's tokenizer"


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file."""
    config = document.only.get("input_config")
    return document.only.keys() >= KEYS and isinstance(config, dict) and "perf_analyzer" in config


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return the run in the file as one reading."""
    del said
    fields = Fields(document.values[0], document.name)
    config = fields.inner("input_config")
    given: dict[str, Given] = {}
    for key, theirs in MEDIANS.items():
        if fields.has(theirs):
            tokens = TOKENS if key == "request_tpot_s" else ""
            given |= served.of_run(key, median_s(fields, theirs), CLOCK, tokens)
    return [
        Reading(
            where={
                "model": _model(config),
                "options": _load(config),
                "input_len": length(fields, "input_sequence_length"),
                "output_len": length(fields, "output_sequence_length"),
            },
            traits=config.rest({"model_names", "perf_analyzer"}, *NOT_OF_A_CELL, lists=True),
            given={**given, **_rate(fields)},
            refused={**REFUSED, "failed requests": "are not in the file"},
        )
    ]


def _rate(fields: Fields) -> dict[str, Given]:
    rate = stated(fields, "output_token_throughput", "tokens/sec", "avg")
    requests = stated(fields, "request_throughput", "requests/sec", "avg")
    tokens = stated(fields, "output_sequence_length", "tokens", "avg")
    agree(rate, requests * tokens, "output_token_throughput", fields.where)
    return served.of_run("served_output_tok_s", rate, CLOCK, TOKENS)


def _model(config: Fields) -> str | None:
    names = config.texts("model_names") if config.has("model_names") else []
    return last_name(names[0]) if len(names) == 1 else None


def _load(config: Fields) -> dict[str, Any]:
    """Return the load on the server, such as a concurrency of 10."""
    stimulus = config.inner("perf_analyzer").raw("stimulus")
    return Fields(stimulus, config.where).rest(()) if isinstance(stimulus, dict) else {}
