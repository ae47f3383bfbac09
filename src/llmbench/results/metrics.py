"""METRICS: every number that a report can show, one row each, with its definition and its source.

A session's value comes from its typical iteration: times are medians over iterations that count, and a rate is
tokens over such a median time, a ratio of totals and never a mean of rates. Discarded iterations do not count. A
number that was not measured is absent (NaN here), never 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from llmbench.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llmbench.results.sessions import Column, Sessions


class Unit(NamedTuple):
    """How a table shows a quantity: the factor and the name of the unit."""

    word: str
    factor: float


MS, S, RATE, MIB = Unit("ms", 1e3), Unit("s", 1.0), Unit("tok/s", 1.0), Unit("MiB", 2.0**-20)
PERCENT = Unit("% of ceiling", 100.0)
"""For shares, which files store without conversion: 0.5 is 50 %."""
REQUESTS = Unit("req/s", 1.0)
SHARE = Unit("%", 100.0)
TOKENS = Unit("tok", 1.0)
JOULES = Unit("J/tok", 1.0)
TEXT = Unit("B/s", 1.0)
"""UTF-8 bytes, which are comparable between tokenizers."""


class Metric(NamedTuple):
    """One row of METRICS.

    Attributes:
        key: its name in files, unit last.
        label: its column heading, without the unit.
        unit: how a table shows it.
        better: the better direction; None if neither is.
        over: how sessions are combined: the `mean` (of logs, with an interval) or the `max` (a peak).
        definition: for a reader of the table.
        tokens: the source of its token counts or times; empty if it has none.
        clock: its clock or counter.
        value: the column of session values.
        spread: the column of spreads within each session's process, if it is a median of samples.
        within: how a session's value is computed from its iterations; the median if there is a spread.

    """

    key: str
    label: str
    unit: Unit
    better: Literal["lower", "higher"] | None
    over: Literal["mean", "max"]
    definition: str
    tokens: str
    clock: str
    value: Callable[[Sessions], Column]
    spread: Callable[[Sessions], Column] | None = None
    within: str | None = None


MEDIAN, MEAN = "median over iterations", "mean over iterations"
HOST = "host, monotonic, device synchronised before and after"
ENGINE = "the engine's own token times, from the same start"
BOTH = f"e2e by {HOST}; ttft by {ENGINE}"
GIVEN, ASKED = "prompt ids given, no padding", "ids returned, checked against the requested length"
TIMES = "token times given by the engine"
CLIENT = "a client of the server, including its own overhead; the record says which"
KERNEL = "arrival as the kernel stamped it; from the time at which a request was due"
COUNTS = "the server's count of each answer, checked against the requested length"
SAID = "as the tool counted them; the record says how"
COUNTED, ALLOCATOR = "counted over the tensors", "the engine's allocator"
ASKED_FOR = "the requested lengths; nothing was counted"
FORWARD = "host, monotonic, device synchronised; only the forward passes"
DRIVER, SYSTEM = "the device's driver", "the operating system"


def not_ours(sessions: Sessions) -> Column:
    """Return NaN for every session, because only other tools measure this."""
    return np.full(len(sessions.batch_size), np.nan)


# fmt: off
OURS: tuple[Metric, ...] = (
    Metric("ttft_s", "TTFT", MS, "lower", "mean",
           "call to the first new token of every sequence in the batch; in-process, without a queue",
           TIMES, ENGINE, lambda s: s.ttft_s, lambda s: s.ttft_spread),
    Metric("tpot_s", "TPOT", MS, "lower", "mean",
           "(e2e - ttft) / (n - 1) for n new tokens per sequence; absent when n = 1",
           ASKED, BOTH, lambda s: s.decode_s / (s.output_len - 1), lambda s: s.decode_spread),
    Metric("itl_s", "ITL", MS, "lower", "mean",
           "the median of all gaps between successive tokens of a sequence",
           TIMES, ENGINE, lambda s: s.gap_s, lambda s: s.gap_spread),
    Metric("e2e_s", "E2E", MS, "lower", "mean",
           "call to all tokens of the batch on the host",
           "", HOST, lambda s: s.e2e_s, lambda s: s.e2e_spread),
    Metric("prefill_tok_s", "prefill", RATE, "higher", "mean",
           "prompt tokens of the batch / ttft",
           GIVEN, ENGINE, lambda s: s.prompt_tokens / s.ttft_s, lambda s: s.ttft_spread),
    Metric("decode_tok_s", "decode", RATE, "higher", "mean",
           "batch x (n - 1) / (e2e - ttft); absent when n = 1",
           ASKED, BOTH, lambda s: s.batch_size * (s.output_len - 1) / s.decode_s, lambda s: s.decode_spread),
    Metric("output_tok_s", "output", RATE, "higher", "mean",
           "batch x n / e2e: new tokens only, including the time of the prefill",
           ASKED, HOST, lambda s: s.batch_size * s.output_len / s.e2e_s, lambda s: s.e2e_spread),
    Metric("total_tok_s", "in+out", RATE, "higher", "mean",
           "(prompt tokens of the batch + batch x n) / e2e",
           f"{GIVEN}; {ASKED}", HOST,
           lambda s: (s.prompt_tokens + s.batch_size * s.output_len) / s.e2e_s, lambda s: s.e2e_spread),
    Metric("prefill_text_bytes_s", "prompt text", TEXT, "higher", "mean",
           "prefill tokens per second x bytes of prompt text per token: compares models with different tokenizers",
           GIVEN, ENGINE, lambda s: s.bytes_per_token * s.prompt_tokens / s.ttft_s, lambda s: s.ttft_spread),
    Metric("output_text_bytes_s", "output text", TEXT, "higher", "mean",
           "output tokens per second x bytes of prompt text per token: assumes that the answer has as many "
           "bytes per token",
           ASKED, HOST, lambda s: s.bytes_per_token * s.batch_size * s.output_len / s.e2e_s, lambda s: s.e2e_spread),
    Metric("mfu_prefill", "prefill MFU", PERCENT, "higher", "mean",
           "operations of the batch's prompts, counting each attending pair of tokens once, / ttft, as a "
           "share of the ceiling of operations",
           GIVEN, ENGINE, lambda s: s.prefill_work / s.ttft_s / s.compute_ceiling, lambda s: s.ttft_spread),
    Metric("mfu_decode", "decode MFU", PERCENT, "higher", "mean",
           "operations of the batch's n - 1 further tokens / (e2e - ttft), as a share of the ceiling of operations",
           ASKED, BOTH, lambda s: s.decode_work / s.decode_s / s.compute_ceiling, lambda s: s.decode_spread),
    Metric("mbu_decode", "decode MBU", PERCENT, "higher", "mean",
           "bytes of weights, keys and values that the n - 1 steps must read / (e2e - ttft), as a share of"
           " the ceiling of memory",
           ASKED, BOTH, lambda s: s.decode_moved / s.decode_s / s.memory_ceiling, lambda s: s.decode_spread),
    Metric("energy_per_output_token_j", "energy", JOULES, "lower", "mean",
           "the device's energy over an iteration / (batch x n): the energy of prompts and new tokens, "
           "charged to new tokens",
           ASKED, DRIVER, lambda s: s.energy_j / (s.batch_size * s.output_len), within=MEAN),
    Metric("tokens_per_step", "per step", TOKENS, "higher", "mean",
           "speculative decoding: new tokens of a sequence / passes through the model, the prompt's included; 1 without "
           "drafts", ASKED, "counted over the timed iterations", lambda s: s.tokens_per_step),
    Metric("accepted_share", "accepted", SHARE, "higher", "mean",
           "speculative decoding: share of the drafted tokens that the model accepted",
           "", "counted over the timed iterations", lambda s: s.accepted_share),
    Metric("load_s", "load", S, "lower", "mean",
           "from the start of loading to a loaded engine, without imports",
           "", "host, monotonic", lambda s: s.load_s),
    Metric("first_call_s", "first call", MS, "lower", "mean",
           "the first warm-up call of this shape, including compilation",
           "", HOST, lambda s: s.first_call_s),
    Metric("weights_bytes", "weights", MIB, None, "max",
           "bytes of the parameters as loaded",
           "", COUNTED, lambda s: s.weights_bytes),
    Metric("kv_cache_bytes", "KV cache", MIB, "lower", "max",
           "bytes of keys and values held at the end of an iteration",
           "", COUNTED, lambda s: s.kv_cache_bytes),
    Metric("kv_cache_theoretical_bytes", "KV theory", MIB, None, "max",
           "bytes of keys and values computed from the configuration",
           "", "computed", lambda s: s.kv_cache_theoretical_bytes),
    Metric("peak_allocated_bytes", "peak alloc", MIB, "lower", "max",
           "peak bytes of live tensors on the device during an untimed iteration",
           "", ALLOCATOR, lambda s: s.peak_allocated_bytes),
    Metric("peak_reserved_bytes", "peak reserved", MIB, "lower", "max",
           "peak bytes that the allocator took from the device",
           "", ALLOCATOR, lambda s: s.peak_reserved_bytes),
    Metric("device_used_bytes", "device used", MIB, "lower", "max",
           "device memory in use, after minus before, including the context",
           "", DRIVER, lambda s: s.device_used_bytes),
    Metric("process_used_bytes", "process used", MIB, "lower", "max",
           "device memory of the process, according to the driver",
           "", DRIVER, lambda s: s.process_used_bytes),
    Metric("host_peak_rss_bytes", "peak RSS", MIB, "lower", "max",
           "peak resident host memory of a worker, with imports and memory of earlier cells",
           "", SYSTEM, lambda s: s.host_peak_rss_bytes),
    Metric("host_peak_rss_load_bytes", "load RSS", MIB, "lower", "max",
           "peak resident host memory until the engine was loaded",
           "", SYSTEM, lambda s: s.host_peak_rss_load_bytes),
    Metric("host_peak_rss_generate_bytes", "run RSS", MIB, "lower", "max",
           "peak resident host memory while generating",
           "", SYSTEM, lambda s: s.host_peak_rss_generate_bytes),
    Metric("draft_bytes", "draft weights", MIB, None, "max",
           "bytes of the parameters of a draft model, which are not in `weights`",
           "", COUNTED, lambda s: s.draft_bytes),
    Metric("adapter_bytes", "adapters", MIB, None, "max",
           "bytes of the parameters of LoRA adapters that are held next to the weights, and not in `weights`",
           "", COUNTED, lambda s: s.adapter_bytes),
)

SERVED: tuple[Metric, ...] = (
    Metric("served_ttft_s", "served TTFT", MS, "lower", "mean",
           "due to the first token's arrival, median over the requests due in the window; with queue and network",
           COUNTS, KERNEL, not_ours),
    Metric("served_ttft_p90_s", "served TTFT p90", MS, "lower", "mean",
           "as served TTFT, 90th percentile; absent for fewer than 100 requests", COUNTS, KERNEL, not_ours),
    Metric("served_ttft_p99_s", "served TTFT p99", MS, "lower", "mean",
           "as served TTFT, 99th percentile; absent for fewer than 1,000 requests", COUNTS, KERNEL, not_ours),
    Metric("served_tpot_s", "served TPOT", MS, "lower", "mean",
           "(last token - first token) / (n - 1) of each request with n > 1, median over requests",
           COUNTS, KERNEL, not_ours),
    Metric("served_gap_s", "served gap", MS, "lower", "mean",
           "the median of all gaps between successive tokens; absent if an event held several",
           COUNTS, KERNEL, not_ours),
    Metric("served_e2e_s", "served E2E", MS, "lower", "mean",
           "due to the last token's arrival, median over the requests due in the window",
           COUNTS, KERNEL, not_ours),
    Metric("served_e2e_p99_s", "served E2E p99", MS, "lower", "mean",
           "as served E2E, 99th percentile; absent for fewer than 1,000 requests", COUNTS, KERNEL, not_ours),
    Metric("steady_output_tok_s", "steady output", RATE, "higher", "mean",
           "new tokens that arrived in the window / its length; without ramp and drain", COUNTS, KERNEL, not_ours),
    Metric("achieved_rps", "achieved", REQUESTS, "higher", "mean",
           "requests that ended in the window / its length", "", KERNEL, not_ours),
    Metric("slo_share", "met SLO", SHARE, "higher", "mean",
           "share of the requests due in the window that met every limit; a failed one meets none",
           COUNTS, KERNEL, not_ours),
    Metric("goodput_rps", "goodput", REQUESTS, "higher", "mean",
           "requests due in the window that met every limit / its length", COUNTS, KERNEL, not_ours),
    Metric("prefix_hit_share", "prefix hits", SHARE, None, "max",
           "prompt tokens from the server's cache / prompt tokens, by its answers or else its counters; "
           "absent unless prompts share a part",
           COUNTS, "none: counted by the server", not_ours),
    Metric("capacity_rps", "capacity", REQUESTS, "higher", "mean",
           "the highest rate found at which surely as many requests as wanted met every limit (load: most)",
           COUNTS, KERNEL, not_ours),
)

THEIRS: tuple[Metric, ...] = (
    Metric("request_ttft_s", "request TTFT", MS, "lower", "mean",
           "request sent to first piece of text at a client, median over requests; includes the queue and the network",
           SAID, CLIENT, not_ours),
    Metric("request_tpot_s", "request TPOT", MS, "lower", "mean",
           "(request latency - request TTFT) / (n - 1) of each request with n > 1, median over requests",
           SAID, CLIENT, not_ours),
    Metric("request_itl_s", "request ITL", MS, "lower", "mean",
           "the median of all gaps between successive pieces of text at a client; a piece may hold several tokens",
           "", CLIENT, not_ours),
    Metric("request_e2e_s", "request E2E", MS, "lower", "mean",
           "request sent to last piece of text at a client, median over requests; includes the queue and the network",
           "", CLIENT, not_ours),
    Metric("served_output_tok_s", "served output", RATE, "higher", "mean",
           "new tokens of all completed requests / duration of the run, including ramp-up and drain",
           SAID, CLIENT, not_ours),
    Metric("served_total_tok_s", "served in+out", RATE, "higher", "mean",
           "prompt and new tokens of all completed requests / duration of the run",
           SAID, CLIENT, not_ours),
    Metric("first_logits_s", "first logits", MS, "lower", "mean",
           "call to the scores of the first new token, before it is chosen",
           "", ENGINE, not_ours),
    Metric("after_logits_tok_s", "after logits", RATE, "higher", "mean",
           "batch x (n - 1) / (e2e - first logits), includes the choice of the first token",
           ASKED_FOR, ENGINE, not_ours),
    Metric("forward_prefill_tok_s", "forward prefill", RATE, "higher", "mean",
           "prompt tokens / time of their forward passes; no token is chosen",
           ASKED_FOR, FORWARD, not_ours),
    Metric("forward_decode_tok_s", "forward decode", RATE, "higher", "mean",
           "steps / time of their forward passes, one token each; tokens are random, not chosen by the model",
           ASKED_FOR, FORWARD, not_ours),
    Metric("forward_total_tok_s", "forward in+out", RATE, "higher", "mean",
           "(prompt tokens + steps) / time of their forward passes",
           ASKED_FOR, FORWARD, not_ours),
)
# fmt: on
"""Metrics of other tools with their own definitions, under names that llmbench does not use itself."""


def or_given(metric: Metric) -> Metric:
    """Return a metric that uses another tool's number under its key, if there is one."""
    value, spread = metric.value, metric.spread or not_ours

    def values(sessions: Sessions) -> Column:
        given = sessions.given_value(metric.key)
        return np.where(np.isnan(given), value(sessions), given)

    def spreads(sessions: Sessions) -> Column:
        given = sessions.given_value(metric.key)
        return np.where(np.isnan(given), spread(sessions), sessions.given_spread(metric.key))

    within = metric.within or (MEDIAN if metric.spread else None)
    return metric._replace(value=values, spread=spreads, within=within)


METRICS = tuple(or_given(metric) for metric in (*OURS, *SERVED, *THEIRS))

def whole_s(sessions: Sessions) -> Column:
    """Return the time of a whole call, or of a whole request where an endpoint was served."""
    batch, served = (BY_KEY[key].value(sessions) for key in ("e2e_s", "served_e2e_s"))
    return np.where(np.isnan(batch), served, batch)


BY_KEY = {metric.key: metric for metric in METRICS}
BY_LABEL = {metric.label.lower(): metric for metric in METRICS}
SHARES = tuple(metric.key for metric in METRICS if metric.unit is PERCENT)


def named(keys: Iterable[str]) -> tuple[Metric, ...]:
    """Return the metrics with these keys or column headings; raise SpecError for an unknown one."""
    chosen: dict[str, Metric] = {}
    for key in keys:
        metric = BY_KEY.get(key) or BY_LABEL.get(key.lower())
        if metric is None:
            near = did_you_mean(key, BY_KEY, "llmbench table RUN --metric all")
            raise SpecError(f"--metric: unknown metric {key!r}.{near}")
        chosen[metric.key] = metric
    return tuple(chosen.values())
