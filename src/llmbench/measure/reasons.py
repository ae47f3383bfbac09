"""What the reason codes of warnings mean, and what to do: one row a code, shown beneath every table that has it.

The figures of each case are in the record, beside the code.
"""

from __future__ import annotations

MEANINGS = {
    "warmup_not_converged": "the last three warm-up calls did not agree; raise warmup_budget_s.",
    "busy_machine": "others used over 5 % of the processors meanwhile; measure again when they are done.",
    "cpu_steal": "the hypervisor took over 2 % of the processors meanwhile; other tenants slowed this down.",
    "shared_device": "other processes used the GPU meanwhile; measure again when they are done.",
    "hot": "heat held the GPU's clocks down for over 1 % of the time; cool it, or measure again when it is cooler.",
    "spike": "one iteration took over twice the median, which hides it; records.jsonl has every iteration.",
    "trend": "iterations grew steadily slower or faster: heat, a filling cache, or too short a warm-up.",
    "two_modes": "iterations fall into two groups, and the median shows one of them; compare the samples.",
    "clock_drift": "wall clock and monotonic clock differ by over 0.1 %; times are the monotonic clock's.",
    "clock_jump": "the wall clock was set meanwhile; times are the monotonic clock's and unharmed.",
    "mixed_dtype": "the family keeps some parameters in float32, whatever was asked.",
    "strays": "the engine left processes behind, which were ended before the next cell.",
    "worker_end": "the worker ended badly after its result was safe.",
    "telemetry": "the GPU told little or nothing of clocks and power: throttling may have gone unseen.",
    "imported": "another tool's numbers, neither measured nor checked here.",
    "measured_once": "a single call, so nothing is known of its spread or its warm-up.",
    "requests_failed": "some requests failed, and their absence flatters every number.",
    "tokens_not_counted": "lengths are those that were asked for; that tool did not count what came.",
    "tokens_recounted": "that tool counted tokens in the text, and the server made another number of them.",
}
