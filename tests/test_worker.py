"""The worker by hand, and what an exception means."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fakes import a_cell, a_job, quick
from llmbench.backends.fake import FakeEngine, faults
from llmbench.errors import LoadFailed, Unsupported
from llmbench.results.record import Job, Status
from llmbench.run import messages, worker
from llmbench.run.messages import CellResult, Message, Progress, Reader
from sweeps import LLMBENCH, Bench


def cell_ids(bench: Bench) -> list[str]:
    done = bench.sweep("--dry-run", "--format", "json")
    assert done.code == 0
    return [cell["id"] for cell in json.loads(done.out)["cells"]]


def test_any_cell_can_be_run_by_hand(bench: Bench) -> None:
    bench.write()
    (name, *_) = cell_ids(bench)

    printed = subprocess.run(
        (*LLMBENCH, "cell", bench.file, name), capture_output=True, check=True
    ).stdout
    done = subprocess.run(
        (sys.executable, "-m", "llmbench.run.worker"),
        input=printed,
        capture_output=True,
        check=True,
    )

    heard = list(Reader().feed(done.stdout))
    phases = [message.phase for message in heard if isinstance(message, Progress)]
    assert list(dict.fromkeys(phases)) == ["load", "warmup", "iteration", "memory"]
    assert isinstance(heard[-1], CellResult)
    assert heard[-1].last
    assert (heard[-1].outcome.cell, heard[-1].outcome.status) == (name, Status.OK)
    assert len(heard[-1].outcome.samples) == 3
    assert not bench.run.exists()


def test_a_cell_is_found_by_the_end_of_its_id(bench: Bench) -> None:
    bench.write()
    (name, *_) = cell_ids(bench)

    done = subprocess.run(
        (*LLMBENCH, "cell", bench.file, name[-6:]), capture_output=True, text=True, check=False
    )
    missing = subprocess.run(
        (*LLMBENCH, "cell", bench.file, name[:-1] + "x"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0
    assert f'"id":"{name}"' in done.stdout
    assert missing.returncode == 2
    assert f"Did you mean {name!r}?" in missing.stderr


def said(job: Job) -> list[Message]:
    """Run a job in this process and return what it sends."""
    read, write = os.pipe()
    try:
        worker.work(msgspec.json.encode(job), control=-1, out=write)
        return list(Reader().feed(os.read(read, 2**20)))
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    ("fault", "at", "status", "phase"),
    [
        ("oom", "load", Status.OOM, "load"),
        ("error", "load", Status.LOAD_FAILED, "load"),
        ("unsupported", "load", Status.UNSUPPORTED, "load"),
        ("oom", "prepare", Status.OOM, "warmup"),
        ("error", "call", Status.CRASH, "iteration"),
        ("cuda_error", "call", Status.CUDA_ERROR, "iteration"),
        ("unsupported", "prepare", Status.UNSUPPORTED, "warmup"),
    ],
)
def test_an_exception_is_a_result(fault: str, at: str, status: Status, phase: str) -> None:
    heard = said(a_job(a_cell(fault=fault, at=at)))

    assert isinstance(heard[-1], CellResult)
    outcome = heard[-1].outcome
    assert (outcome.status, outcome.phase) == (status, phase)
    assert heard[-1].last
    assert (outcome.trace is None) is (fault == "unsupported")


@pytest.mark.parametrize("fault", ["oom", "cuda_error", "error"])
def test_after_a_failure_the_worker_ends(fault: str) -> None:
    cells = [a_cell("one", fault=fault), a_cell("two", fault=fault)]
    job = msgspec.structs.replace(a_job(cells[0]), cells=cells)

    results = [message for message in said(job) if isinstance(message, CellResult)]

    assert [(result.outcome.cell, result.last) for result in results] == [("one", True)]


def test_without_a_launcher_the_cells_follow_each_other() -> None:
    cells = [a_cell("one"), a_cell("two", batch_size=4)]
    job = msgspec.structs.replace(a_job(cells[0]), cells=cells)

    results = [message for message in said(job) if isinstance(message, CellResult)]

    assert [(result.outcome.cell, result.last) for result in results] == [
        ("one", False),
        ("two", True),
    ]


def test_what_is_made_once_is_no_part_of_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    job = a_job(a_cell(clock="real", load_ms=200.0, ttft_ms=0.1, tpot_ms=0.1))
    whole = said(job)[-1]
    monkeypatch.setattr(FakeEngine, "made_s", 0.15, raising=False)

    without = said(job)[-1]

    assert isinstance(whole, CellResult)
    assert isinstance(without, CellResult)
    assert (whole.outcome.load_s or 0) >= 0.2 > (without.outcome.load_s or 0) >= 0.05


def test_a_launcher_that_has_gone_ends_the_worker() -> None:
    cells = [a_cell("one"), a_cell("two")]
    job = msgspec.structs.replace(a_job(cells[0]), cells=cells, attended=True)
    control, ours = os.pipe()
    read, write = os.pipe()
    os.close(ours)

    worker.work(msgspec.json.encode(job), control=control, out=write)

    heard = list(Reader().feed(os.read(read, 2**20)))
    for descriptor in (control, read, write):
        os.close(descriptor)
    assert [message.outcome.cell for message in heard if isinstance(message, CellResult)] == ["one"]


class Renamed(faults.OutOfMemoryError):
    """As an engine would derive its own."""


def coded(code: int) -> Exception:
    """Return a device's error as torch raises it, with CUDA's own code."""
    error: Any = faults.AcceleratorError("reworded")
    error.error_code = code
    found: Exception = error
    return found


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (faults.OutOfMemoryError("anything"), Status.OOM),
        (Renamed("reworded"), Status.OOM),
        (MemoryError(), Status.OOM),
        (faults.AcceleratorError("anything"), Status.CUDA_ERROR),
        (coded(2), Status.OOM),  # as where the driver has no room for a graph or a kernel
        (coded(700), Status.CUDA_ERROR),
        (RuntimeError("CUDA out of memory. Tried to allocate"), Status.OOM),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), Status.OOM),
        (OSError(12, "Cannot allocate memory"), Status.OOM),
        (RuntimeError("CUDA error: device-side assert triggered"), Status.CUDA_ERROR),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling it"), Status.OOM),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), Status.CUDA_ERROR),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
            ),
            Status.OOM,  # the first thing that finds no room on a full card
        ),
        (LoadFailed("no weights"), Status.LOAD_FAILED),
        (Unsupported("no such thing"), Status.UNSUPPORTED),
        (ValueError("something else"), Status.CRASH),
        (KeyboardInterrupt(), Status.CRASH),
        (SystemExit(1), Status.CRASH),
    ],
)
def test_an_exception_means_a_status_by_its_type_first(
    error: BaseException, status: Status
) -> None:
    assert worker.classify(error, Status.CRASH) is status


def test_a_long_error_is_one_short_line() -> None:
    told = worker.described(ValueError("a\nb\n" + "x" * 10_000), Status.CRASH)

    assert told["error"].startswith("ValueError: a b xxx")
    assert len(told["error"]) <= worker.LONGEST_ERROR + 20


def test_messages_are_cut_out_of_a_stream_wherever_it_breaks() -> None:
    read, write = os.pipe()
    messages.send(write, Progress(phase="load"))
    messages.send(write, Progress(phase="warmup", cell="é", iteration=3))
    os.close(write)
    data = os.read(read, 2**16)
    os.close(read)

    for place in range(len(data) + 1):
        reader = Reader()
        heard = [*reader.feed(data[:place]), *reader.feed(data[place:])]
        assert heard == [Progress(phase="load"), Progress(phase="warmup", cell="é", iteration=3)]


def test_what_came_before_a_line_that_is_no_message_is_kept() -> None:
    heard = Reader().feed(b'{"kind":"progress","phase":"load"}\n{"kind":"surprise"}\n')

    assert next(heard) == Progress(phase="load")
    with pytest.raises(ValueError, match="surprise"):
        next(heard)


def test_a_worker_prints_to_its_log_and_not_among_its_messages(tmp_path: Path) -> None:
    job = a_job(a_cell(fault="junk"), quick())
    (tmp_path / "job").write_bytes(msgspec.json.encode(job) + b"\n")

    with (tmp_path / "job").open("rb") as stdin:
        done = subprocess.run(
            (sys.executable, "-m", "llmbench.run.worker"),
            stdin=stdin,
            capture_output=True,
            check=True,
        )

    assert b"not utf-8" in done.stderr
    assert isinstance(list(Reader().feed(done.stdout))[-1], CellResult)


def test_a_secret_at_the_edge_of_what_is_kept_is_taken_out_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "correct-horse-battery"  # noqa: S105 - nobody's
    monkeypatch.setenv("MY_PASSWORD", secret)

    for before in range(worker.LONGEST_ERROR - len(secret), worker.LONGEST_ERROR + 1):
        told = worker.described(ValueError("x" * before + secret), Status.CRASH)
        assert "corr" not in told["error"]
    for after in range(4 * worker.LONGEST_ERROR - len(secret), 4 * worker.LONGEST_ERROR + 1):
        told = worker.described(ValueError(secret + "x" * after), Status.CRASH)
        assert "tery" not in told["trace"]
