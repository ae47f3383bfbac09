"""Sweeps through the real command, on the fake backend: by default three short cells with two sessions each."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

import forked
import standin_cuda
from llmbench import cli
from llmbench.results import store
from llmbench.results.record import Plan, Record, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LLMBENCH = (sys.executable, "-m", "llmbench")
BATCH_SIZES = (1, 2, 4)
MARK = "LLMBENCH_TEST"
PATIENCE_S = 60.0
VALID = (0, 1)
"""The exit codes of a sweep whose sessions are all valid: 1 where the machine is too busy for numbers in real time."""
SINGLE = {"sessions": 1, "max_sessions": 1}
"""The protocol of a sweep whose second sessions would show nothing new; each round starts a fork server, 0.4 s."""
DEADLINES = {"start_s": 20, "load_s": 20, "warmup_s": 20, "iteration_s": 20, "memory_s": 20}
ONLY_IN_THE_FORK_SERVER = """
import os, sys
if sys.orig_argv[3:4] == ['llmbench.run.forkserver'] and "LLMBENCH_SESSION" not in os.environ:
    """
"""Code that keeps the following line from running in the command itself."""


class Answer(NamedTuple):
    """The result of a command that ran in this process."""

    code: int
    out: str
    err: str


def asked(*arguments: object) -> Answer:
    """Run a command in this process, which saves half a second."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(list(map(str, arguments)))
    return Answer(code, out.getvalue(), err.getvalue())


class Done(NamedTuple):
    """The result of a command, and its run."""

    code: int
    out: str
    err: str
    bench: Bench

    @property
    def records(self) -> list[Record]:
        return self.bench.records()

    @property
    def statuses(self) -> dict[tuple[int, int], Status]:
        """Return the status of each session, by batch size and session; its last record counts."""
        return {(record.cell.batch_size, record.session): record.status for record in self.records}

    def failed(self) -> Record:
        """Return the only record that is not ok."""
        (record,) = (record for record in self.records if record.status is not Status.OK)
        return record


class Bench:
    """One sweep file, one run directory, and every process that the command starts there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        self.file, self.rows = folder / "sweep.yaml", self.run / store.RECORDS
        self.out, self.err = folder / "out", folder / "err"
        self.beginning = folder / "sitecustomize.py"
        self.mark = f"{MARK}-{os.getpid()}-{time.monotonic_ns()}"

    def write(
        self,
        *,
        axes: dict[str, Any] | None = None,
        protocol: dict[str, Any] | None = None,
        **fake: Any,
    ) -> Path:
        """Write the sweep: `fake` holds the backend's options; deadlines may stand in `protocol`."""
        settings = {
            "sessions": 2, "max_sessions": 2, "min_time_s": 0.001, "iterations": 3, "cool_down_s": 0,
            **(protocol or {}),
        }  # fmt: skip
        settings["deadlines"] = {**DEADLINES, **settings.get("deadlines", {})}
        sweep = {
            "name": "example",
            "why": "Show what survives.",
            "axes": {
                "model": "llama-7b@tiny",
                "backend": {"fake": {"clock": "virtual", **fake}},
                "device": "cpu",
                "batch_size": list(BATCH_SIZES),
                "input_len": 8,
                "output_len": 4,
                **(axes or {}),
            },
            "protocol": settings,
        }
        self.file.write_text(json.dumps(sweep))  # JSON is YAML
        return self.file

    def start(
        self,
        *arguments: str,
        limit: Callable[[], None] | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start `llmbench sweep` on the file; `limit` runs in the child before the command."""
        with (
            self.out.open("wb") as out,
            self.err.open("wb") as err,
        ):  # a pipe that nobody reads fills up
            return subprocess.Popen(
                (*LLMBENCH, "sweep", str(self.file), "-o", str(self.run), *arguments),
                stdout=out, stderr=err, stdin=subprocess.DEVNULL, text=True,
                env={**os.environ, MARK: self.mark, **(environment or {})},
                preexec_fn=limit,  # noqa: PLW1509 - the tests have one thread
            )  # fmt: skip

    def ended(self, process: subprocess.Popen[str], patience_s: float = PATIENCE_S) -> Done:
        """Wait for a started command."""
        process.wait(timeout=patience_s)
        return Done(process.returncode, self.out.read_text(), self.err.read_text(), self)

    def sweep(
        self,
        *arguments: str,
        limit: Callable[[], None] | None = None,
        environment: dict[str, str] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Done:
        """Run the command to its end, on the file as it stands; in a new interpreter only if there is a limit."""
        if limit:
            return self.ended(self.start(*arguments, limit=limit, environment=environment))
        everything = {**os.environ, MARK: self.mark, **(environment or {})}
        command = ("sweep", str(self.file), "-o", str(self.run), *arguments)
        beginning = self.beginning if "PYTHONPATH" in (environment or {}) else None
        code = forked.run(command, self.out, self.err, everything, beginning, patience_s)
        return Done(code, self.out.read_text(), self.err.read_text(), self)

    def raw(self) -> bytes:
        return self.rows.read_bytes() if self.rows.exists() else b""

    def records(self) -> list[Record]:
        return [line for line in store.read(self.run) if isinstance(line, Record)]

    def plan(self) -> Plan:
        plan = store.read(self.run).plan
        assert plan is not None
        return plan

    def beginning_with(self, code: str) -> dict[str, str]:
        """Return the environment in which every Python of a command begins by running this code."""
        self.beginning.write_text(code)
        return {"PYTHONPATH": str(self.folder)}

    def on_a_gpu(self, code: str = "", **settings: object) -> dict[str, str]:
        """Return the environment of a stand-in of a CUDA device with these settings, after which this code runs."""
        own = {f"STANDIN_{name.upper()}": str(value) for name, value in settings.items()}
        begin = self.beginning_with(standin_cuda.beginning(code))
        return {**begin, "STANDIN_STATE": str(self.folder / "gpu"), **own}

    def copy(self, run: Path) -> None:
        """Copy the records of another run, to continue it."""
        shutil.copytree(run, self.run)

    def wait_for(
        self, text: str, process: subprocess.Popen[str], patience_s: float = PATIENCE_S
    ) -> None:
        """Wait until the records hold a text."""
        deadline = time.monotonic() + patience_s
        while text.encode() not in self.raw():
            assert process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, f"no {text!r}"
            time.sleep(0.005)

    def wait_for_more(self, before: bytes, process: subprocess.Popen[str]) -> None:
        """Wait until the records have grown."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.raw()) <= len(before):
            assert process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def alive(self) -> list[psutil.Process]:
        """Return the processes that any command of this bench has left."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return self.mark in process.environ().values() and process.status() != "zombie"
        return False

    def gone(self, within_s: float = 5.0) -> bool:
        """Return whether all of them are gone, in a moment at most."""
        deadline = time.monotonic() + within_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def clear(self) -> None:
        for process in self.alive():
            with contextlib.suppress(psutil.Error):
                process.kill()


def assert_complete(done: Done) -> None:
    """Assert that every planned session has one final record, nothing is left, and nothing looks like a bug."""
    plan = done.bench.plan()
    wanted = {
        (cell.id, session)
        for cell in plan.cells
        for session in range(1, plan.settings.sessions + 1)
    }
    ended = Counter((record.id, record.session) for record in done.records if record.final)
    assert ended == Counter(wanted)
    assert done.bench.gone()
    assert "Traceback" not in done.out + done.err
    assert store.read(done.bench.run).notices == []
