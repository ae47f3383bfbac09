"""Importer of optimum-benchmark's report of text generation, with or without its configuration.

With per-token tracking its `prefill` ends when the first token's scores are known, before the token is chosen. Its
throughput of `generate` has a wrong unit (tokens called samples); no throughput is imported.
"""

from __future__ import annotations

from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from llmbench.errors import Unconvertible
from llmbench.importers import Reading
from llmbench.importers.fields import LONGEST_TEXT, NOT_OF_A_CELL, Fields, agree, last_name
from llmbench.importers.vllm_latency import sample
from llmbench.results.record import Finding, Given, Memory

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile

TOOL = "optimum-benchmark"

TARGETS = {"prefill", "decode"}
"""What a report of text generation has; versions differ in the rest."""
LOADS = ("load_model", "load")
"""The names of loading; `load` until 0.5."""

LENGTHS_ASKED = {
    "max_new_tokens", "min_new_tokens", "num_beams", "num_return_sequences", "max_length", "min_length"
}  # fmt: skip
NOT_SETTINGS = {
    "name", "version", "model", "processor", "tokenizer", "task", "library", "model_type", "device", "no_weights",
    "torch_dtype", "_target_", "seed",
}  # fmt: skip
"""Keys of a backend that are coordinates of their own, or the same for every cell of it."""

DEFAULTS: dict[str, tuple[object, ...]] = {
    "eval_mode": (True,),
    "torch_compile_target": ("forward",),
    "device_ids": ("0",),
}
"""What other settings are if nobody sets them."""

CLOCK = "host, perf_counter; with CUDA the device's events"
MEGABYTE = 10**6
"""The bytes of its unit MB."""

WHOLE_CALLS = ("vllm", "llama_cpp", "py-txi", "tensorrt-llm")
"""Backends without token tracking: their `prefill` is a separate call for one token."""

REFUSED = {
    "throughput": "generate's counts tokens and calls them samples; rates come from times and lengths",
    "mean, p90, p95, p99": "the iterations themselves are taken, and their median shown",
    "first_generate": "a whole call came before it; it is not the first call",
    "max_global_vram": "all that is used on the device, by others too, and what was there before",
}

NOT_TRAITS = {"input_shapes", "generate_kwargs", "new_tokens"}

NOT_COUNTED = Finding(
    "tokens_not_counted",
    "the lengths are those asked for; the prompt is the same in every iteration",
)


def recognises(document: ToolFile) -> bool:
    """Return whether this is such a file."""
    report = document.only.get("report", document.only)
    return isinstance(report, dict) and all(
        isinstance(report.get(target), dict) and "latency" in report[target] for target in TARGETS
    )


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return the file's process as one session."""
    fields = Fields(document.values[0], document.name)
    alone = not fields.has("report")
    report = fields if alone else fields.inner("report")
    where = {} if alone else _where(fields.inner("config"))
    shape = {**where, **said}
    refused = dict(REFUSED)
    for target in sorted(TARGETS):
        if not report.inner(target).has("latency"):
            raise Unconvertible(
                f"{report.where}.{target}: has no latency, and energy alone cannot be imported."
            )
    generate = _latencies(report.inner("generate")) if report.has("generate") else []
    if not generate:
        refused["generate"] = (
            "this version does not write it; the time of a whole call is not known"
        )
    load = next((name for name in LOADS if report.has(name)), None)
    given = _phases(report, shape, refused)
    _check_shape(report, shape)
    return [
        Reading(
            where=where,
            samples=[sample(seconds) for seconds in generate],
            timed=f"one call of generate(); {CLOCK}" if generate else None,
            traits={} if alone else _traits(fields.inner("config")),
            given=given,
            memory=_memory(report),
            load_s=median(_latencies(report.inner(load))) if load else None,
            warnings=[NOT_COUNTED],
            refused=refused,
            version=None if alone else _version(fields.inner("config")),
        )
    ]


def _check_shape(report: Fields, shape: dict[str, Any]) -> None:
    """Refuse a batch size and a length, from the file or the user, that contradict its tokens per second."""
    decode, batch, n = report.inner("decode"), shape.get("batch_size"), shape.get("output_len")
    if batch and n and n > 1 and decode.has("throughput"):
        tokens_per_s = decode.inner("throughput").positive("value")
        agree(tokens_per_s, batch * (n - 1) / fmean(_latencies(decode)), "throughput", decode.where)


def _where(config: Fields) -> dict[str, Any]:
    backend = config.inner("backend")
    scenario = config.inner("scenario" if config.has("scenario") else "benchmark")
    if config.inner("launcher").text("name") == "torchrun":
        raise Unconvertible(
            f"{config.where}.launcher: torchrun mixes the iterations of several processes, which cannot be separated."
        )
    shapes, asked = scenario.inner("input_shapes"), scenario.inner("generate_kwargs")
    for key in ("num_beams", "num_return_sequences"):
        if asked.has(key) and asked.count(key) != 1:
            raise Unconvertible(
                f"{asked.where}.{key}: {asked.count(key)} sequences per prompt; llmbench supports one."
            )
    name = backend.text("name")
    return {
        "model": last_name(backend.text("model")),
        "backend": "transformers" if name == "pytorch" else name,
        "device": backend.text("device"),
        "dtype": backend.text("torch_dtype") if backend.has("torch_dtype") else None,
        "load_format": "dummy"
        if backend.has("no_weights") and backend.scalar("no_weights") is True
        else None,
        "prompts": "synthetic",
        "options": {
            **({"loop": "generate"} if name == "pytorch" else {}),
            **_settings(backend),
            **asked.rest(LENGTHS_ASKED, lists=True),
        },
        "batch_size": shapes.count("batch_size"),
        "input_len": shapes.count("sequence_length"),
        "output_len": asked.count("max_new_tokens") if asked.has("max_new_tokens") else None,
    }


