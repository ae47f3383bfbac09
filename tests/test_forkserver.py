"""The process that forks workers: when it cannot fork cleanly, when it hangs, when it dies."""

import signal
import time

import pytest

from llmbench.results.record import Status
from sweeps import ONLY_IN_THE_FORK_SERVER, Bench, assert_complete


def with_fork_server_that(bench: Bench, does: str) -> dict[str, str]:
    """Return the environment in which every fork server begins by doing this."""
    return bench.beginning_with(ONLY_IN_THE_FORK_SERVER + does)


def test_where_an_import_started_threads_workers_are_new_interpreters(bench: Bench) -> None:
    bench.write(fault=["none", "hang_native", "orphan"], when="session=1", axes={"batch_size": 2},
                protocol={"deadlines": {"iteration_s": 1.0}})  # fmt: skip
    threaded = with_fork_server_that(
        bench,
        "import threading, time; threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()",
    )

    done = bench.sweep(environment=threaded)

    assert_complete(done)
    assert {record.worker["start"] for record in done.records} == {"exec"}
    assert done.failed().status is Status.TIMEOUT
    assert [record.status for record in done.records].count(Status.OK) == 5
    strays = [record for record in done.records if record.worker["strays"]]
    assert [record.cell.options["fault"] for record in strays] == ["orphan"]


def test_where_an_import_asked_cuda_for_something_workers_are_new_interpreters(
    bench: Bench,
) -> None:
    # torch refuses CUDA to the forks of a process that has so much as counted the devices.
    bench.write()
    spoiled = with_fork_server_that(
        bench,
        "from types import SimpleNamespace as Made; parent = __import__('os').getpid();"
        " refused = lambda: __import__('os').getpid() != parent;"
        " sys.modules['torch'] = Made(cuda=Made(_is_in_bad_fork=refused))",
    )

    done = bench.sweep(environment=spoiled)

    assert_complete(done)
    assert {record.worker["start"] for record in done.records} == {"exec"}
    assert {record.status for record in done.records} == {Status.OK}


def test_without_threads_workers_are_forks(bench: Bench) -> None:
    bench.write()

    done = bench.sweep()

    assert {record.worker["start"] for record in done.records} == {"fork"}


def test_a_stop_while_the_fork_server_imports_is_heard_at_once(bench: Bench) -> None:
    bench.write()
    slow = with_fork_server_that(
        bench, "import time; print('importing', flush=True); time.sleep(60)"
    )
    process = bench.start(environment=slow)
    log = bench.run / "logs" / "forkserver-fake.log"
    while not log.exists() or "importing" not in log.read_text():
        assert process.poll() is None
        time.sleep(0.02)
    began = time.monotonic()

    process.send_signal(signal.SIGINT)
    done = bench.ended(process)

    assert time.monotonic() - began < 5
    assert (done.code, done.err) == (130, "")
    assert done.records == []
    assert bench.gone()


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("import os; os._exit(3)", "the worker could not be started: "),
        ("import time; time.sleep(60)", "the worker could not be started: no answer within 2 s"),
    ],
)
def test_a_fork_server_that_never_works_fails_its_cells_and_ends(
    bench: Bench, does: str, reason: str
) -> None:
    bench.write(protocol={"deadlines": {"start_s": 2.0}})

    done = bench.sweep(environment=with_fork_server_that(bench, does))

    assert_complete(done)
    assert done.code == 3
    assert {(record.status, record.phase) for record in done.records} == {(Status.CRASH, "start")}
    assert all((record.reason or "").startswith(reason) for record in done.records)


def test_a_worker_that_dies_at_once_is_noticed_at_once(bench: Bench) -> None:
    bench.write(fault="kill", at="load", when="session=1", axes={"batch_size": 2},
                protocol={"isolation": "cell"})  # fmt: skip
    began = time.monotonic()

    done = bench.sweep()

    assert time.monotonic() - began < 15
    assert_complete(done)
    assert done.statuses == {(2, 1): Status.CRASH, (2, 2): Status.OK}
