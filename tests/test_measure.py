"""The measuring loop against known answers: counts and times of a scripted engine on a virtual clock."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

from fakes import a_cell, a_job, measured, quick
from llmbench.backends import fake
from llmbench.backends.fake import FakeEngine
from llmbench.backends.fake.faults import OutOfMemoryError
from llmbench.errors import LoadFailed
from llmbench.measure import prompts as measure_prompts
from llmbench.measure.clock import REAL
from llmbench.measure.loop import MOST_RETRIES, Loop, Measurement, lengths_of, whole
from llmbench.measure.telemetry import NoCounters, Spent

MS = 1_000_000


@pytest.mark.parametrize(
    ("ttft_ms", "tpot_ms", "output_len"), [(5.0, 1.0, 4), (0.25, 10.0, 16), (3.0, 9.0, 1)]
)
def test_times_are_exactly_the_script_s(ttft_ms: float, tpot_ms: float, output_len: int) -> None:
    taken = measured(a_cell(ttft_ms=ttft_ms, tpot_ms=tpot_ms, output_len=output_len))

    expected = [round((ttft_ms + number * tpot_ms) * MS) for number in range(output_len)]
    assert len(taken.samples) == 3
    for sample in taken.samples:
        assert sample.e2e_ns == sample.wall_ns == expected[-1]
        assert sample.token_ns == [expected]
    assert taken.returned == {str(output_len): 2 * 3}
    assert taken.memory is not None
    assert taken.memory.kv_cache_bytes == 1024 * 2 * (8 + output_len)
    assert taken.phase is None


def test_warm_up_of_a_constant_time_takes_three_calls() -> None:
    taken = measured(a_cell())

    assert taken.warmup_ns == [8 * MS] * 3
    assert taken.warmup_converged is True


def test_warm_up_that_gets_faster_to_the_end_has_not_converged() -> None:
    taken = measured(a_cell(warming=0.5), quick(warmup_budget_s=0.2))

    assert taken.warmup_converged is False
    assert 200 * MS <= sum(time or 0 for time in taken.warmup_ns) <= 215 * MS


def test_warm_up_that_settles_late_is_kept_whole() -> None:
    taken = measured(a_cell(warming=0.5))

    assert taken.warmup_converged is True
    assert taken.warmup_ns[0] == 12 * MS
    assert 8 * MS <= (taken.warmup_ns[-1] or 0) < 8 * MS * 1.02
    assert all((sample.e2e_ns or 0) < 8 * MS * 1.02 for sample in taken.samples)


def test_two_warm_up_calls_cannot_be_compared() -> None:
    taken = measured(a_cell(), quick(warmup=2, warmup_budget_s=0.0))

    assert taken.warmup_ns == [8 * MS] * 2
    assert taken.warmup_converged is None


def test_no_warm_up_of_a_broken_clock_is_endless() -> None:
    taken = measured(a_cell(fault="clock_zero"), quick(max_iterations=20, warmup_budget_s=0.0))

    assert len(taken.warmup_ns) <= 20


@pytest.mark.parametrize(
    ("protocol", "count"),
    [
        ({"iterations": 5, "min_time_s": 0.0}, 5),
        ({"iterations": 5, "min_time_s": 0.08}, 10),  # 0.08 s / 8 ms
        ({"iterations": 5, "min_time_s": 0.081}, 11),
        ({"iterations": 5, "min_time_s": 100.0, "max_iterations": 7}, 7),
    ],
)
def test_a_session_stops_after_enough_iterations_and_enough_time(
    protocol: dict[str, Any], count: int
) -> None:
    taken = measured(a_cell(), quick(**protocol))

    assert len(taken.samples) == count


@pytest.mark.parametrize("milliseconds", [0.5, 5.0, 20.0])
def test_a_real_sleep_is_measured_as_what_it_is(milliseconds: float) -> None:
    cell = a_cell(clock="real", ttft_ms=milliseconds, tpot_ms=0.0, output_len=1)
    asked = round(milliseconds * MS)

    pairs = [
        (
            statistics.median(sample.e2e_ns or 0 for sample in measured(cell, protocol).samples),
            statistics.median(slept_ns(asked) for _ in range(15)),
        )
        for protocol in [quick(iterations=15, warmup_budget_s=0.2)] * 3
    ]

    taken, slept = map(min, zip(*pairs, strict=True))
    assert asked <= taken
    assert abs(taken - slept) <= max(0.025 * asked, 50_000)


def slept_ns(asked: int) -> int:
    """Return what a sleep took; a busy machine wakes late, whoever measures."""
    start = time.perf_counter_ns()
    time.sleep(asked / 1e9)
    return time.perf_counter_ns() - start


def test_the_collector_is_off_while_it_measures_and_on_again_after() -> None:
    seen: list[bool] = []

    class Watched(FakeEngine):
        def generate(self, *given: Any) -> list[list[int]]:
            seen.append(gc.isenabled())
            return super().generate(*given)

    cell = a_cell()
    engine = Watched(a_job(cell))
    prompts = measure_prompts.synthetic(cell, engine, 0, 1)
    Loop(engine, quick(), prompts, Measurement(cell), NoCounters(), lambda *_: None).run()

    assert not any(seen)
    assert gc.isenabled()


def test_what_was_taken_survives_the_exception_that_ends_it() -> None:
    cell = a_cell(fault="oom", call=5)
    engine = fake.load(a_job(cell))
    taken = Measurement(cell)
    prompts = measure_prompts.synthetic(cell, engine, 0, 1)

    with pytest.raises(OutOfMemoryError):
        Loop(engine, quick(), prompts, taken, NoCounters(), lambda *_: None).run()

    assert (taken.phase, len(taken.warmup_ns), len(taken.samples)) == ("iteration", 3, 1)
    assert gc.isenabled()


class Throttled(NoCounters):
    """A device that slows down in the first `count` timed iterations."""

    def __init__(self, count: int) -> None:
        self.left = count + 3  # the warm-up's three come first

    def since(self, before: None) -> Spent:
        del before
        self.left -= 1
        return Spent(energy_mj=7, throttled="HwSlowdown" if self.left >= 0 else None)


def test_a_throttled_iteration_is_kept_but_does_not_count() -> None:
    taken = measured(a_cell(), counters=Throttled(2))

    assert [sample.discarded for sample in taken.samples] == ["HwSlowdown"] * 2 + [None] * 3
    assert {sample.energy_mj for sample in taken.samples} == {7}


def test_endless_throttling_is_given_up() -> None:
    taken = measured(a_cell(), counters=Throttled(1000))

    assert len(taken.samples) == MOST_RETRIES + 1


def test_a_device_cools_down_before_each_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr("llmbench.measure.loop.time.sleep", rests.append)

    measured(a_cell(), quick(cool_down_s=7.0), counters=Throttled(2))
    measured(a_cell(), quick(cool_down_s=1.0), counters=Throttled(1000))

    assert rests == [7.0] * 2 + [1.0] * MOST_RETRIES


def test_cache_hits_are_those_of_the_timed_iterations() -> None:
    taken = measured(a_cell(fault="prefix_hits", call=4))

    assert taken.counters == {"prefix_cache_hits": 1}


def test_a_heartbeat_precedes_every_call() -> None:
    cell = a_cell()
    engine = fake.load(a_job(cell))
    said: list[tuple[str, int]] = []
    prompts = measure_prompts.synthetic(cell, engine, 0, 1)
    loop = Loop(
        engine, quick(), prompts, Measurement(cell), NoCounters(), lambda *beat: said.append(beat)
    )

    loop.run()

    warm = [("warmup", number) for number in range(4)]
    timed = [("iteration", number) for number in range(1, 4)]
    assert said == [*warm, *timed, ("memory", 0)]


def drawn(name: str = "cell", seed: int = 0, session: int = 1) -> Callable[[Any, int], Any]:
    cell = a_cell(name)
    return measure_prompts.synthetic(cell, fake.load(a_job(cell)), seed, session)


def test_no_prompt_comes_twice() -> None:
    prompts = [
        row
        for name in ("one", "two")
        for session in (1, 2)
        for seed in (0, 1)
        for phase in ("warmup", "iteration", "memory")
        for iteration in range(5)
        for row in drawn(name, seed, session)(phase, iteration)
    ]

    assert len({tuple(row) for row in prompts}) == len(prompts) == 2 * 2 * 2 * 3 * 5 * 2
    assert {len(row) for row in prompts} == {8}


def test_the_same_seed_draws_the_same_prompts() -> None:
    assert drawn()("iteration", 3) == drawn()("iteration", 3)


def test_special_ids_are_never_drawn() -> None:
    cell = a_cell()
    engine = fake.load(a_job(cell))
    engine.vocab_size = 5

    prompts = measure_prompts.synthetic(cell, engine, 0, 1)("iteration", 0)

    assert {token for row in prompts for token in row} <= {3, 4}


def test_windows_of_a_text_start_at_different_places() -> None:
    cell = a_cell(batch_size=8)
    engine = fake.load(a_job(cell))
    text = " ".join(f"word{number}" for number in range(100))

    cut = measure_prompts.from_text(cell, engine, 0, 1, text)

    assert len({tuple(row) for row in cut.prompts("iteration", 0)}) == 8
    assert cut.bytes_per_token == (10 * 6 + 90 * 7 - 1) / 100  # word0 and a space to word99
    with pytest.raises(LoadFailed, match="the text has 3 tokens"):
        measure_prompts.from_text(cell, engine, 0, 1, "a short one")


def test_small_parts() -> None:
    assert lengths_of([[1, 2], [3]], 3) == ["2", "1", "missing"]
    assert (whole(1.0), whole(float("nan")), whole(float("inf"))) == (1, None, None)
    assert REAL.now() <= REAL.now()
