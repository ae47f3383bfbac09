"""Signals, and kills from outside: nothing acknowledged is lost, nothing is left, and resuming finishes."""

import contextlib
import os
import random
import signal
import subprocess
import time

import psutil
import pytest

from llmbench.machine import processes as machine_processes
from llmbench.results import lines as results_lines
from llmbench.results.record import Begin, Record, Status
from sweeps import SINGLE, VALID, Bench, Done, assert_complete

PHASES = {
    "load": ("load", 1),
    "warmup": ("call", 1),
    "iteration": ("call", 5),
    "memory": ("memory", 1),
}
ONE = {"batch_size": 2}


def hanging(bench: Bench) -> subprocess.Popen[str]:
    """Start the command and return when its first worker hangs."""
    process = bench.start()
    deadline = time.monotonic() + 30
    while not any("hanging" in path.read_text() for path in bench.run.glob("logs/*-s*.log")):
        assert process.poll() is None, bench.err.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def assert_resumable(bench: Bench, done: Done) -> None:
    """Assert that the same command finishes the run, whose rows so far stay as they are."""
    before = bench.raw()

    again = bench.sweep()

    assert_complete(again)
    assert bench.raw().startswith(before)
    assert again.code == 0
    assert done.bench is bench


@pytest.mark.parametrize(
    ("fault", "phase"),
    [
        *(("hang", phase) for phase in PHASES),
        ("hang_native", "iteration"),
        *(
            pytest.param("hang_native", phase, marks=pytest.mark.slow)
            for phase in PHASES
            if phase != "iteration"
        ),
    ],
)
def test_a_stop_keeps_what_was_interrupted_and_leaves_nothing(
    bench: Bench, fault: str, phase: str
) -> None:
    at, call = PHASES[phase]
    bench.write(fault=fault, at=at, call=call, axes=ONE, when="attempt=1", protocol=SINGLE)
    process = hanging(bench)

    process.send_signal(signal.SIGINT)
    done = bench.ended(process)

    assert done.code == 130
    assert [(record.status, record.phase) for record in done.records] == [
        (Status.INTERRUPTED, phase)
    ]
    assert bench.gone()
    assert done.err == ""
    if fault == "hang":  # what is left on the disk is the same
        assert_resumable(bench, done)


def test_a_stop_that_is_heard_late_names_the_phase_that_it_met(bench: Bench) -> None:
    bench.write(clock="real", load_ms=500.0, ttft_ms=0.1, tpot_ms=0.1, fault="hang", at="memory",
                axes=ONE, when="attempt=1,session=1")  # fmt: skip
    process = bench.start()
    bench.wait_for('"begin"', process)
    time.sleep(0.2)
    process.send_signal(signal.SIGSTOP)  # it has handed over the job, and hears no more of it
    while not any("hanging" in path.read_text() for path in bench.run.glob("logs/*-s*.log")):
        time.sleep(0.01)

    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    done = bench.ended(process)

    assert done.code == 130
    assert [(record.status, record.phase) for record in done.records] == [
        (Status.INTERRUPTED, "memory")
    ]


def test_a_stop_does_not_wait_for_a_fork_server_that_somebody_stopped(bench: Bench) -> None:
    bench.write(fault="hang", axes=ONE, when="attempt=1,session=1")
    process = hanging(bench)
    (fork_server,) = psutil.Process(process.pid).children()
    fork_server.suspend()
    before = time.monotonic()

    process.terminate()
    done = bench.ended(process)

    assert (done.code, [record.status for record in done.records]) == (143, [Status.INTERRUPTED])
    assert time.monotonic() - before < machine_processes.PATIENCE_S
    assert bench.gone()


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ((signal.SIGINT, signal.SIGINT), 130),
        ((signal.SIGTERM,), 143),
        ((signal.SIGHUP,), 129),
        pytest.param((signal.SIGINT, signal.SIGTERM), 130, marks=pytest.mark.slow),
    ],
)
def test_every_stop_signal_has_its_exit_code(
    bench: Bench, signals: tuple[signal.Signals, ...], code: int
) -> None:
    bench.write(fault="hang_native", axes=ONE, when="attempt=1,session=1")
    process = hanging(bench)

    for number in signals:
        process.send_signal(number)
    done = bench.ended(process)

    assert done.code == code
    assert f"Stopped. Run the same sweep with -o {bench.run} to continue." in done.out
    assert [record.status for record in done.records] == [Status.INTERRUPTED]
    assert bench.gone()


def test_a_stop_ends_what_the_worker_started_too(bench: Bench) -> None:
    bench.write(fault="orphan_hang", axes=ONE, when="attempt=1,session=1")
    process = hanging(bench)

    process.send_signal(signal.SIGINT)

    assert bench.ended(process).code == 130
    assert bench.gone()