def _settings(backend: Fields) -> dict[str, Any]:
    """Return what was set of a backend: neither null, false nor empty."""
    found = backend.rest(NOT_SETTINGS, lists=True)
    return {k: v for k, v in found.items() if v is not False and v not in DEFAULTS.get(k, ())}


def _traits(config: Fields) -> dict[str, Any]:
    """Return what the file says of versions and machine."""
    protocol = {
        f"{part}.{key}": value
        for part in ("scenario", "benchmark", "launcher")
        if config.has(part)
        for key, value in config.inner(part).rest(NOT_TRAITS, *NOT_OF_A_CELL, lists=True).items()
    }
    if not config.has("environment"):
        return protocol
    environment = config.inner("environment")
    gpus = environment.raw("gpu")
    named = {"gpu": ", ".join(map(str, gpus))[:LONGEST_TEXT]} if isinstance(gpus, list) else {}
    return named | protocol | environment.rest({"optimum_benchmark_version"}, *NOT_OF_A_CELL)


def _version(config: Fields) -> str | None:
    environment = config.inner("environment") if config.has("environment") else None
    key = "optimum_benchmark_version"
    return environment.text(key) if environment and environment.has(key) else None


def _phases(report: Fields, shape: dict[str, Any], refused: dict[str, str]) -> dict[str, Given]:
    """Return the numbers of prefill and decode, according to how they were tracked."""
    prefill, decode = _latencies(report.inner("prefill")), _latencies(report.inner("decode"))
    if not report.has("per_token"):
        refused["decode"] = "the whole less a mean of other calls; TPOT needs both of one call"
        if shape.get("backend") not in WHOLE_CALLS:
            refused["prefill"] = (
                "the file does not say whether it ends with the first token or with its scores"
            )
            return {}
        definition = "call to the one new token of calls made for it alone"
        return {"ttft_s": _given(prefill, definition)}
    if report.has("generate"):
        whole = sum(_latencies(report.inner("generate")))
        agree(whole, sum(prefill) + sum(decode), "generate", report.where)
    given = {
        "first_logits_s": _given(
            prefill, "call to the scores of the first new token, before it is chosen"
        )
    }
    batch, n = shape.get("batch_size"), shape.get("output_len")
    if not batch or not n:
        refused["decode"] = (
            "a rate needs the batch and the new tokens; say --batch-size and --output-len"
        )
    elif n > 1:
        rates = [batch * (n - 1) / seconds for seconds in decode]
        definition = "batch x (n - 1) / time from the first token's scores to the end of the call"
        given["after_logits_tok_s"] = _given(rates, definition, batch * (n - 1) / median(decode))
    gaps = _latencies(report.inner("per_token"))
    if n and len(gaps) == len(prefill) * (n - 1):
        given["itl_s"] = _given(gaps, "gap between the scores of successive tokens")
    else:
        refused["per_token"] = (
            f"{len(gaps):,} gaps, which are not those of {len(prefill):,} calls: "
            "some versions count again the gaps of earlier calls, and the pauses between calls"
        )
    return given


def _given(samples: list[float], definition: str, value: float | None = None) -> Given:
    return Given(
        value=median(samples) if value is None else value,
        definition=definition,
        clock=CLOCK,
        tokens="the lengths asked for",
        per="iteration",
        samples=samples,
    )


def _latencies(target: Fields) -> list[float]:
    """Return the seconds of each iteration after checking them against the file's own summary."""
    latency = target.inner("latency")
    if latency.text("unit") != "s":
        raise Unconvertible(f"{latency.where}: its unit is not seconds.")
    values = latency.positives("values")
    for name, worked_out in (
        ("count", len(values)),
        ("mean", fmean(values)),
        ("p50", median(values)),
    ):
        if latency.has(name):  # versions differ
            agree(latency.positive(name), worked_out, name, latency.where)
    return values


def _memory(report: Fields) -> Memory | None:
    """Return the peaks of the allocator and of the host while generating, the larger of both phases."""
    held = [
        report.inner(name).inner("memory")
        for name in ("prefill", "decode")
        if report.inner(name).has("memory")
    ]
    for memory in held:
        if memory.text("unit") != "MB":
            raise Unconvertible(f"{memory.where}: its unit is not MB.")
    peaks = {
        ours: max(
            (round(one.positive(theirs) * MEGABYTE) for one in held if one.has(theirs)),
            default=None,
        )
        for ours, theirs in (
            ("peak_allocated_bytes", "max_allocated"),
            ("peak_reserved_bytes", "max_reserved"),
            ("host_peak_rss_generate_bytes", "max_ram"),
        )
    }
    return Memory(**peaks) if any(peaks.values()) else None
