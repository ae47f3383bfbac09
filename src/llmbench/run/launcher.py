"""The launcher: starts one child per session, listens with a deadline for each phase, and leaves nothing behind.

The parent sleeps in `select`; during a measurement it only notes heartbeats.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import time
from typing import IO, TYPE_CHECKING, Any

import msgspec
import psutil

from llmbench import files, interpreter
from llmbench.errors import RunError, WriteError
from llmbench.machine import leftovers, nvidia, processes
from llmbench.run import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from llmbench.results.record import Job
    from llmbench.run.signals import Stoppable
    from llmbench.spec.sweep import Deadlines

LONGEST_LOG = 16 * 2**20
"""A worker's log is cut at this size; an engine that prints more is broken."""
SHOWN = "llmbench.nursery"
"""An unused last argument: `ps` shows it, and scripts look for it."""
TICK_S = 0.2
"""The longest sleep of the parent, and the interval of telemetry samples and log checks."""
MOST_READS = 2048
"""Reads of a pipe, 64 KiB each, until the parent looks for a signal again: twice the longest message."""


class WorkerEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker ended.

    `why`: "done" (it exited by itself), "signal", "timeout", "protocol" (it sent an invalid message), "stopped" (by
    us, on request), "nursery" (the file format's word for: the fork server died). `memory_bytes` is of the machine.
    """

    why: str
    phase: str
    code: int = 0
    detail: str = ""
    strays: list[str] = []
    peak_rss_bytes: int | None = None
    memory_bytes: int = 0


class ForkServerDied(Exception):  # noqa: N818 - reads as the sentence it is
    """The fork server is gone; its log says why."""


class ForkServer:
    """A running `llmbench.run.forkserver`, and the channel to it."""

    def __init__(self, backend: str, mark: object, log: Path) -> None:
        """Start it; the first `fork` waits for its imports.

        `mark` is what every process carries; see processes.Mark.
        """
        ours, theirs = socket.socketpair()
        self.channel, self.rest = ours, b""
        self.told: list[dict[str, Any]] = []
        marked = {processes.RUN_VARIABLE: str(mark)}
        environment = nvidia.ORDER | os.environ | marked | interpreter.SAFE | single_threaded()
        with contextlib.closing(theirs), opened(log) as output:
            try:
                self.process = subprocess.Popen(
                    interpreter.command("llmbench.run.forkserver", backend, theirs.fileno(), SHOWN),
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    pass_fds=(theirs.fileno(),), env=environment,
                    start_new_session=True,  # keeps a Ctrl-C meant for the sweep away from it
                )  # fmt: skip
            except OSError as error:
                ours.close()
                raise ForkServerDied(str(error)) from error

    def fork(
        self, job: Job, log: Path, timeout_s: float, interrupt: Stoppable, session: str = ""
    ) -> Worker:
        """Fork a worker and give it its job; a stop signal ends the wait with ForkServerDied.

        `session` is the token of the session's processes, a new one if it is empty.
        """
        session, before = session or secrets.token_hex(16), leftovers.Existing.now()
        with opened(log) as log_file:
            (control_read, control), (out, out_write) = os.pipe(), os.pipe()
            theirs = (control_read, out_write, log_file.fileno())
            try:
                request = json.dumps({"session": session}).encode()
                socket.send_fds(self.channel, [request], theirs)
                reply = self.wait_for("forked", timeout_s, interrupt)
            except (OSError, ForkServerDied) as error:
                os.close(control)
                os.close(out)
                raise ForkServerDied(str(error)) from error
            finally:
                os.close(control_read)
                os.close(out_write)
        os.set_blocking(out, False)
        return Worker(
            self,
            reply["forked"],
            reply["start"],
            session,
            before,
            control,
            out,
            log,
            msgspec.json.encode(job) + b"\n",
        )

    def wait_for(
        self, key: str, timeout_s: float, interrupt: Stoppable | None = None
    ) -> dict[str, Any]:
        """Return the next fact that has `key`; facts of other kinds are kept for later."""
        deadline = time.monotonic() + timeout_s
        sources: list[Any] = [self.channel, *([interrupt.fd] if interrupt else [])]
        while (fact := self.fact(key)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ForkServerDied(f"no answer within {timeout_s:.0f} s")
            ready, _, _ = select.select(sources, [], [], left)
            if interrupt and interrupt.signal is not None:
                raise ForkServerDied("the sweep was asked to stop")
            if self.channel in ready:
                self.hear()
        return fact

    def fact(self, key: str, value: object = None) -> dict[str, Any] | None:
        """Remove and return the first received fact that has `key`, with this value if one is given."""
        for fact in self.told:
            if key in fact and value in (None, fact[key]):
                self.told.remove(fact)
                return fact
        return None

    def hear(self) -> None:
        """Receive facts from the fork server; raise ForkServerDied when it is gone."""
        try:
            data = self.channel.recv(2**16)
        except ConnectionError:
            data = b""
        if not data:
            raise ForkServerDied(f"it ended with code {self._collect()}")
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.told += [json.loads(line) for line in lines]

    def close(self) -> None:
        """End the fork server; a worker still alive dies with it."""
        self.channel.close()
        self.process.kill()
        self._collect()

    def collected(self) -> bool:
        """Return whether it has ended, after which its process id may be reused."""
        return self.process.returncode is not None

    def _collect(self) -> int | None:
        """Return its exit code; kill it if it closed its channel but lives, and give up if it cannot die."""
        for _ in range(2):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(processes.PATIENCE_S)
            self.process.kill()
        return None


class Worker:
    """A started worker: its pipes, and how it ended."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a process is made of
        self,
        fork_server: ForkServer,
        pid: int,
        start: str,
        session: str,
        before: leftovers.Existing,
        control: int,
        out: int,
        log: Path,
        job: bytes,
    ) -> None:
        """Store the parts; `job` is written while listening, as fast as the worker reads it."""
        self.fork_server, self.pid, self.start, self.session = fork_server, pid, start, session
        self.before, self.control, self.out, self.log = before, control, out, log
        self.unsent = memoryview(job)
        self.phase = "start"
        self.why = WorkerEnd(why="done", phase="start")
        self.ended: dict[str, Any] | None = None

    def go(self) -> None:
        """Tell the worker that its last result is saved."""
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self.control, messages.GO)

    def listen(
        self,
        deadlines: Deadlines,
        interrupt: Stoppable,
        spared: set[int],
        on_tick: Callable[[], None],
    ) -> Generator[messages.Message | WorkerEnd, None, None]:
        """Yield messages as they come and, last, how it ended; by then none of its processes is alive.

        Args:
            deadlines: how long each phase may stay silent.
            interrupt: the stop signal of the sweep.
            spared: our processes that must not be killed: the fork servers.
            on_tick: called several times per second, for telemetry.

        """
        os.set_blocking(self.control, False)
        try:
            yield from self._receive(deadlines, interrupt, on_tick)
        except ForkServerDied as error:
            self.why = WorkerEnd(why="nursery", phase=self.phase, detail=str(error))
        finally:  # also when the listener is gone
            ended = self._finish(spared)
        yield ended

    def _receive(
        self, deadlines: Deadlines, interrupt: Stoppable, on_tick: Callable[[], None]
    ) -> Iterator[messages.Message]:
        """Yield messages until the worker has ended or must be stopped; `why` then says which."""
        reader, deadline = messages.Reader(), time.monotonic() + deadlines.start_s
        tick = 0.0
        sources: list[Any] = [self.out, self.fork_server.channel, interrupt.fd]
        while (ended := self.fork_server.fact("ended", self.pid)) is None:
            left = max(deadline - time.monotonic(), 0.0)
            taking = [self.control] if self.unsent else []
            ready, free, _ = select.select(sources, taking, [], min(left, TICK_S))
            if free:
                self._send()
            if (
                time.monotonic() >= tick
            ):  # a heartbeat comes just before a clock starts; do nothing else now
                tick = time.monotonic() + TICK_S
                on_tick()
                self._cap_log()
            if self.out in sources:  # a signal may end `select` early
                arrived = self._messages(reader)
                if arrived is None:
                    sources.remove(self.out)
                for message in arrived or []:
                    yield message
                    deadline = time.monotonic() + limit(deadlines, self.phase)
            if self.fork_server.channel in ready:
                self.fork_server.hear()
            # Only now, because messages received by then tell the worker's phase.
            if self._must_end(deadline - time.monotonic(), deadlines, interrupt):
                return
        self.ended = ended
        yield from self._messages(reader) or []

    def _must_end(self, left: float, deadlines: Deadlines, interrupt: Stoppable) -> bool:
        if interrupt.signal is not None:
            self.why = WorkerEnd(why="stopped", phase=self.phase)
        elif left <= 0:
            silence = f"silent for {limit(deadlines, self.phase):g} s"
            self.why = WorkerEnd(why="timeout", phase=self.phase, detail=silence)
        return self.why.why != "done"

    def _send(self) -> None:
        """Write as much of the job as the pipe takes; ignore a worker that is gone."""
        try:
            self.unsent = self.unsent[os.write(self.control, self.unsent) :]
        except BrokenPipeError:
            self.unsent = memoryview(b"")

    def _messages(self, reader: messages.Reader) -> list[messages.Message] | None:
        """Return the messages received, or None at the end of the pipe; never wait."""
        received: list[messages.Message] = []
        try:
            for _ in range(
                MOST_READS
            ):  # a worker that never stops talking must not keep us from a signal
                if not (data := os.read(self.out, 2**16)):
                    return received or None
                for message in reader.feed(data):
                    received.append(message)
                    self.phase = _phase(message)
        except BlockingIOError:
            return received
        except ValueError as error:
            self.why = WorkerEnd(why="protocol", phase=self.phase, detail=str(error))
        return received

    def _finish(self, spared: set[int]) -> WorkerEnd:
        """Kill remaining processes, collect the worker's status, close the pipes."""
        fork_server = None if self.fork_server.collected() else self.fork_server.process.pid
        family = processes.SessionProcesses(
            self.session, fork_server, frozenset(spared), self.before
        )
        strays = processes.kill_session(family, self.pid)
        if self.ended is None and self.why.why != "nursery":
            self._await_end()
        os.close(self.control)
        os.close(self.out)
        self._cap_log()
        exit_facts = self.ended or {}
        why, code = self.why.why, os.waitstatus_to_exitcode(exit_facts.get("status", 0))
        if why == "done" and code < 0:
            why = "signal"
        return WorkerEnd(
            why=why,
            phase=self.phase,
            detail=self.why.detail,
            code=code,
            strays=strays,
            peak_rss_bytes=exit_facts.get("peak_rss_bytes"),
            memory_bytes=psutil.virtual_memory().total,
        )

    def _await_end(self) -> None:
        """Wait until the fork server, even a stopped one, reports the death of a worker that we killed."""
        self.fork_server.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(ForkServerDied):
            while self.ended is None:
                fact = self.fork_server.wait_for("ended", processes.PATIENCE_S)
                self.ended = fact if fact["ended"] == self.pid else None

    def _cap_log(self) -> None:
        with contextlib.suppress(OSError):
            if self.log.lstat().st_size > LONGEST_LOG:
                log = files.open_regular(self.log, os.O_WRONLY, own=True)
                try:
                    os.ftruncate(log, LONGEST_LOG)
                finally:
                    os.close(log)


