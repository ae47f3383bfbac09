"""What a sweep does not do to those around it: kill, import, wait for ever (FAULTS 57 to 60)."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from llmbench import interpreter, selftest
from llmbench.machine import processes as machine_processes
from llmbench.machine.processes import Mark
from llmbench.measure import probe
from llmbench.parity import check
from llmbench.results.record import Status
from sweeps import LLMBENCH, MARK, ONLY_IN_THE_FORK_SERVER, Bench

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE = {"batch_size": 2}
TRAPS = ("ctypes", "json", "select", "socket", "signal", "psutil", "msgspec", "llmbench", "typing")


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the working folder one in which any import leaves a file behind; return that file."""
    ran = tmp_path / "RAN"
    here = tmp_path / "here"
    (here / "llmbench").mkdir(parents=True)
    trap = f"open({str(ran)!r}, 'a').write(__name__ + chr(10)); raise ImportError"
    for name in TRAPS:
        (here / f"{name}.py").write_text(trap)
    (here / "llmbench" / "__init__.py").write_text(trap)
    monkeypatch.chdir(here)
    return ran


def console(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run llmbench as a user does, by its installed command."""
    command = (sys.executable, "-P", "-m", "llmbench", *map(str, arguments))
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **more}
    )


# -- nothing of the working folder is imported ---------------------------------------------------------


@pytest.mark.parametrize("start", ["fork", "exec"])
def test_a_sweep_imports_nothing_of_the_working_folder(
    bench: Bench, trapped: Path, start: str
) -> None:
    bench.write(fault="grandchild", axes=ONE, when="session=1")
    thread = "import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    spoiled = bench.beginning_with(ONLY_IN_THE_FORK_SERVER + thread) if start == "exec" else {}

    done = console("sweep", bench.file, "-o", bench.run, **spoiled)

    assert done.returncode == 0, done.stderr
    assert {record.worker["start"] for record in bench.records()} == {start}
    assert not trapped.exists(), trapped.read_text()


def test_what_a_workers_own_children_run_is_not_of_the_working_folder_either(
    trapped: Path,
) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import ctypes'], check=True)"
    environment = os.environ | interpreter.SAFE

    done = subprocess.run((sys.executable, "-P", "-c", code), env=environment, check=False)

    assert done.returncode == 0
    assert not trapped.exists()


def test_the_probe_imports_nothing_of_the_working_folder(trapped: Path) -> None:
    with pytest.raises(Exception, match="KeyError"):  # it ran, and knows no such device
        probe.measure("none", {"gpus": []})

    assert not trapped.exists()


def test_a_parity_child_imports_nothing_of_the_working_folder(
    trapped: Path, tmp_path: Path
) -> None:
    answers = check.ask([], tmp_path / "answers.json")

    assert answers == []
    assert not trapped.exists()


def test_an_audit_imports_nothing_of_the_working_folder(trapped: Path, bench: Bench) -> None:
    log = selftest._swept(bench.folder / "audited", bench.write(axes=ONE).read_text())

    assert log.plan
    assert not trapped.exists()


def test_python_m_llmbench_imports_no_module_of_the_working_folder(trapped: Path) -> None:
    shutil.rmtree("llmbench")  # Python itself takes this one, before anything of ours runs
    Path("llmbench.py").unlink()  # and this one

    done = subprocess.run((*LLMBENCH, "models"), capture_output=True, check=False)

    assert done.returncode == 0
    assert not trapped.exists()


@pytest.mark.parametrize("start", ["as a child", "as a user"])
def test_modules_of_our_names_on_a_strangers_pythonpath_are_not_taken(
    bench: Bench, trapped: Path, start: str
) -> None:
    bench.write(axes=ONE)
    words = ("sweep", bench.file, "-o", bench.run)
    command = interpreter.command("llmbench.__main__", *words)
    if start == "as a user":  # of a command whose package lies before PYTHONPATH in no case
        shutil.rmtree("llmbench")
        Path("llmbench.py").unlink()
        command = [str(Path(sys.executable).with_name("llmbench")), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    for name in ("psutil", "msgspec"):  # packages that are not Python's are PYTHONPATH's to replace
        (trapped.parent / "here" / f"{name}.py").unlink()

    done = subprocess.run(command, capture_output=True, env=environment, check=False)

    assert done.returncode == 0, done.stderr
    assert not trapped.exists()


# -- only processes of ours are ended ------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["grandchild", "hang"])
def test_a_child_that_was_there_before_is_spared(bench: Bench, fault: str) -> None:
    bench.write(
        fault=fault, axes=ONE, when="session=1", protocol={"deadlines": {"iteration_s": 1.0}}
    )
    sleeping = bench.folder / "sleeping"
    again = "while :; do sh -c 'sleep 0.05 & sleep 0.02'; done & echo $! >again"
    script = f"sleep 300 & echo $! >{sleeping}; {again}; exec {' '.join(LLMBENCH)} sweep {bench.file} -o {bench.run}"

    with bench.out.open("wb") as out:
        done = subprocess.run(
            ("bash", "-c", script), cwd=bench.folder, stdout=out, stderr=out, check=False,
            env={**os.environ, MARK: bench.mark},
        )  # fmt: skip

    innocent = [int((bench.folder / name).read_text()) for name in ("sleeping", "again")]
    assert done.returncode in (0, 3), bench.out.read_text()
    assert all(psutil.pid_exists(pid) for pid in innocent)
    strays = [stray for record in bench.records() for stray in record.worker["strays"]]
    assert all("python" in stray for stray in strays), strays
    assert bool(strays) is (fault == "grandchild")
    for pid in innocent:
        os.kill(pid, signal.SIGKILL)


WAITS = (sys.executable, "-c", "import time; print(flush=True); time.sleep(600)")


@pytest.fixture
def marked() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return a list of processes that are killed in the end."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def carrying(mark: Mark, processes: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Start a process that carries a mark."""
    environment = {**os.environ, machine_processes.RUN_VARIABLE: str(mark)}
    process = subprocess.Popen(WAITS, stdout=subprocess.PIPE, env=environment)
    processes.append(process)
    assert process.stdout
    process.stdout.readline()
    return process


OTHERS = {
    "of another run": {"run": "f" * 32},
    "in another folder, or on another file system": {"folder": "boot.1.2"},
    "of another set of process ids": {"namespace": "pid:[1]"},
    "whose sweep is alive, as a copy's original": {},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_process_is_left_over_from_this_run_alone(
    tmp_path: Path, marked: list[subprocess.Popen[bytes]], other: str
) -> None:
    mine = Mark.of_run("a" * 32, tmp_path)
    alive = carrying(mine, marked)
    ticks = machine_processes.start_ticks(alive.pid) if other.startswith("whose") else "1"
    process = carrying(mine._replace(sweep=f"{alive.pid}.{ticks}", **OTHERS[other]), marked)

    strays = machine_processes.kill_left_over(mine)

    assert strays == []
    assert process.poll() is None


def test_a_process_whose_sweep_is_dead_is_left_over_whoever_has_its_id_now(
    tmp_path: Path, marked: list[subprocess.Popen[bytes]]
) -> None:
    mine = Mark.of_run("a" * 32, tmp_path)
    reused = carrying(mine, marked)  # has the id of the dead sweep, and began later
    process = carrying(mine._replace(sweep=f"{reused.pid}.1"), marked)

    strays = machine_processes.kill_left_over(mine)

    assert [stray.split()[0] for stray in strays] == [str(process.pid)]
    assert process.poll() is not None
    assert reused.poll() is None


# -- every wait ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [None, signal.SIGTERM])
def test_a_worker_that_does_not_read_its_job_is_ended(
    bench: Bench, stop: signal.Signals | None
) -> None:
    words = bench.folder / "words.txt"
    words.write_text("some words of a prompt\n" * 60_000)
    bench.write(
        axes={**ONE, "prompts": str(words)},
        protocol={"sessions": 1, "max_sessions": 1, "deadlines": {"start_s": 3.0}},
    )
    deaf = """
import os, sys, time, threading
if os.environ.get("LLMBENCH_SESSION"):
    time.sleep(3600)
elif "llmbench.run.forkserver" in sys.orig_argv:
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
"""
    process = bench.start(environment=bench.beginning_with(deaf))
    bench.wait_for('"begin"', process)
    began = time.monotonic()
    if stop:
        time.sleep(0.5)
        process.send_signal(stop)

    done = bench.ended(process)

    assert time.monotonic() - began < 10
    assert done.code == (143 if stop else 3)
    expected = Status.INTERRUPTED if stop else Status.TIMEOUT
    assert [(record.status, record.phase) for record in done.records] == [(expected, "start")]
    assert bench.gone()


def test_a_worker_that_never_stops_talking_can_be_stopped(bench: Bench) -> None:
    bench.write(axes=ONE, fault="chatter", protocol={"sessions": 1, "max_sessions": 1})
    process = bench.start()
    bench.wait_for('"begin"', process)
    time.sleep(1.0)

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=10) == 143
    assert bench.gone()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stop_is_obeyed_when_nobody_reads_what_is_printed(
    bench: Bench, *, terminal: bool
) -> None:
    bench.write(axes={"batch_size": list(range(1, 400))}, protocol={"isolation": "cell"})
    ours, theirs = os.openpty() if terminal else os.pipe()
    command = (*LLMBENCH, "sweep", str(bench.file), "-o", str(bench.run))
    if not terminal:
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, text=True, env={**os.environ, MARK: bench.mark}
    )
    os.close(theirs)
    bench.wait_for('"end"', process)
    before = b""
    while before != (now := bench.raw()):  # until it is stuck in a write
        before = now
        time.sleep(1.0)
    assert process.poll() is None

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=10) == 143
    os.close(ours)
    assert bench.gone()
