"""Files that are no JSON: which tool wrote them, where that can be told, and how to write a file that can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.redact import redact, shown

if TYPE_CHECKING:
    from collections.abc import Iterable


class ForeignText(NamedTuple):
    """A kind of text: what its beginning contains, what it is, and what to do instead."""

    signs: tuple[str, ...]
    what: str
    instead: str


class ForeignJson(NamedTuple):
    """A kind of JSON file that no importer reads: keys at its top, what it is, and what to do instead."""

    keys: frozenset[str]
    what: str


OF_OTHER_TOOLS = (
    ForeignJson(
        frozenset({"kind", "format", "crc32"}),
        "a file of llmbench's own records: 'llmbench table FOLDER' shows the run in its folder",
    ),
    ForeignJson(
        frozenset({"results", "versions", "n-shot"}), "lm-evaluation-harness's results, which hold no speed"
    ),
)  # fmt: skip


def other_tool(values: Iterable[Any]) -> str | None:
    """Return what a JSON file is that no importer reads, if it is known."""
    keys = [frozenset(value) for value in values if isinstance(value, dict)]
    return next((kind.what for kind in OF_OTHER_TOOLS if keys and kind.keys <= keys[0]), None)


READ_UP_TO = 2**16
KINDS = (
    ForeignText(
        ("build_commit,build_number,", "avg_ts"),
        "llama-bench's CSV, which has only a mean of each test, and a mean is not a median",
        "run llama-bench with -o jsonl",
    ),
    ForeignText(
        ("INSERT INTO", "build_commit"),
        "llama-bench's SQL, which has only a mean of each test, and a mean is not a median",
        "run llama-bench with -o jsonl",
    ),
    ForeignText(
        ("| model ", " test |", " t/s |"),
        "llama-bench's table, which has only rounded means, and a mean is not a median",
        "run llama-bench with -o jsonl",
    ),
    ForeignText(
        ("guidellm_version:",),
        "GuideLLM's report in YAML",
        "write it as JSON (guidellm: an --output of kind json, or a path that ends in .json)",
    ),
    ForeignText(
        ("Run Info", "Request Latency", "Time to First Token"),
        "GuideLLM's CSV, which has no requests, and its medians are the lower of two values",
        "write it as JSON (guidellm: an --output of kind json, or a path that ends in .json)",
    ),
    ForeignText(
        ("Hardware,Num of Hardware,Framework,Model,",),
        "a table of Argonne's LLM-Inference-Bench, which has one number of each test and no repetitions",
        "run llmbench sweep with the same model and lengths, or import the files of the engine's own benchmark",
    ),
    ForeignText(
        ("latency_per_sequence_output_token (ms)",),
        "what llm-foundry's benchmark prints, which has only means, and a mean is not a median",
        "run llmbench sweep with the same model and lengths",
    ),
    ForeignText(
        ("| Sequence Length ", "| Decode Length "),
        "the table of TGI's text-generation-benchmark, which has rounded figures and no requests",
        "measure the server with vllm bench serve --save-result --save-detailed, or with llmbench sweep --server",
    ),
    ForeignText(
        ("Successful requests:", "Benchmark duration (s):"),
        "the printed summary of vLLM's or SGLang's bench serve",
        "write a file: vllm bench serve --save-result, or SGLang's --output-file",
    ),
    ForeignText(
        ("MLPerf Results Summary",),
        "MLPerf LoadGen's summary",
        "llmbench reads none of its files; its latencies are of a scenario, not of requests alone",
    ),
)


def refusal(text: str) -> str:
    """Return why a text that is no JSON is not read, and what to do."""
    begin = text[:READ_UP_TO]
    for kind in KINDS:
        if all(sign in begin for sign in kind.signs):
            return f"is {kind.what}; {kind.instead}."
    first = shown(redact(next(line for line in begin.splitlines() if line.strip()).strip()))[:40]
    return (
        f"is not JSON: it begins with {first!r}. llmbench import reads the JSON files of the tools in "
        "docs/importing.md."
    )
