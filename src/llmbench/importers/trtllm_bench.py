"""Importer of trtllm-bench's `throughput --report_json` and `latency --report_json`: requests inside one process.

Only its rates are taken: its p50 is the upper of two middle values, and its file has no requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.importers import Reading, served
from llmbench.importers.fields import Fields, agree, last_name

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile

TOOL = "trtllm-bench"

KEYS = {"engine", "world_info", "request_info", "performance"}

CLOCK = "the process of the engine, from the first request to the end of the last"
TOKENS = "the engine's"

OF_ENGINE = {"model", "model_path", "engine_dir", "version", "dtype"}

REFUSED = {
    "avg_*": "means",
    "*_percentiles": "its p50 is the upper of two middle values; other percentiles of few requests are guesses",
    "*_per_user_tok_s": "a mean over requests",
    "*_per_gpu_tok_s": "the rate divided by the GPUs",
    "request_throughput_req_s": "says nothing without the lengths of the requests",
}


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file."""
    return document.only.keys() >= KEYS


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return the run in the file as one reading."""
    del said
    fields = Fields(document.values[0], document.name)
    engine, requests, performance = (
        fields.inner(name) for name in ("engine", "request_info", "performance")
    )
    seconds = performance.positive("total_latency_ms") / 1e3
    made, prompts = (
        requests.count("num_requests") * requests.positive(f"avg_{kind}_length")
        for kind in ("output", "input")
    )
    rate = performance.positive("system_output_throughput_tok_s")
    agree(rate, made / seconds, "system_output_throughput_tok_s", fields.where)
    total = (prompts + made) / seconds
    if performance.has("system_total_throughput_tok_s"):
        stated, total = total, performance.positive("system_total_throughput_tok_s")
        agree(total, stated, "system_total_throughput_tok_s", fields.where)
    world = fields.inner("world_info").rest({"issue_rate"})
    return [
        Reading(
            where={
                "model": last_name(engine.text("model")),
                "dtype": engine.text("dtype") if engine.has("dtype") else None,
                "options": {
                    **engine.rest(OF_ENGINE),
                    **world,
                    "streaming": fields.has("streaming_metrics"),
                },
            },
            traits=fields.inner("machine").rest(()) if fields.has("machine") else {},
            given={
                **served.of_run("served_output_tok_s", rate, CLOCK, TOKENS),
                **served.of_run("served_total_tok_s", total, CLOCK, TOKENS),
            },
            refused=dict(REFUSED),
            version=engine.text("version") if engine.has("version") else None,
        )
    ]
