"""The checks of a record: findings that make its numbers invalid, and warnings for the reader.

Every check is a function from an outcome to findings, listed in one table. None of them repairs a number.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.machine import chips
from llmbench.numbers import plural
from llmbench.results.record import Finding, Outcome, Status
from llmbench.spec import speculation

if TYPE_CHECKING:
    from llmbench.results.record import Sample
    from llmbench.spec.sweep import Cell

CLOCK_WARNS, CLOCK_INVALID = 0.001, 0.01
"""Differences of wall clock and monotonic clock that warn and that invalidate, as shares of the time measured."""
CLOCK_FLOOR_NS = 100_000
"""Below a tenth of a millisecond in total, the cost of two clock reads matters."""
SUM_WITHIN, AFTER_END_NS, TAIL_NS = 0.01, 100_000, 2_000_000
"""The last token's time and the end agree within 1 %. No token may come later than this after the end, as two
clocks tell; copying all tokens to the host may take 2 ms of a short call."""
MEASURED_SLACK = 1.5
"""Over a ceiling that a probe measured on this machine, which is no physical limit."""
OTHER_WARNS, STEAL_WARNS = 0.05, 0.02
"""CPU time of other processes, and time stolen by the hypervisor, as shares of all cores over the timed window."""
HOT_WARNS = 0.01
"""Time under thermal throttling, as a share of all iterations including the warm-up."""
MODES_APART, TREND_OVER, SPIKE_OVER = 0.10, 0.05, 2.0
FEWEST_FOR_SHAPE = 5


class Ceilings(NamedTuple):
    """The device's limits: bytes/s, FLOP/s in the cell's dtype, and bytes of memory. None = unknown.

    `slack` is the factor over a rate that is still believed.
    """

    bandwidth: float | None = None
    flops: float | None = None
    memory: int | None = None
    slack: float = chips.SLACK


Check = Callable[["Cell", Outcome, Ceilings], Iterator[Finding]]


def check_outcome(
    cell: Cell, outcome: Outcome, ceilings: Ceilings
) -> tuple[Status, list[Finding], list[Finding]]:
    """Return a record's status, the findings that invalidate it, and the warnings."""
    warnings = [finding for check in WARNINGS for finding in check(cell, outcome, ceilings)]
    if outcome.status is not Status.OK:
        return outcome.status, [], warnings
    problems = [finding for check in PROBLEMS for finding in check(cell, outcome, ceilings)]
    return Status.INVALID if problems else Status.OK, problems, warnings


def is_quantised(cell: Cell, engine: Mapping[str, Any]) -> bool:
    """Return whether an engine was asked to quantise the weights, or read quantised ones."""
    return bool(cell.options.get("quantization") or engine.get("quantization"))


def counted(outcome: Outcome) -> list[Sample]:
    """Return the samples that were not discarded."""
    return [sample for sample in outcome.samples if not sample.discarded]


