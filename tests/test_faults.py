"""What befalls a worker becomes one record; the rows before it stay, and the sweep goes on (FAULTS 1 to 9)."""

import time
from itertools import pairwise
from typing import Any

import pytest

from llmbench.machine import state as machine_state
from llmbench.results import store
from llmbench.results.record import Record, Status, Stop
from sweeps import Bench, Done, assert_complete

HERE = "batch_size=2,session=1"

WORKER_ENDS = {
    "oom": (
        Status.OOM,
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (batch 2,",
    ),
    "memory_error": (Status.OOM, "MemoryError"),
    "cuda_error": (Status.CUDA_ERROR, "AcceleratorError: CUDA error: an illegal memory access"),
    "error": (Status.CRASH, "ValueError: something nobody has seen before"),
    "segv": (Status.CRASH, "killed by SIGSEGV; its peak RSS was 0."),
    "kill": (Status.CRASH, "killed by SIGKILL (the kernel's OOM killer? This machine has"),
    "exit": (Status.CRASH, "no_result: the worker exited with code 0"),
    "partial": (Status.CRASH, "no_result: the worker exited with code 0"),
    "unknown": (Status.CRASH, "protocol: Invalid value 'surprise'"),
    "nested": (Status.CRASH, "protocol: "),
}
RAISED = ("oom", "memory_error", "cuda_error", "error")
"""Those after which the worker can still send its numbers, if all were taken."""
PLACES = {"prepare": "warmup", "call": "iteration", "memory": "memory"}


def shared(folders: pytest.TempPathFactory, **sweep: Any) -> Done:
    """Run a sweep that several tests look at."""
    made = Bench(folders.mktemp("shared"))
    made.write(**sweep)
    return made.sweep(environment={machine_state.STATE: str(made.folder / "state")})


def test_a_fault_ends_its_own_session_only(bench: Bench) -> None:
    bench.write(fault=["none", *WORKER_ENDS], at=list(PLACES), when=HERE)

    done = bench.sweep()

    assert_complete(done)
    assert done.code == 3
    for record in done.records:
        fault, at = record.cell.options.get("fault"), str(record.cell.options.get("at", "call"))
        if fault and (record.cell.batch_size, record.session) == (2, 1):
            status, reason = WORKER_ENDS[str(fault)]
            if at == "memory" and fault in RAISED:
                assert record.status is Status.OK, record.id
                (told,) = [one.detail for one in record.warnings if one.code == "memory_failed"]
                assert told.startswith(reason)
                assert (record.outcome.memory, len(record.outcome.samples)) == (None, 3)
                continue
            assert (record.status, record.phase) == (status, PLACES[at]), record.id
            assert (record.reason or "").startswith(reason)
        else:
            assert record.status is Status.OK, record.id


def test_a_fault_while_loading_befalls_every_cell_that_shares_the_load(bench: Bench) -> None:
    bench.write(fault=list(WORKER_ENDS), at="load", when="session=1")

    done = bench.sweep()

    assert_complete(done)
    assert done.code == 3
    assert "load_failed" in done.out
    for record in done.records:
        fault = str(record.cell.options["fault"])
        status, _ = (Status.LOAD_FAILED, "") if fault == "error" else WORKER_ENDS[fault]
        if record.session == 1:
            assert (record.status, record.phase) == (status, "load"), record.id
        else:
            assert record.status is (Status.SKIPPED if fault == "error" else Status.OK), record.id


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Return a sweep in which four faults strike the first session of batch 2, each in a worker of its own engine."""
    return shared(tmp_path_factory, fault=["stranger", "oversized", "oom", "cuda_error"], when=HERE,
                  protocol={"deadlines": {"exit_s": 1.0}})  # fmt: skip


def of(done: Done, fault: str) -> list[Record]:
    """Return the records of the cells that a fault was meant for, whose others are ok."""
    return [record for record in done.records if record.cell.options["fault"] == fault]


def failed(done: Done, fault: str) -> Record:
    """Return the only one of these records that is not ok."""
    (record,) = (one for one in of(done, fault) if one.status is not Status.OK)
    return record


def test_a_result_for_another_cell_is_no_result(struck: Done) -> None:
    assert_complete(struck)
    assert failed(struck, "stranger").status is Status.CRASH
    assert (failed(struck, "stranger").reason or "").startswith("protocol: a result for 'another'")


def test_an_oversized_message_is_no_message(struck: Done) -> None:
    said = "protocol: a line of over 67,108,864 bytes"

    assert failed(struck, "oversized").status is Status.CRASH
    assert (failed(struck, "oversized").reason or "").startswith(said)


@pytest.mark.parametrize("fault", ["oom", "cuda_error"])
def test_a_process_that_met_a_device_error_measures_nothing_more(struck: Done, fault: str) -> None:
    first = [record for record in of(struck, fault) if record.session == 1]

    pids = [record.worker["pid"] for record in first]
    place = next(number for number, record in enumerate(first) if record.status is not Status.OK)
    assert pids[place] not in pids[place + 1 :]
    assert "batch 2" in (failed(struck, fault).reason or "") or fault == "cuda_error"
    assert failed(struck, fault).outcome.trace


def test_a_device_error_sticks_to_its_process_and_to_nothing_else(bench: Bench) -> None:
    bench.write(
        fault="cuda_error", when="batch_size>=5,session=1", axes={"batch_size": list(range(1, 9))}
    )

    done = bench.sweep()

    assert_complete(done)
    first = [record for record in done.records if record.session == 1]
    assert [record.status is Status.CUDA_ERROR for record in first] == [
        record.cell.batch_size >= 5 for record in first
    ]
    pairs = list(pairwise(record.worker["pid"] for record in first))
    ended = [record.status is Status.CUDA_ERROR for record in first[:-1]]
    assert [one != next_one for one, next_one in pairs] == ended
    assert {True, False} == set(ended)


NAMED = {
    "oom_reworded": (Status.OOM, "OutOfMemoryError: the device has no room left"),
    "oom_by_text": (Status.OOM, "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cuda_misleading": (Status.CUDA_ERROR, "AcceleratorError: a kernel ran out of memory bounds"),
    "error": (Status.CRASH, "ValueError: something nobody has seen before"),
}


def test_an_exception_is_known_by_its_type_first_and_by_its_text_last(bench: Bench) -> None:
    bench.write(fault=list(NAMED), when="session=1", axes={"batch_size": 2})

    done = bench.sweep()

    assert_complete(done)
    for record in done.records:
        if record.session == 1:
            status, reason = NAMED[str(record.cell.options["fault"])]
            assert record.status is status
            assert (record.reason or "").startswith(reason)
            trace = record.outcome.trace or ""
            assert trace.startswith("Traceback (most recent call last):")
            assert trace.rstrip().endswith(record.outcome.error or "nothing")


def test_a_hang_ends_at_the_deadline_of_its_phase(bench: Bench) -> None:
    deadlines = dict.fromkeys(("load_s", "warmup_s", "iteration_s", "memory_s"), 1.0)
    bench.write(fault=["hang", "hang_native"], at=["load", "call", "memory"], when="session=1",
                axes={"batch_size": 2}, protocol={"deadlines": deadlines})  # fmt: skip

    done = bench.sweep()

    assert_complete(done)
    assert done.code == 3
    for record in done.records:
        if record.session == 2:
            assert record.status is Status.OK
            continue
        phase = {"load": "load", "memory": "memory"}.get(
            str(record.cell.options.get("at")), "iteration"
        )
        assert (record.status, record.phase) == (Status.TIMEOUT, phase)
        assert record.reason == f"{phase}: silent for 1 s"


def test_a_hang_in_the_first_call_is_over_within_15_s_with_everything_it_started(
    bench: Bench,
) -> None:
    bench.write(fault=["hang", "hang_native"], call=1, when="session=1", axes={"batch_size": 2},
                protocol={"deadlines": {"warmup_s": 1.0}})  # fmt: skip
    began = time.monotonic()

    done = bench.sweep()

    assert time.monotonic() - began < 15
    assert_complete(done)
    for fault in ("hang", "hang_native"):
        ended = {record.session: record.status for record in of(done, fault)}
        assert ended == {1: Status.TIMEOUT, 2: Status.OK}
        assert failed(done, fault).phase == "warmup"


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Return a sweep whose workers end badly after their result."""
    return shared(tmp_path_factory, fault=["hang", "segv", "kill", "exit"], at="exit", when="session=1",
                  axes={"batch_size": 2}, protocol={"deadlines": {"exit_s": 1.0}})  # fmt: skip


def ended_badly(done: Done) -> set[tuple[object, int]]:
    """Return the fault and the session of each record whose worker ended badly."""
    return {
        (record.cell.options["fault"], record.session)
        for record in done.records
        for finding in record.warnings
        if finding.code == "worker_end"
    }


def test_a_worker_that_hangs_after_its_result_keeps_the_result(late: Done) -> None:
    assert_complete(late)
    assert late.code == 0
    assert ("hang", 1) in ended_badly(late)


def test_a_worker_that_dies_after_its_result_keeps_the_result(late: Done) -> None:
    assert late.code == 0
    assert ended_badly(late) == {("hang", 1), ("segv", 1), ("kill", 1)}


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Return a sweep whose workers leave processes behind, or print whatever they like."""
    return shared(tmp_path_factory, fault=["grandchild", "orphan", "junk", "fake_result", "flood"],
                  when="session=1", axes={"batch_size": 2})  # fmt: skip


def test_a_process_that_outlives_its_worker_is_killed_and_noted(untidy: Done) -> None:
    assert_complete(untidy)
    assert untidy.code == 0
    for record in untidy.records:
        strays = [finding.detail for finding in record.warnings if finding.code == "strays"]
        stays = record.cell.options["fault"] in ("grandchild", "orphan") and record.session == 1
        assert len(strays) == (1 if stays else 0)


def test_what_a_worker_prints_is_no_result(untidy: Done) -> None:
    assert_complete(untidy)
    assert untidy.code == 0
    assert "Loading checkpoint" not in untidy.out + untidy.err


def test_a_flood_of_prints_is_cut_in_the_log(untidy: Done) -> None:
    assert untidy.code == 0
    assert max(path.stat().st_size for path in (untidy.bench.run / "logs").iterdir()) <= 16 * 2**20


PROBLEMS = {
    "tokens_short": "token_count",
    "tokens_long": "token_count",
    "tokens_ragged": "token_count",
    "early": "implausible",
    "prefix_hits": "prefix_hit",
    "placement": "placement",
    "dtype": "dtype",
    "clock_zero": "clock",
    "clock_negative": "clock",
    "clock_nan": "clock",
    "clock_infinite": "clock",
    "clock_drift": "clock",
}


def test_a_number_that_cannot_be_true_is_invalid(bench: Bench) -> None:
    bench.write(fault=list(PROBLEMS), when="session=1", axes={"batch_size": 2}, ttft_ms=20.0,
                protocol={"max_iterations": 20, "warmup_budget_s": 0.2})  # fmt: skip

    done = bench.sweep()

    assert_complete(done)
    assert done.code == 3
    for record in done.records:
        problem = PROBLEMS[str(record.cell.options["fault"])]
        if record.session == 2:
            assert record.status is Status.OK
        else:
            assert record.status is Status.INVALID
            assert (record.reason or "").startswith(f"{problem}: ")


WARNINGS = {"trend": "trend", "two_modes": "two_modes", "spike": "spike", "wall_jump": "clock_jump"}


def test_an_odd_shape_is_a_warning_and_nothing_is_dropped(bench: Bench) -> None:
    bench.write(fault=list(WARNINGS), call=8, axes={"batch_size": 2},
                protocol={"iterations": 9, "warmup_budget_s": 0.01})  # fmt: skip

    done = bench.sweep()

    assert_complete(done)
    assert done.code == 0
    for record in done.records:
        warning = WARNINGS[str(record.cell.options["fault"])]
        assert warning in {finding.code for finding in record.warnings}
        assert len(record.outcome.samples) == 9
        assert not any(sample.discarded for sample in record.outcome.samples)


@pytest.mark.slow
def test_a_fault_by_chance_strikes_a_share_of_the_sessions_and_the_same_ones_again(
    bench: Bench,
) -> None:
    again = []
    for name in ("one", "again"):
        bench.run = bench.folder / name
        bench.rows = bench.run / store.RECORDS
        bench.write(fault="error", chance=0.3, axes={"batch_size": list(range(1, 31))})
        done = bench.sweep("--sessions", "1")
        again.append({key for key, status in done.statuses.items() if status is not Status.OK})

    assert again[0] == again[1]
    assert 2 <= len(again[0]) <= 16  # 9 of 30 to be expected, with a spread of 2.5


def test_noise_that_never_settles_ends_by_its_budget_with_its_interval(bench: Bench) -> None:
    bench.write(jitter=0.2, axes={"batch_size": 2}, protocol={
        "sessions": 2, "max_sessions": 1000, "interval_within": 1e-6, "budget_s": 0.5,
    })  # fmt: skip

    done = bench.sweep()

    assert done.code == 0
    (stop,) = (line for line in store.read(bench.run) if isinstance(line, Stop))
    assert stop.reason == "budget"
    assert stop.sessions == len(done.records) >= 2
    assert stop.half_width is not None
    assert stop.half_width > 1e-6
    assert "±" in done.out
