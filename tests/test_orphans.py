"""What an earlier invocation left is killed, nothing else is, and what no kill ends is noted (FAULTS 9, 11)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from llmbench.machine import processes
from llmbench.results import lines as results_lines
from llmbench.results.record import Begin, Status
from sweeps import LLMBENCH, MARK, Bench, assert_complete

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE = {"batch_size": 2}


@pytest.fixture
def innocent() -> Iterator[psutil.Process]:
    """Return a process that has nothing to do with the run, but for a token that looks like one."""
    environment = {**os.environ, "LLMBENCH_RUN": "0" * 32, "LLMBENCH_SESSION": "t" * 32}
    process = subprocess.Popen(("sleep", "3600"), env=environment)
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def killed_while_measuring(bench: Bench) -> None:
    """Kill the command itself while its worker, which has left an orphan, hangs."""
    bench.write(fault="orphan_hang", axes=ONE, when="attempt=1,session=1")
    process = bench.start()
    while not any("hanging" in path.read_text() for path in bench.run.glob("logs/*-s*.log")):
        assert process.poll() is None, bench.err.read_text()
        time.sleep(0.01)
    process.kill()
    bench.ended(process)


def alter_begins(bench: Bench, **facts: object) -> None:
    """Write other facts into every begin of the run, sealed as if they were true."""
    lines = [results_lines.decode(line) for line in bench.raw().splitlines(keepends=True)]
    altered = [
        msgspec.structs.replace(line, **facts) if isinstance(line, Begin) else line
        for line in lines
    ]
    bench.rows.write_bytes(
        b"".join(results_lines.seal(results_lines.encode(line)) for line in altered)
    )


def test_an_orphan_is_killed_and_whoever_has_its_process_id_is_not(
    bench: Bench, innocent: psutil.Process
) -> None:
    killed_while_measuring(bench)
    alter_begins(
        bench,
        pid=innocent.pid,
        pid_start_s=innocent.create_time(),
        boot=processes.boot_id(),
        token="t" * 32,
    )
    assert bench.alive()

    done = bench.sweep()

    assert_complete(done)
    assert done.code == 0
    assert re.search(r"Killed \d+ python\S*, left over from an earlier invocation\.", done.out)
    assert innocent.is_running()
    assert innocent.status() != "zombie"


def test_a_copy_of_a_run_that_is_being_measured_leaves_it_alone(bench: Bench) -> None:
    bench.write(fault="hang", axes=ONE, when="attempt=1,session=1")
    process = bench.start()
    bench.wait_for('"begin"', process)
    shutil.copytree(bench.run, bench.folder / "copy")
    command = (*LLMBENCH, "sweep", bench.file, "-o", bench.folder / "copy")

    copied = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, MARK: bench.mark},
    )  # fmt: skip

    assert (copied.returncode, copied.stderr) == (0, "")
    assert "left over" not in copied.stdout
    process.send_signal(signal.SIGINT)
    assert bench.ended(process).statuses == {(2, 1): Status.INTERRUPTED}


UNKILLABLE = """
import sys
if sys.orig_argv[1:3] == ["-m", "llmbench"]:
    import psutil, time
    kill, seconds, late = psutil.Process.kill, time.monotonic, 0.0
    def spare(process):
        global late
        if "import time; time.sleep(3600)" not in process.cmdline():
            return kill(process)
        late += 6.0  # two tries are all the patience there is
        time.monotonic = lambda: seconds() + late
    psutil.Process.kill = spare
"""
"""A process in uninterruptible sleep, as the command sees one: killed, and still there."""


def test_what_no_kill_ends_is_noted_and_not_waited_for_again(bench: Bench) -> None:
    bench.write(
        fault="grandchild", when="session=1", axes=ONE, protocol={"sessions": 3, "max_sessions": 3}
    )

    done = bench.sweep(environment=bench.beginning_with(UNKILLABLE))

    assert done.code == 0
    strays = [
        [finding.detail for finding in record.warnings if finding.code == "strays"]
        for record in done.records
    ]
    assert re.fullmatch(r"processes were left .* \(still there after 10 s\)", strays[0][0])
    assert strays[1:] == [[], []]