def _token_count(cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Every sequence of every iteration must have exactly the requested length."""
    expected = {str(cell.output_len): cell.batch_size * len(outcome.samples)}
    if outcome.returned != expected:
        yield Finding(
            "token_count",
            f"asked {_histogram(expected)}, got {_histogram(outcome.returned)} (tokens x sequences)",
        )


def _histogram(counts: dict[str, int]) -> str:
    return ", ".join(f"{length} x {count}" for length, count in sorted(counts.items())) or "nothing"


def _clock(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Durations must be positive numbers, and the two clocks must agree."""
    bad = [
        sample.e2e_ns for sample in outcome.samples if sample.e2e_ns is None or sample.e2e_ns <= 0
    ]
    if bad:
        yield Finding(
            "clock",
            f"{len(bad)} of {len(outcome.samples)} durations are not positive numbers, such as {bad[0]}",
        )
    elif abs(drift := _drift(outcome)) > CLOCK_INVALID:
        yield Finding(
            "clock",
            f"wall clock and monotonic clock differ by {drift:+.2%} in the median iteration",
        )


def _drift(outcome: Outcome) -> float:
    """Return the wall clock's lead over the monotonic clock in the median iteration; robust to one jump of two."""
    rates = sorted(
        (
            (sample.wall_ns - sample.e2e_ns) / sample.e2e_ns
            if abs(sample.wall_ns - sample.e2e_ns) > CLOCK_FLOOR_NS
            else 0.0
            for sample in outcome.samples
            if sample.e2e_ns and sample.e2e_ns > 0 and sample.wall_ns is not None
        ),
        key=abs,
    )
    return rates[(len(rates) - 1) // 2] if rates else 0.0


def _clock_warning(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    if CLOCK_WARNS < abs(drift := _drift(outcome)) <= CLOCK_INVALID:
        yield Finding(
            "clock_drift",
            f"wall clock and monotonic clock differ by {drift:+.2%} in the median iteration",
        )
    jumps = [
        sample for sample in outcome.samples
        if sample.e2e_ns and sample.e2e_ns > 0 and sample.wall_ns is not None
        and abs(sample.wall_ns - sample.e2e_ns) > max(CLOCK_INVALID * sample.e2e_ns, CLOCK_FLOOR_NS)
    ]  # fmt: skip
    if jumps and abs(drift) <= CLOCK_INVALID:
        yield Finding(
            "clock_jump",
            f"the wall clock jumped in {len(jumps)} of {len(outcome.samples)} iterations; times are unharmed",
        )


def _implausible(cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Token times must increase, and the last one must match the end of the call."""
    rows = [(row, sample.e2e_ns or 0) for sample in counted(outcome) for row in sample.token_ns]
    wrong = next(filter(None, (_wrong_row(cell, row, e2e_ns) for row, e2e_ns in rows)), "")
    if not wrong and rows:
        # Sequences that begin in different steps also end in different ones; the last one counts.
        ends = [
            (max(sample.token_ns, key=lambda row: row[-1]), sample.e2e_ns or 0)
            for sample in counted(outcome)
            if sample.token_ns
        ]
        wrong = _wrong_sum(ends)
    if wrong:
        yield Finding("implausible", wrong)


def _wrong_row(cell: Cell, row: list[int], e2e_ns: int) -> str:
    if len(row) != cell.output_len:
        return f"{len(row)} token times for {cell.output_len} tokens"
    if row[0] <= 0 or any(late < early for early, late in pairwise(row)):
        return "token times do not increase"
    if cell.output_len > 1 and row[0] >= e2e_ns:
        return f"the first token ({row[0] / 1e6:.3f} ms) came after the end ({e2e_ns / 1e6:.3f} ms)"
    return ""


def _wrong_sum(rows: list[tuple[list[int], int]]) -> str:
    """Compare the last token's time with the end in the median iteration; one preemption is not a pattern."""
    tails = sorted((e2e_ns - row[-1], e2e_ns) for row, e2e_ns in rows)
    tail, e2e_ns = tails[len(tails) // 2]
    if tail < -max(SUM_WITHIN * e2e_ns, AFTER_END_NS):
        return f"the last token came {-tail / 1e6:.3f} ms after the end of {e2e_ns / 1e6:.3f} ms: no wait for it"
    if tail > max(SUM_WITHIN * e2e_ns, TAIL_NS):
        return f"{tail / 1e6:.3f} ms of {e2e_ns / 1e6:.3f} ms lie after the last token"
    return ""


def _physics(cell: Cell, outcome: Outcome, ceilings: Ceilings) -> Iterator[Finding]:
    """The device cannot read the weights or multiply faster than its peak; this bound needs no tuning."""
    weights = outcome.engine.get("bytes_per_step")
    per_token = outcome.engine.get("flops_per_prompt_token")
    rows = [row for sample in counted(outcome) for row in sample.token_ns if len(row) > 1]
    if weights and ceilings.bandwidth and rows:
        step_s = min((row[-1] - row[0]) / (len(row) - 1) for row in rows) / 1e9
        step_s *= _most_a_pass(cell)
        if step_s <= 0 or weights / step_s > ceilings.slack * ceilings.bandwidth:
            yield Finding(
                "implausible",
                f"a decode step moves {weights:,} bytes in {step_s * 1e3:.4f} ms: over the bandwidth",
            )
    firsts = [
        max(row[0] for row in sample.token_ns)
        for sample in counted(outcome)
        if sample.token_ns and all(sample.token_ns)
    ]
    if per_token and ceilings.flops and firsts:
        flops, first_s = per_token * (cell.prompt_tokens or 0), min(firsts) / 1e9
        if first_s <= 0 or flops / first_s > ceilings.slack * ceilings.flops:
            yield Finding(
                "implausible",
                f"prefill does {flops:.3g} FLOP in {first_s * 1e3:.4f} ms: over the peak",
            )


def _most_a_pass(cell: Cell) -> int:
    """Return how many tokens one reading of the weights can yield at most: more than one where tokens are drafted."""
    return (
        1 + int(cell.options.get("speculative_tokens", 5)) if speculation.used(cell.options) else 1
    )


def _memory(_cell: Cell, outcome: Outcome, ceilings: Ceilings) -> Iterator[Finding]:
    """No more of the device's memory can be used than it has."""
    taken = outcome.memory
    if taken is None or ceilings.memory is None:
        return
    for name in ("peak_allocated_bytes", "peak_reserved_bytes", "device_used_bytes"):
        used = getattr(taken, name)
        if used is not None and used > ceilings.memory:
            yield Finding(
                "implausible", f"{name} is {used:,}, and the device has {ceilings.memory:,} bytes"
            )


def _prefix_hit(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """No prompt token may come from a prefix cache."""
    for name, count in outcome.counters.items():
        if name.endswith("_hits") and count:
            yield Finding("prefix_hit", f"{name} rose by {count}")


def _recompiled(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Nothing may be compiled while timing."""
    if count := outcome.counters.get("compiled_graphs"):
        yield Finding("recompiled", f"{count} graphs were compiled after the warm-up")


def _not_greedy(cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Speculation may not change the text: each token must be the model's own choice, but for near ties."""
    wrong = outcome.counters.get(
        speculation.NOT_GREEDY, None if speculation.used(cell.options) else 0
    )
    if wrong != 0:
        tokens = cell.batch_size * cell.output_len
        told = "nobody checked" if wrong is None else f"{wrong} of {tokens} tokens are not"
        yield Finding("not_greedy", f"{told} what the model chooses without speculation")


def _placement(cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Every parameter must be on the requested device, unless offload was requested."""
    places = _names(outcome.engine.get("param_devices"))
    wrong = {name for name in places if name.split(":")[0] != cell.device.split(":")[0]}
    if (
        wrong
        and cell.options.get("device_map", "none") == "none"
        and "gpu_layers" not in cell.options
    ):
        yield Finding(
            "placement", f"parameters on {', '.join(sorted(wrong))} instead of {cell.device}"
        )


def _dtype(cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Every parameter must have the requested dtype, unless the weights are quantised, which has dtypes of its own."""
    if is_quantised(cell, outcome.engine):
        return
    wrong = _names(outcome.engine.get("param_dtypes")) - {cell.dtype}
    if wrong:
        yield Finding("dtype", f"parameters in {', '.join(sorted(wrong))} instead of {cell.dtype}")


def _graphs(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """A compiled step that runs without its CUDA graph, or records one again, is slower than it seems to be."""
    skipped = outcome.counters.get("cudagraph_skips", 0)
    again = outcome.counters.get("cudagraph_rerecordings", 0)
    if skipped or again:
        yield Finding(
            "cuda_graphs",
            f"{skipped} CUDA graphs were left out and {again} recorded again while timing",
        )


def _quantised(cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """The weights are not those of the dtype that the cell names, and its options do not say so."""
    scheme = outcome.engine.get("quantization")
    if scheme and scheme != cell.options.get("quantization"):
        held = outcome.engine.get("param_dtypes")
        yield Finding("quantised", f"weights are {scheme}, held as {held}")


def _memory_failed(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """The iteration after the timed ones, in which memory is read, may fail."""
    if outcome.memory_error:
        yield Finding("memory_failed", outcome.memory_error)


def _mixed(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """A family may keep some parameters in a wider dtype, because it fails otherwise."""
    if kept := outcome.engine.get("kept_float32_parameters"):
        yield Finding(
            "mixed_dtype",
            f"the family keeps {kept:,} of its {outcome.engine.get('parameters'):,} parameters in float32",
        )


def _names(value: object) -> set[str]:
    return {name.strip() for name in str(value or "").split(",") if name.strip()}


def _throttled(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Enough iterations must run at full clocks."""
    discarded = [sample for sample in outcome.samples if sample.discarded]
    if len(discarded) > 5:
        yield Finding(
            "throttled", f"{len(discarded)} iterations discarded: {discarded[-1].discarded}"
        )


def _hot(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Thermal throttling occurred, even if not at the end of an iteration."""
    share = outcome.telemetry.get("hot_share") or 0.0
    if share > HOT_WARNS:
        yield Finding("hot", f"heat held the device's clocks down {share:.0%} of the time")


def _warm(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """The warm-up must be long enough to show a trend, and end without one."""
    calls = len(outcome.warmup_ns)
    if outcome.warmup_converged is False:
        yield Finding("warmup_not_converged", f"the last of {calls} warm-up calls still got faster")
    elif outcome.warmup_converged is None and outcome.samples:
        yield Finding("warmup_too_short", f"{plural(calls, 'warm-up call')}, too few to compare")


def _busy(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """Other processes or the hypervisor used the CPUs."""
    seen = outcome.telemetry
    room = (seen.get("cpu_wall_s") or 0.0) * (seen.get("cpu_count") or 1)
    if room <= 0:
        return
    other, steal = seen["cpu_other_s"] / room, seen["cpu_steal_s"] / room
    if other > OTHER_WARNS and seen["cpu_other_s"] > 0.05:
        yield Finding(
            "busy_machine", f"other processes used {other:.0%} of the CPUs while this was timed"
        )
    if steal > STEAL_WARNS and seen["cpu_steal_s"] > 0.05:
        yield Finding(
            "cpu_steal", f"the hypervisor took {steal:.0%} of the CPUs while this was timed"
        )


def _shape(_cell: Cell, outcome: Outcome, _: Ceilings) -> Iterator[Finding]:
    """A trend, two modes or a spike: no sample is dropped, but the median hides it."""
    times = [sample.e2e_ns for sample in counted(outcome) if sample.e2e_ns and sample.e2e_ns > 0]
    if len(times) < FEWEST_FOR_SHAPE:
        return
    middle = statistics.median(times)
    if max(times) > SPIKE_OVER * middle:
        yield Finding("spike", f"the slowest iteration took {max(times) / middle:.1f}x the median")
    third = len(times) // 3
    early, late = statistics.median(times[: third or 1]), statistics.median(times[-(third or 1) :])
    ordered = sum(b > a for a, b in pairwise(times)) / (len(times) - 1)
    if abs(late / early - 1) > TREND_OVER and (ordered > 0.8 or ordered < 0.2):
        yield Finding("trend", f"the last iterations took {late / early - 1:+.0%} of the first")
    gap, below = max((b - a, number) for number, (a, b) in enumerate(pairwise(sorted(times)), 1))
    if gap > MODES_APART * middle and min(below, len(times) - below) >= max(2, len(times) // 5):
        yield Finding("two_modes", f"iterations fall into two groups {gap / middle:.0%} apart")


PROBLEMS: tuple[Check, ...] = (
    _token_count,
    _clock,
    _implausible,
    _physics,
    _memory,
    _prefix_hit,
    _recompiled,
    _not_greedy,
    _placement,
    _dtype,
    _throttled,
)
WARNINGS: tuple[Check, ...] = (
    _clock_warning,
    _mixed,
    _quantised,
    _graphs,
    _memory_failed,
    _hot,
    _warm,
    _busy,
    _shape,
)
