"""A disk that is full, a folder that is taken, a poor terminal, a long sweep: FAULTS 13, 15, 16, 33, 35 and 36."""

import contextlib
import fcntl
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llmbench.results import store
from llmbench.results.record import Status
from sweeps import BATCH_SIZES, LLMBENCH, MARK, SINGLE, Bench, asked, assert_complete

ONE = {"batch_size": 2}


def files_up_to(size: int) -> Callable[[], None]:
    """Return what keeps a command from writing files longer than this."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    "more", [0, 1800, *(pytest.param(n, marks=pytest.mark.slow) for n in (900, 2700))]
)
def test_a_record_that_cannot_be_written_stops_the_sweep_and_costs_nothing(
    bench: Bench, measured: Path, more: int
) -> None:
    bench.copy(measured)
    bench.write(axes={"batch_size": [*BATCH_SIZES, 8, 16]})
    size = len(bench.raw()) + 3500 + more
    before = bench.raw()

    done = bench.sweep("--add", limit=files_up_to(size))

    assert done.code == 4
    assert done.err.startswith(f"llmbench: {bench.rows}: cannot write ")
    assert done.err.endswith("All earlier records are safe; make room and resume.\n")
    assert done.err.count("\n") == 1
    assert bench.gone()
    assert bench.raw().startswith(before)
    assert bench.raw().endswith(b"\n")
    kept = bench.raw()
    again = bench.sweep("--add")
    assert again.code == 0
    assert_complete(again)
    assert bench.raw().startswith(kept)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 20 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", folder),
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(("umount", "-l", folder), check=True)


def test_a_disk_that_fills_up_stops_the_sweep_and_costs_nothing(
    bench: Bench, small_disk: Path
) -> None:
    bench.run, bench.rows = small_disk / "run", small_disk / "run" / store.RECORDS
    bench.write(axes={"batch_size": list(range(1, 20))}, protocol={"isolation": "cell", **SINGLE})
    process = bench.start()
    bench.wait_for('"end"', process)
    fill(small_disk / "filler")
    kept = bench.raw()

    done = bench.ended(process)

    assert done.code == 4
    assert done.err.count("\n") == 1
    assert "make room and resume" in done.err
    assert bench.gone()
    assert bench.raw().startswith(kept[: kept.rfind(b"\n") + 1])
    refused = bench.sweep()
    assert refused.code == 2
    assert "MiB are free" in refused.err
    (small_disk / "filler").unlink()
    again = bench.sweep()
    assert again.code == 0
    assert_complete(again)


def fill(path: Path) -> None:
    """Take all room there is."""
    with path.open("wb", buffering=0) as stream:
        for block in (2**20, 4096):
            try:
                while True:
                    stream.write(bytes(block))
            except OSError:
                continue


@pytest.mark.parametrize(
    "allowed", [5, 12, 20, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 16))]
)
def test_too_few_open_files_are_said_before_anything_is_written(bench: Bench, allowed: int) -> None:
    bench.write(protocol=SINGLE)

    done = bench.sweep(limit=open_files(allowed))

    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert not bench.run.exists()
    if allowed == 20:  # all are told the same limit
        again = bench.sweep(limit=open_files(needed(done.err)))
        assert again.code == 0
        assert_complete(again)


def open_files(most: int) -> Callable[[], None]:
    """Return what keeps a command from having more files open than this."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def needed(message: str) -> int:
    """Return the limit that a message tells to set."""
    return int(message.rpartition("ulimit -n ")[2].partition("'")[0])


def test_a_second_sweep_on_the_same_run_is_refused(bench: Bench) -> None:
    bench.write(fault="hang", when="session=1,attempt=1")
    first = bench.start()
    bench.wait_for('"begin"', first)
    before = bench.raw()

    second = bench.sweep()

    assert second.code == 2
    assert second.err.startswith(f"llmbench: {bench.run}: is in use by process {first.pid} on ")
    assert second.err.count("\n") == 1
    assert bench.raw() == before
    first.send_signal(signal.SIGTERM)
    assert bench.ended(first).code == 143


def test_a_parent_that_is_a_file_is_said_before_anything_runs(bench: Bench) -> None:
    bench.write()
    (bench.folder / "run").write_text("not a folder")

    for place in (bench.run, bench.run / "deeper"):
        bench.run = place
        done = asked("sweep", bench.file, "-o", place)
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            f"llmbench: {place}: cannot be written: there is a file where a folder should be.\n"
        )