@contextlib.contextmanager
def opened(log: Path) -> Iterator[IO[bytes]]:
    """Open a log for appending; raise RunError if something is in its place, WriteError if it cannot be created."""
    if strange := files.why_not(log, own=True):
        raise RunError(f"{log}: {strange}, and no log can be written there. Remove it and resume.")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        stream = os.fdopen(files.open_regular(log, flags, own=True), "ab")
    except OSError as error:
        raise WriteError(
            f"{log}: cannot be created: {error.strerror}. "
            "All earlier records are safe; make room and resume."
        ) from error
    with stream:
        yield stream


def _phase(message: messages.Message) -> str:
    """Return the phase that a worker is in after a message; one that is `ready` has not left its warm-up."""
    if not isinstance(message, messages.Progress):
        return "exit"
    return "warmup" if message.phase == "ready" else message.phase


def limit(deadlines: Deadlines, phase: str) -> float:
    """Return how long a phase may stay silent, in seconds."""
    return float(getattr(deadlines, f"{phase}_s"))


def single_threaded() -> dict[str, str]:
    """Return the environment variables that keep numpy's own BLAS from starting threads before the fork.

    Only on x86-64, where torch uses another BLAS; elsewhere torch may use the same one, and the fork server starts
    new interpreters instead of forking.
    """
    return {"OPENBLAS_NUM_THREADS": "1"} if os.uname().machine == "x86_64" else {}


def signal_name(code: int) -> str:
    """Return the name of the signal in a negative exit code."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