@pytest.mark.parametrize(
    "after_s",
    [0.0, 0.15, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.02, 0.05, 0.08, 0.1, 0.2))],
)
def test_a_stop_while_sessions_come_and_go_is_clean(bench: Bench, after_s: float) -> None:
    bench.write(axes={"batch_size": list(range(1, 9))}, protocol={"isolation": "cell", **SINGLE})
    process = bench.start()
    bench.wait_for('"sweep"', process)

    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    done = bench.ended(process)

    assert (done.code, done.err) == (130, "")
    assert {record.status for record in done.records} <= {Status.OK, Status.INTERRUPTED}
    assert bench.gone()
    assert_resumable(bench, done)


@pytest.mark.parametrize("after_s", [0.1, 0.3, pytest.param(0.5, marks=pytest.mark.slow)])
def test_a_stop_before_anything_runs_leaves_nothing(bench: Bench, after_s: float) -> None:
    bench.write(axes=ONE, protocol=SINGLE)
    process = bench.start()

    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    done = bench.ended(process)

    assert done.code in (130, -signal.SIGINT, 0)
    assert "llmbench" not in done.err  # what is left is the interpreter's own start
    assert bench.gone()
    assert_resumable(bench, done)


def ignore_hangups() -> None:
    """Do as `nohup` does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.slow
def test_a_hangup_that_is_ignored_stays_ignored(bench: Bench) -> None:
    bench.write(load_ms=300.0, clock="real", ttft_ms=0.1, tpot_ms=0.1, axes=ONE)
    process = bench.start(limit=ignore_hangups)
    bench.wait_for('"begin"', process)

    process.send_signal(signal.SIGHUP)
    done = bench.ended(process)

    assert done.code in VALID
    assert_complete(done)


def children(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Return the command's descendants: its `fork server`, or the workers forked from it."""
    (server,) = psutil.Process(process.pid).children()
    return [server] if name == "fork server" else server.children()


@pytest.mark.parametrize("name", ["fork server", "worker"])
def test_a_process_of_ours_killed_from_outside_costs_one_session(bench: Bench, name: str) -> None:
    bench.write(fault="hang", when="batch_size=2,session=1")
    process = hanging(bench)

    for child in children(process, name):
        child.kill()
    done = bench.ended(process)

    assert_complete(done)
    assert done.code == 3
    assert done.failed().status is Status.CRASH
    assert done.failed().phase == "iteration"


@pytest.mark.slow
def test_a_fork_server_killed_while_it_forks_costs_nothing(bench: Bench) -> None:
    bench.write(protocol={"isolation": "cell"}, axes={"batch_size": list(range(1, 30))})
    process = bench.start()

    for _ in range(3):
        time.sleep(0.3)
        with contextlib.suppress(ValueError, psutil.Error):
            children(process, "fork server")[0].kill()
    done = bench.ended(process)

    assert_complete(done)
    assert {record.status for record in done.records} <= {Status.OK, Status.CRASH}
    assert sum(record.status is Status.CRASH for record in done.records) <= 3


def killed_and_resumed(bench: Bench, kills: int) -> None:
    """Kill the command at random moments until it has been killed so often, then let it finish."""
    bench.write(axes={"batch_size": list(range(1, 6 * kills + 1))}, protocol={"isolation": "cell"},
                fault="grandchild", when="session=2")  # fmt: skip
    moments = random.Random(10)  # noqa: S311 - moments, not secrets
    rows: list[bytes] = []
    for number in range(kills):
        before = bench.raw()
        process = bench.start()
        if number % 4:  # most of them while it measures, some while it starts
            bench.wait_for_more(before, process)
        time.sleep(moments.uniform(0.0, 0.5))
        acknowledged = bench.raw()
        process.kill()
        assert bench.ended(process).code == -signal.SIGKILL
        assert bench.raw().startswith(acknowledged)
        rows.append(acknowledged[: acknowledged.rfind(b"\n") + 1])

    done = bench.ended(bench.start(), patience_s=12.0 * kills)  # twelve workers a kill

    assert done.code == 0
    assert_complete(done)
    assert all(bench.raw().startswith(acknowledged) for acknowledged in rows)
    lines = [results_lines.decode(line) for line in bench.raw().splitlines()]
    begun = {(line.cell, line.session) for line in lines if isinstance(line, Begin)}
    assert begun == {(line.id, line.session) for line in lines if isinstance(line, Record)}


def test_killed_and_resumed_it_has_every_session_once(bench: Bench) -> None:
    killed_and_resumed(bench, 3)  # once while it starts, twice while it measures


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_50_times_it_has_every_session_once(bench: Bench) -> None:
    killed_and_resumed(bench, 50)


def test_the_next_invocation_kills_the_orphans_of_a_killed_one(bench: Bench) -> None:
    bench.write(fault="orphan_hang", axes=ONE, when="attempt=1,session=1")
    process = hanging(bench)
    os.kill(process.pid, signal.SIGKILL)
    bench.ended(process)

    done = bench.sweep()

    assert done.code == 0
    assert_complete(done)
