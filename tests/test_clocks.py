"""Clocks of the machine that jump or drift while the command measures: a monotonic time is unharmed (FAULTS 29)."""

from __future__ import annotations

import pytest

from llmbench.results.record import Record, Status
from sweeps import VALID, Bench, assert_complete

WALL = """
import time
seconds, nanoseconds, monotonic = time.time, time.time_ns, time.monotonic_ns
began, calls = monotonic(), 0
def gain():
    return {gain}
def counted():
    global calls
    calls += 1
    return nanoseconds() + gain()
time.time, time.time_ns = lambda: seconds() + gain() / 1e9, counted
"""
JUMP = "({hours} * 3_600_000_000_000 if calls > 9 else 0)"
"""Two readings an iteration: after three calls to warm up, the tenth is the end of the second that is timed."""

DRIFT = "round({share} * (monotonic() - began))"

REAL = {"clock": "real", "ttft_ms": 20.0, "tpot_ms": 10.0}
"""50 ms an iteration of four tokens: 1 % of it is more than reading two clocks costs."""


SETTLED = {"sessions": 1, "max_sessions": 1, "warmup_within": 100.0}


def swept(bench: Bench, gain: str) -> tuple[Record, ...]:
    """Measure one session beside a wall clock with this gain."""
    bench.write(axes={"batch_size": 2}, protocol=SETTLED, **REAL)

    done = bench.sweep(environment=bench.beginning_with(WALL.format(gain=gain)))

    assert_complete(done)
    assert done.code in (VALID if done.records[0].status is Status.OK else (3,))
    return tuple(done.records)


def codes(record: Record) -> set[str]:
    return {finding.code for finding in record.warnings} & {"clock_jump", "clock_drift"}


@pytest.mark.parametrize("hours", [-1, 24 * 400], ids=["back", "on after a suspend"])
def test_a_wall_clock_that_jumps_harms_no_time(bench: Bench, hours: int) -> None:
    (record,) = swept(bench, JUMP.format(hours=hours))

    assert record.status is Status.OK
    assert "clock_jump" in codes(
        record
    )  # a late reading on a busy machine may look like a drift besides
    for sample in record.outcome.samples:
        assert sample.e2e_ns is not None
        assert 50_000_000 <= sample.e2e_ns < 600_000_000_000
        assert sample.token_ns[0] == sorted(sample.token_ns[0])
    assert 0 <= (record.outcome.load_s or 0.0) < 600
    assert 0 <= (record.outcome.cell_s or 0.0) < 600


@pytest.mark.parametrize(
    ("share", "status", "warned"),
    [(0.005, Status.OK, {"clock_drift"}), (-0.03, Status.INVALID, set())],
)
def test_two_clocks_that_drift_apart_by_more_than_a_hundredth_are_no_clocks(
    bench: Bench, share: float, status: Status, warned: set[str]
) -> None:
    (record,) = swept(bench, DRIFT.format(share=share))

    assert (record.status, codes(record)) == (status, warned)
    assert (record.reason or "").startswith(
        "clock: wall clock and monotonic clock differ by -"
    ) == (status is Status.INVALID)
