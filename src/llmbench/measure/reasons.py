"""The meaning of each warning's reason code and the remedy, shown below every table that has it.

A record has the figures of its case with the code.
"""

from __future__ import annotations

MEANINGS = {
    "warmup_not_converged": "calls still got faster when the warm-up ended; raise warmup_budget_s.",
    "warmup_too_short": "fewer than three warm-up calls, too few to show a trend; raise warmup.",
    "busy_machine": "other processes used over 5 % of the CPUs; measure again when they are done.",
    "cpu_steal": "the hypervisor took over 2 % of the CPU time; other tenants slowed this down.",
    "shared_device": "other processes used the GPU; measure again when they are done.",
    "neighbours": "other GPUs of the same box were measured at the same time; see docs/scale.md.",
    "hot": "heat throttled the GPU for over 1 % of the time; improve its cooling or measure again later.",
    "spike": "one iteration took over twice the median, and the median hides it; see records.jsonl.",
    "trend": "iterations got steadily slower or faster, from heat, a filling cache or a short warm-up.",
    "two_modes": "iterations fall into two groups, and the median shows only one; see records.jsonl.",
    "clock_drift": "wall clock and monotonic clock differ by over 0.1 %; times use the monotonic clock.",
    "clock_jump": "the wall clock was changed; times use the monotonic clock and stay correct.",
    "mixed_dtype": "this model family keeps some parameters in float32, whatever the dtype.",
    "quantised": "the checkpoint's weights are quantised; the dtype is that of the arithmetic around them.",
    "cuda_graphs": "some calls ran without their CUDA graph, or recorded it again; see the figures in the record.",
    "memory_failed": "the untimed call that reads memory failed after the timed ones; times are unharmed.",
    "strays": "the engine left processes behind, which were killed before the next cell.",
    "worker_end": "the worker failed after its result was saved.",
    "telemetry": "the GPU reported little or nothing about clocks and power; throttling may go unnoticed.",
    "overloaded": "more requests came in than went out; latencies are withheld, because they grow with the window.",
    "unsteady": "the rate had not settled when the window opened, or changed while it was open; raise window_s.",
    "few_requests": "fewer than 100 requests were due in the window, too few for percentiles; raise window_s.",
    "shared_core": "the client had no core of its own; the server and it were in each other's way.",
    "user_clock": "the kernel stamped no arrivals; times are the client's own and include its lateness.",
    "prefix_misses": "less came from the server's cache than prompts share; a cache keeps whole blocks, or is off.",
    "one_server": "somebody else's server: the interval is between windows of one server, not between servers.",
    "tokens_by_usage": "the server gives no token ids; its own count of its answers was believed.",
    "reconnects": "connections were opened under load, which some requests waited for.",
    "imported": "measured by another tool, and not checked by llmbench.",
    "measured_once": "a single call; its spread and its warm-up are unknown.",
    "empty_answers": "completed requests gave no token, which makes numbers look better than they are.",
    "requests_failed": "some requests failed; without them every number looks better than it is.",
    "tokens_not_counted": "lengths are the requested ones; the tool did not count the tokens returned.",
    "tokens_recounted": "the tool counted the tokens in the text, and the server reported another count.",
}