def levels(process: subprocess.Popen[str]) -> tuple[int, int] | None:
    """Return the open files and the resident bytes of a process, or None when it is gone."""
    try:
        seen = psutil.Process(process.pid)
        return seen.num_fds(), seen.memory_info().rss
    except psutil.Error:
        return None


@pytest.mark.slow
def test_500_cells_leave_the_parent_as_it_was(bench: Bench) -> None:
    bench.write(axes={"batch_size": list(range(1, 501))}, protocol=SINGLE, fault="oom", at="exit")
    process = bench.start()
    bench.wait_for('"begin"', process)
    seen: list[tuple[int, int]] = []

    while process.poll() is None:
        if (level := levels(process)) and level[1]:
            seen.append(level)
        time.sleep(0.05)
    done = bench.ended(process)

    assert_complete(done)
    files, bytes_held = zip(*seen[: -max(4, len(seen) // 10)], strict=True)  # the table comes last
    assert max(files) <= files[len(files) // 4] + 3
    assert max(bytes_held) <= bytes_held[len(files) // 4] + 8 * 2**20
    assert {path.name for path in bench.run.iterdir()} == {"logs", "records.jsonl", "run.json"}


def test_readers_see_whole_rows_while_a_sweep_writes(bench: Bench) -> None:
    bench.write(axes={"batch_size": list(range(1, 40))}, protocol={"isolation": "cell"})
    process = bench.start()
    bench.wait_for('"end"', process)
    seen: list[int] = []

    while len(seen) < 20 and process.poll() is None:
        table = asked("table", bench.run)
        assert (table.code, table.err) == (0, "")
        assert "damaged" not in table.out
        seen.append(table.out.count("llama-7b@tiny"))
        page = asked("report", bench.run, "-o", bench.folder / "page.html")
        assert (page.code, page.err) == (0, "")
    process.send_signal(signal.SIGTERM)
    bench.ended(process)

    assert len(seen) > 2
    assert seen == sorted(seen)


@pytest.mark.slow
def test_5000_cells_leave_the_parent_as_it_was(bench: Bench) -> None:
    bench.write(
        axes={"batch_size": list(range(1, 1001)), "input_len": [8, 16, 24, 32, 40]}, protocol=SINGLE
    )
    process = bench.start()
    bench.wait_for('"begin"', process, patience_s=300)
    seen: list[tuple[int, int]] = []

    while process.poll() is None:
        if (level := levels(process)) and level[1]:
            seen.append(level)
        time.sleep(0.05)
    done = bench.ended(process)

    assert_complete(done)
    files, bytes_held = zip(*seen[: -max(4, len(seen) // 10)], strict=True)  # the table comes last
    assert max(files) <= files[len(files) // 4] + 3
    assert max(bytes_held) <= bytes_held[len(files) // 4] + 16 * 2**20


def test_a_hundred_workers_leave_the_parent_as_it_was(bench: Bench) -> None:
    bench.write(axes={"batch_size": list(range(1, 51))}, fault="oom", when="session=1",
                protocol={"isolation": "cell"})  # fmt: skip
    process = bench.start()
    bench.wait_for('"end"', process)
    seen: list[int] = []

    while process.poll() is None:
        if level := levels(process):
            seen.append(level[0])
        time.sleep(0.05)
    done = bench.ended(process)

    assert_complete(done)
    assert done.code == 3
    assert max(seen) <= seen[len(seen) // 4] + 6


def test_a_busy_machine_is_said_before_anything_is_measured(bench: Bench) -> None:
    bench.write(axes={"batch_size": 1}, protocol=SINGLE)
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]

    try:
        said = bench.sweep().out.splitlines()
        again = bench.sweep()
    finally:
        for other in others:
            other.kill()
            other.wait()

    assert said[1].startswith("Other processes use ")  # after the plan's own warning
    assert "of the CPUs; results measured now will be slower" in said[1]
    assert "Other processes use" not in again.out, "nothing is measured"


@pytest.mark.parametrize(
    "environment",
    [
        {"NO_COLOR": "1", "COLUMNS": "40"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "dumb", "PYTHONIOENCODING": "ascii"},
    ],
)
def test_a_poor_terminal_is_enough(bench: Bench, environment: dict[str, str]) -> None:
    bench.write(protocol=SINGLE)

    done = bench.sweep(environment=environment)

    assert_complete(done)
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert "3 ok  ->" in done.out


@pytest.mark.parametrize(
    "size", ["0", "-5", "abc", "", "1", "1000000000", "9" * 5000, "\u00b2", "0x10", "1.5"]
)
def test_a_terminal_of_an_impossible_size_is_enough(
    size: str, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", size)
    monkeypatch.setenv("LINES", size)

    for command in (
        ("table", measured),
        ("compare", measured, measured, "--metric", "e2e_s"),
        ("models",),
        ("machine",),
        ("fit", measured),
        ("cost", measured, "--usd-per-hour", "1"),
        ("claims", measured),
    ):
        done = asked(*command)
        assert (done.code, "Traceback" in done.err) in {(0, False), (2, False)}, command
        assert done.out or done.err
        assert len(done.out) < 10**6


def test_a_sweep_needs_no_size_of_its_terminal(bench: Bench) -> None:
    bench.write(axes={"batch_size": 1}, protocol=SINGLE)

    done = bench.sweep(environment={"COLUMNS": "0", "LINES": "0"})

    assert (done.code, done.err) == (0, "")
    assert_complete(done)
    assert "llama-7b@tiny" in done.out


def test_a_deleted_working_directory_is_no_obstacle(bench: Bench) -> None:
    bench.write(protocol=SINGLE)
    gone = bench.folder / "gone"
    gone.mkdir()
    script = f'cd "{gone}" && rmdir "{gone}" && exec "$@"'

    done = subprocess.run(
        ("bash", "-c", script, "bash", *LLMBENCH, "sweep", bench.file, "-o", bench.run),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert_complete(bench.sweep())


def on_terminal(bench: Bench) -> tuple[subprocess.Popen[str], int]:
    """Start the command as the leader of a terminal; return it and our end of the terminal."""
    ours, theirs = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, 0x540E, 0)  # TIOCSCTTY

    process = subprocess.Popen(
        (*LLMBENCH, "sweep", str(bench.file), "-o", str(bench.run)),
        stdin=theirs, stdout=theirs, stderr=theirs, text=True,
        env={**os.environ, MARK: bench.mark, "TERM": "xterm"},
        preexec_fn=own_terminal,  # noqa: PLW1509 - the tests have one thread
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def test_a_terminal_shows_a_live_table(bench: Bench) -> None:
    bench.write()
    process, terminal = on_terminal(bench)

    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:
            break
    os.close(terminal)

    assert process.wait() == 0
    assert b"sessions" in shown
    assert b"6 ok  ->" in shown


def test_a_ctrl_c_at_the_terminal_interrupts_and_keeps(bench: Bench) -> None:
    bench.write(fault="hang", when="session=1,attempt=1", axes=ONE)
    process, terminal = on_terminal(bench)
    bench.wait_for('"begin"', process)

    os.write(terminal, b"\x03")
    with contextlib.suppress(OSError):  # the end of what a terminal shows
        while os.read(terminal, 4096):
            pass
    os.close(terminal)

    assert process.wait(timeout=20) == 130
    assert [record.status for record in bench.records()] == [Status.INTERRUPTED]
    assert bench.gone()


def test_a_terminal_that_goes_away_interrupts_and_keeps(bench: Bench) -> None:
    bench.write(fault="hang", when="session=1,attempt=1", axes=ONE)
    process, terminal = on_terminal(bench)
    bench.wait_for('"begin"', process)
    time.sleep(0.2)

    os.close(terminal)

    assert process.wait(timeout=20) == 129
    assert [record.status for record in bench.records()] == [Status.INTERRUPTED]
    assert bench.gone()


def test_a_reader_that_goes_away_ends_the_sweep_in_silence(bench: Bench) -> None:
    bench.write(protocol={"isolation": "cell", **SINGLE}, axes={"batch_size": list(range(1, 20))})
    process = subprocess.Popen(
        (*LLMBENCH, "sweep", str(bench.file), "-o", str(bench.run)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, MARK: bench.mark},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()

    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()

    assert (process.wait(timeout=20), err) == (141, "")
    assert bench.gone()
    again = bench.sweep()
    assert again.code == 0
    assert_complete(again)
