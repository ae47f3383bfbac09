"""Other places than a developer's own: another user than root, a terminal that closes, a wall clock that is stepped."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from llmbench.results.record import Status
from llmbench.run.progress import Screen
from make_records import make_cell, make_record, make_samples
from sweeps import LLMBENCH, Bench, assert_complete

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534
SYSTEM_PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", str(SYSTEM_PYTHON), "-m", "llmbench",
)  # fmt: skip

REACHED = all(
    path.stat().st_mode & 0o001
    for place in (__file__, pytest.__file__)
    for path in Path(place).resolve().parents
)
SLEEPS_OTHERWISE = "import select, time; time.sleep = lambda s: select.select([], [], [], s)"
"""libfaketime makes clock_nanosleep, with which Python sleeps, fail."""

needs_another_user = pytest.mark.skipif(
    not REACHED
    or os.getuid() != 0
    or shutil.which("setpriv") is None
    or not SYSTEM_PYTHON.exists(),
    reason="another user takes root, setpriv, a system's Python of this version, and folders that it may enter",
)


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a folder that everybody reaches: pytest's own belong to the user alone."""
    folder = Path(f"/tmp/llmbench-{os.getpid()}-{time.monotonic_ns()}")  # noqa: S108 - its name is new
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def as_nobody(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    paths = [
        str(Path(__file__).parents[1] / "src"),
        *(path for path in sys.path if "site-packages" in path),
    ]
    return subprocess.run(
        [*AS_NOBODY, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False,
        env={
            "PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": ":".join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )  # fmt: skip


def benched(home: Path) -> Bench:
    bench = Bench(home)
    bench.write(axes={"batch_size": 1}, protocol={"sessions": 1, "max_sessions": 1})
    bench.file.chmod(0o644)
    return bench


@needs_another_user
def test_another_user_measures_without_a_home(home: Path) -> None:
    bench = benched(home)

    done = as_nobody(home, "sweep", bench.file, "-o", bench.run)

    assert (done.returncode, done.stderr) == (0, "")
    assert bench.rows.stat().st_uid == NOBODY


@needs_another_user
def test_another_users_run_is_read_and_not_written(home: Path) -> None:
    bench = benched(home)
    bench.sweep()
    before = bench.rows.read_bytes()

    shown = as_nobody(home, "table", bench.run)
    refused = as_nobody(home, "sweep", bench.file, "-o", bench.run)

    assert shown.returncode == 0
    assert refused.returncode == 2
    assert refused.stderr == f"llmbench: {bench.run}: cannot be written: Permission denied.\n"
    assert bench.rows.read_bytes() == before


@needs_another_user
@pytest.mark.parametrize(
    "closed",
    [pytest.param("results/earlier", marks=pytest.mark.slow), "results/earlier/records.jsonl"],
)
def test_runs_that_cannot_be_read_do_not_stop_a_sweep(home: Path, closed: str) -> None:
    bench = benched(home)
    bench.run = home / "results" / "earlier"
    bench.run.parent.mkdir()
    bench.sweep()
    (home / "results").chmod(0o777)
    (home / closed).chmod(0)

    done = as_nobody(home, "sweep", bench.file)

    assert (done.returncode, done.stderr) == (0, "")


def closed_while_measuring(bench: Bench, before: Callable[[], object]) -> int:
    """Sweep on a terminal that closes once a record is written; return the exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        before()
        os.execv(sys.executable, [*LLMBENCH, "sweep", str(bench.file), "-o", str(bench.run)])  # noqa: S606
    deadline = time.monotonic() + 30
    while not (bench.rows.exists() and b'"kind":"end"' in bench.rows.read_bytes()):
        assert time.monotonic() < deadline
        os.set_blocking(terminal, False)
        try:
            os.read(terminal, 2**16)
        except BlockingIOError:
            time.sleep(0.02)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_terminal_that_closes_stops_the_sweep_and_costs_no_record(bench: Bench) -> None:
    bench.write(clock="real", ttft_ms=50.0)

    code = closed_while_measuring(bench, lambda: None)

    assert code == 129
    assert {record.status for record in bench.records()} <= {Status.OK, Status.INTERRUPTED}
    assert_complete(bench.sweep())


def test_a_sweep_that_ignores_hangups_goes_on_without_its_terminal(bench: Bench) -> None:
    bench.write(clock="real", ttft_ms=50.0)

    code = closed_while_measuring(bench, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))

    assert code == 129
    assert [record.status for record in bench.records()] == [Status.OK] * 6


class Gone(io.StringIO):
    """A terminal that fails at every write."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, "cannot write", text)


def test_a_screen_goes_on_without_its_terminal_but_not_on_a_full_disk() -> None:
    record = make_record(make_cell(), 1, make_samples([0.008], 0.005, 4))

    for live in (False, True):
        with Screen(Console(file=Gone(errno.EIO), force_terminal=live), "gone") as screen:
            screen.note("a note")
            screen.ended_with(record)
        assert screen.ended == 1
    with pytest.raises(OSError, match="cannot write"):
        Screen(Console(file=Gone(errno.ENOSPC)), "gone").ended_with(record)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_to_a_full_disk_is_told_by_the_exit_code(
    measured: Path, tmp_path: Path, stream: str
) -> None:
    command = [*LLMBENCH, "table", str(measured if stream == "stdout" else tmp_path)]

    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(command, check=False, **{**streams, stream: full})  # type: ignore[call-overload]

    assert done.returncode == {"stdout": 4, "stderr": 2}[stream]
    assert b"Traceback" not in (done.stderr or b"")


@pytest.mark.skipif(FAKETIME is None, reason="stepping the wall clock takes libfaketime")
def test_a_wall_clock_that_is_stepped_back_and_forth_harms_no_time(bench: Bench) -> None:
    bench.write(
        axes={"batch_size": [1, 2]}, protocol={"min_time_s": 0.3, "max_iterations": 10**6},
        clock="real", ttft_ms=0.0, tpot_ms=0.0,
    )  # fmt: skip
    steps = bench.folder / "steps"
    steps.write_text("+0\n")
    over = threading.Event()

    def step() -> None:
        while not over.wait(0.05):
            steps.write_text("-10d\n" if steps.read_text() == "+10d\n" else "+10d\n")

    thread = threading.Thread(target=step)
    thread.start()
    done = bench.sweep(
        environment={
            "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(steps), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", **bench.beginning_with(SLEEPS_OTHERWISE),
        }
    )  # fmt: skip
    over.set()
    thread.join()

    assert_complete(done)
    assert {record.status for record in done.records} == {Status.OK}
    codes = {finding.code for record in done.records for finding in record.warnings}
    assert "clock_jump" in codes
    for record in done.records:
        assert all(sample.e2e_ns and sample.e2e_ns > 0 for sample in record.outcome.samples)
        assert "-" not in json.dumps([record.outcome.load_s, record.outcome.cell_s])
