"""Every check on a record's numbers, shown green on a good record and red on one that it must catch."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from llmbench.measure import checks
from llmbench.measure.checks import Ceilings
from llmbench.results.record import Memory, Outcome, Sample, Status
from make_records import make_cell, make_record, make_samples

CELL = make_cell(0, batch_size=2, input_len=8, output_len=4, dtype="float32", device="cpu")
MS = 1_000_000
SAMPLES = make_samples([0.008] * 6, 0.005, 4)
GOOD = msgspec.structs.replace(
    make_record(CELL, 1, SAMPLES).outcome,
    returned={"4": 12},
    counters={"prefix_cache_hits": 0},
    telemetry={"cpu_wall_s": 10.0, "cpu_other_s": 0.1, "cpu_steal_s": 0.0, "cpu_count": 2},
    engine={
        "param_devices": "cpu",
        "param_dtypes": "float32",
        "bytes_per_step": 1_000_000,
        "flops_per_prompt_token": 2_000_000,
    },
)
ROOMY = Ceilings(bandwidth=1e9, flops=1e10, memory=2**30)
"""A decode step of 1 ms moves 1 MB: 1e9 B/s. Prefill: 2 x 1e6 x 2 x 8 = 3.2e7 FLOP in 5 ms: 6.4e9 FLOP/s."""

Change = Callable[[Outcome], Outcome]


def with_(**changes: Any) -> Change:
    return lambda outcome: msgspec.structs.replace(outcome, **changes)


def with_engine(**facts: Any) -> Change:
    return lambda outcome: msgspec.structs.replace(outcome, engine={**outcome.engine, **facts})


def each(**changes: Any) -> Change:
    """Return a change of every sample."""
    return with_(samples=[msgspec.structs.replace(sample, **changes) for sample in SAMPLES])


ONE_JUMP = with_(
    samples=[msgspec.structs.replace(SAMPLES[0], wall_ns=3_600_000 * MS), *SAMPLES[1:]]
)


def lasting(*milliseconds: float) -> Change:
    """Return samples that took so long."""
    return with_(
        samples=make_samples([time / 1000 for time in milliseconds], 0.001, 4),
        returned={"4": 2 * len(milliseconds)},
    )


PROBLEMS: dict[str, list[tuple[Change, str]]] = {
    "token_count": [
        (with_(returned={"3": 12}), "asked 4 x 12, got 3 x 12 (tokens x sequences)"),
        (with_(returned={"5": 12}), "got 5 x 12"),
        (with_(returned={"3": 6, "4": 6}), "got 3 x 6, 4 x 6"),
        (with_(returned={"4": 11, "missing": 1}), "got 4 x 11, missing x 1"),
        (with_(returned={}), "got nothing"),
    ],
    "clock": [
        (each(e2e_ns=0), "6 of 6 durations are not positive numbers, such as 0"),
        (each(e2e_ns=-5), "such as -5"),
        (each(e2e_ns=None), "such as None"),
        (lambda outcome: slow_wall(outcome, 1.05), "differ by +5.00% in the median iteration"),
        (lambda outcome: slow_wall(outcome, 0.95), "differ by -5.00%"),
    ],
    "implausible": [
        (each(token_ns=[[1 * MS, 2 * MS, 3 * MS]]), "3 token times for 4 tokens"),
        (each(token_ns=[[5 * MS, 4 * MS, 7 * MS, 8 * MS]]), "token times do not increase"),
        (each(token_ns=[[0, 1 * MS, 7 * MS, 8 * MS]]), "token times do not increase"),
        (each(token_ns=[[9 * MS, 10 * MS, 11 * MS, 12 * MS]]), "came after the end"),
        (each(token_ns=[[1 * MS, 2 * MS, 3 * MS, 9 * MS]]), "1.000 ms after the end of 8.000 ms"),
        (each(token_ns=[[1 * MS, 2 * MS, 3 * MS, 4 * MS]]), "lie after the last token"),
        (with_engine(bytes_per_step=1_100_000), "over the bandwidth"),
        (with_engine(flops_per_prompt_token=4_000_000), "over the peak"),
        (with_(memory=Memory(device_used_bytes=2**30 + 1)), "the device has 1,073,741,824 bytes"),
    ],
    "prefix_hit": [(with_(counters={"prefix_cache_hits": 3}), "prefix_cache_hits rose by 3")],
    "recompiled": [(with_(counters={"compiled_graphs": 2}), "2 graphs were compiled")],
    "not_greedy": [
        (
            with_(counters={"not_greedy_tokens": 2}),
            "tokens are not what the model chooses without speculation",
        )
    ],
    "placement": [
        (with_engine(param_devices="meta"), "parameters on meta instead of cpu"),
        (with_engine(param_devices="cpu, cuda:0"), "parameters on cuda:0 instead of cpu"),
    ],
    "dtype": [
        (with_engine(param_dtypes="float16"), "parameters in float16 instead of float32"),
        (with_engine(param_dtypes="float32, float64"), "parameters in float64"),
    ],
    "throttled": [
        (
            lambda outcome: msgspec.structs.replace(
                outcome,
                samples=[*SAMPLES, *[discarded(sample) for sample in SAMPLES]],
                returned={"4": 24},
            ),
            "6 iterations discarded: HwSlowdown",
        )
    ],
}

WARNINGS: dict[str, list[tuple[Change, str]]] = {
    "quantised": [
        (
            with_engine(quantization="awq-4bit", param_dtypes="int32"),
            "weights are awq-4bit, held as int32",
        )
    ],
    "cuda_graphs": [
        (
            with_(counters={"cudagraph_skips": 2, "cudagraph_rerecordings": 1}),
            "2 CUDA graphs were left out and 1 recorded again",
        )
    ],
    "memory_failed": [(with_(memory_error="OutOfMemoryError: no room"), "OutOfMemoryError")],
    "clock_drift": [(lambda outcome: slow_wall(outcome, 1.005), "differ by +0.50%")],
    "clock_jump": [(ONE_JUMP, "the wall clock jumped in 1 of 6 iterations")],
    "warmup_too_short": [
        (with_(warmup_converged=None, warmup_ns=[8 * MS]), "1 warm-up call, too few to compare"),
    ],
    "warmup_not_converged": [
        (with_(warmup_converged=False), "the last of 3 warm-up calls still got faster")
    ],
    "mixed_dtype": [
        (
            with_engine(kept_float32_parameters=1_000, parameters=10_000),
            "the family keeps 1,000 of its 10,000 parameters in float32",
        )
    ],
    "hot": [(lambda outcome: seen(outcome, hot_share=0.02), "clocks down 2% of the time")],
    "busy_machine": [(lambda outcome: seen(outcome, cpu_other_s=2.0), "used 10% of the CPUs")],
    "cpu_steal": [(lambda outcome: seen(outcome, cpu_steal_s=1.0), "took 5% of the CPUs")],
    "spike": [(lasting(8, 8, 80, 8, 8, 8), "the slowest iteration took 10.0x the median")],
    "trend": [
        (lasting(8, 8.2, 8.4, 8.6, 8.8, 9.0), "took +10% of the first"),
        (lasting(9.0, 8.8, 8.6, 8.4, 8.2, 8), "took -9% of the first"),
    ],
    "two_modes": [(lasting(8, 10, 8, 10, 8, 10), "two groups 22% apart")],
}


def slow_wall(outcome: Outcome, factor: float) -> Outcome:
    """Stretch to 80 ms, where a share of it is more than the cost of reading two clocks."""
    return msgspec.structs.replace(
        outcome,
        samples=[
            Sample(e2e_ns=80 * MS, wall_ns=round(80 * MS * factor), token_ns=stretched(sample))
            for sample in outcome.samples
        ],
    )


def stretched(sample: Sample) -> list[list[int]]:
    return [[10 * time_ns for time_ns in row] for row in sample.token_ns]


def discarded(sample: Sample) -> Sample:
    return msgspec.structs.replace(sample, discarded="HwSlowdown")


def seen(outcome: Outcome, **seconds: float) -> Outcome:
    return msgspec.structs.replace(outcome, telemetry={**outcome.telemetry, **seconds})


def rows(table: dict[str, list[tuple[Change, str]]]) -> list[Any]:
    return [
        pytest.param(code, change, detail, id=f"{code}-{number}")
        for code, changes in table.items()
        for number, (change, detail) in enumerate(changes)
    ]


def test_a_good_record_has_nothing_against_it() -> None:
    assert checks.check_outcome(CELL, GOOD, ROOMY) == (Status.OK, [], [])


@pytest.mark.parametrize(("code", "change", "detail"), rows(PROBLEMS))
def test_a_problem_is_caught(code: str, change: Change, detail: str) -> None:
    status, problems, _ = checks.check_outcome(CELL, change(GOOD), ROOMY)

    assert status is Status.INVALID
    assert [problem.code for problem in problems if detail in problem.detail] == [code]


@pytest.mark.parametrize(("code", "change", "detail"), rows(WARNINGS))
def test_a_warning_is_given_and_the_number_stays(code: str, change: Change, detail: str) -> None:
    status, problems, warnings = checks.check_outcome(CELL, change(GOOD), Ceilings())

    assert (status, problems) == (Status.OK, [])
    assert [warning.code for warning in warnings if detail in warning.detail] == [code]


def test_a_session_that_ended_in_its_warmup_is_not_told_to_warm_up_longer() -> None:
    ended = with_(warmup_converged=None, warmup_ns=[8 * MS], samples=[])(GOOD)

    *_, warnings = checks.check_outcome(CELL, ended, Ceilings())

    assert "warmup_too_short" not in [warning.code for warning in warnings]


def test_one_jump_beside_a_late_reading_is_no_drift() -> None:
    """A reading of the wall clock that came late counts as its share, and not as a second jump."""
    jumped, late, calm = slow_wall(GOOD, 1.0).samples[:3]  # of 80 ms
    samples = [
        msgspec.structs.replace(jumped, wall_ns=3_600_000 * MS),
        msgspec.structs.replace(late, wall_ns=(late.e2e_ns or 0) + 150_000),
        calm,
    ]
    outcome = msgspec.structs.replace(GOOD, samples=samples, returned={"4": 6})

    _, problems, warnings = checks.check_outcome(CELL, outcome, ROOMY)

    assert [problem.code for problem in problems] == []
    assert "clock_jump" in {warning.code for warning in warnings}


def test_every_check_is_shown_red() -> None:
    changed = [
        change(GOOD)
        for table in (PROBLEMS, WARNINGS)
        for changes in table.values()
        for change, _ in changes
    ]

    for check in (*checks.PROBLEMS, *checks.WARNINGS):
        assert any(list(check(CELL, outcome, ROOMY)) for outcome in changed), check.__name__


def test_a_violation_of_physics_needs_a_known_ceiling() -> None:
    fast = with_engine(bytes_per_step=10**15, flops_per_prompt_token=10**15)(GOOD)

    assert checks.check_outcome(CELL, fast, Ceilings())[0] is Status.OK
    assert checks.check_outcome(CELL, fast, Ceilings(bandwidth=1e9))[0] is Status.INVALID
    assert checks.check_outcome(CELL, fast, Ceilings(flops=1e9))[0] is Status.INVALID


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (each(token_ns=[[9 * MS, 10 * MS, 11 * MS, 12 * MS]]),
         "the first token (9.000 ms) came after the end (8.000 ms)"),
        (each(token_ns=[[8 * MS, 8 * MS, 8 * MS, 8 * MS]]),
         "the first token (8.000 ms) came after the end (8.000 ms)"),
        (each(token_ns=[[1 * MS, 2 * MS, 3 * MS, 9 * MS]]),
         "the last token came 1.000 ms after the end of 8.000 ms: no wait for it"),
        (each(token_ns=[[1 * MS, 2 * MS, 3 * MS, 4 * MS]]), "4.000 ms of 8.000 ms lie after the last token"),
        (with_engine(bytes_per_step=1_100_000),
         "a decode step moves 1,100,000 bytes in 1.0000 ms: over the bandwidth"),
        (with_engine(flops_per_prompt_token=4_000_000), "prefill does 6.4e+07 FLOP in 5.0000 ms: over the peak"),
    ],
)  # fmt: skip
def test_the_figures_of_a_finding_are_in_the_units_that_it_names(
    change: Change, detail: str
) -> None:
    problems = checks.check_outcome(CELL, change(GOOD), ROOMY)[1]

    assert problems[0].detail == detail


@pytest.mark.parametrize(
    ("milliseconds", "codes"),
    [
        ([8, 8, 8, 17], []),  # four are too few for a shape
        ([8, 8, 8, 8, 17], ["spike"]),
        ([8, 8, 8, 8, 16], []),  # not over twice the median
        ([100, 102, 104, 106, 108, 110], ["trend"]),
        ([110, 108, 106, 104, 102, 100], ["trend"]),
        ([100, 101, 102, 103, 104, 105], []),  # 4 %
        ([100, 104, 102, 106, 108, 110], []),  # four of five steps are not over 80 %
        ([110, 106, 108, 104, 102, 100], []),
        ([100, 100, 112, 112, 112, 112], ["two_modes"]),
        ([112, 112, 112, 112, 100, 112], []),  # one is no group
        ([100, 100, *[112] * 12, 100], ["two_modes"]),
        ([100, *[112] * 13, 100], []),  # two of 15 are no fifth
        ([100, 100, 111, 111, 111, 111], []),  # 11 of 111 are under 10 %
    ],
)
def test_a_shape_is_told_from_where_it_is_plain(
    milliseconds: list[float], codes: list[str]
) -> None:
    warnings = checks.check_outcome(CELL, lasting(*milliseconds)(GOOD), Ceilings())[2]

    assert [warning.code for warning in warnings] == codes


def test_more_memory_than_the_device_has_is_implausible() -> None:
    took = msgspec.structs.replace(GOOD, memory=Memory(peak_reserved_bytes=2**30))

    assert checks.check_outcome(CELL, took, Ceilings(memory=2**30))[0] is Status.OK
    assert checks.check_outcome(CELL, took, Ceilings(memory=2**30 - 1))[0] is Status.INVALID


def test_a_measured_ceiling_forgives_half_as_much_again() -> None:
    measured = Ceilings(bandwidth=1e9, slack=checks.MEASURED_SLACK)

    for size, status in ((1_490_000, Status.OK), (1_510_000, Status.INVALID)):
        assert (
            checks.check_outcome(CELL, with_engine(bytes_per_step=size)(GOOD), measured)[0]
            is status
        )


def test_five_percent_over_a_ceiling_are_forgiven() -> None:
    assert (
        checks.check_outcome(CELL, with_engine(bytes_per_step=1_049_000)(GOOD), ROOMY)[0]
        is Status.OK
    )


def test_parameters_elsewhere_are_no_problem_where_offload_was_asked_for() -> None:
    asked = msgspec.structs.replace(CELL, options={"device_map": "auto"})

    moved = with_engine(param_devices="cpu, disk")(GOOD)

    assert checks.check_outcome(asked, moved, ROOMY)[0] is Status.OK


def test_a_failure_stays_what_it_is() -> None:
    failed = with_(status=Status.OOM, error="out of memory", returned={}, samples=[])(GOOD)

    status, problems, _ = checks.check_outcome(CELL, failed, ROOMY)

    assert (status, problems) == (Status.OOM, [])


def test_constant_durations_are_no_problem() -> None:
    assert len({sample.e2e_ns for sample in GOOD.samples}) == 1
    assert checks.check_outcome(CELL, GOOD, ROOMY)[0] is Status.OK


def test_sequences_that_begin_in_different_steps_are_held_by_the_last_to_end() -> None:
    rows = [[5 * MS, 6 * MS, 7 * MS, 7 * MS + 500_000], [6 * MS, 7 * MS, 7 * MS + 500_000, 8 * MS]]
    staggered = [
        msgspec.structs.replace(sample, e2e_ns=8 * MS, wall_ns=8 * MS, token_ns=rows)
        for sample in SAMPLES
    ]
    good = msgspec.structs.replace(GOOD, samples=staggered)
    late = msgspec.structs.replace(
        good,
        samples=[msgspec.structs.replace(s, e2e_ns=12 * MS, wall_ns=12 * MS) for s in staggered],
    )

    assert checks.check_outcome(CELL, good, Ceilings())[0] is Status.OK
    assert [problem.code for problem in checks.check_outcome(CELL, late, Ceilings())[1]] == [
        "implausible"
    ]


@pytest.mark.parametrize(("tail", "wrong"), [(0.009, False), (0.011, True)])
def test_the_last_token_and_the_end_differ_by_at_most_one_percent(tail: float, wrong: bool) -> None:
    # 1,000 ms, where a share of it is more than the 2 ms that a tail may always have.
    end = round(1000 * MS * (1 - tail))
    outcome = msgspec.structs.replace(
        GOOD,
        samples=[
            Sample(e2e_ns=1000 * MS, wall_ns=1000 * MS, token_ns=[[1 * MS, 2 * MS, 3 * MS, end]])
            for _ in GOOD.samples
        ],
    )

    problems = checks.check_outcome(CELL, outcome, Ceilings())[1]

    assert [problem.code for problem in problems] == ["implausible"] * wrong
