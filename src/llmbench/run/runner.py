"""The runner of a sweep: pending cells by rounds, one new worker per group, one record per session.

Round k measures session k of every cell before any cell gets session k+1, in an order shuffled from the recorded
seed: a drifting machine then affects every cell alike, instead of favouring the first.
"""

from __future__ import annotations

import itertools
import random
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import psutil

from llmbench.machine import chips, info, processes
from llmbench.machine.info import utc_now
from llmbench.measure import bounds, telemetry
from llmbench.results import store
from llmbench.results.record import Begin, Job, Outcome, Status, Stop
from llmbench.run import launcher
from llmbench.run.device_monitor import DeviceMonitor
from llmbench.run.inferred import InferredOutcomes
from llmbench.run.messages import CellResult, Progress
from llmbench.run.outcome import outcome_without_result, record_of, scrub
from llmbench.run.pending import planned_sessions, sessions_by_cell, why_stop
from llmbench.run.plan import text
from llmbench.spec import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from llmbench.results.record import Plan
    from llmbench.results.store import Run
    from llmbench.run.device_monitor import Halt
    from llmbench.run.dispatch import Dispatch
    from llmbench.run.messages import Message
    from llmbench.run.plan import Planned
    from llmbench.run.progress import Screen
    from llmbench.run.signals import Interrupt
    from llmbench.spec.sweep import Cell


class Runner:
    """One invocation of a sweep on an open run."""

    def __init__(  # noqa: PLR0913 - what an invocation is made of
        self,
        planned: Planned,
        written: Plan,
        run: Run,
        screen: Screen,
        interrupt: Interrupt,
        *,
        run_anyway: bool,
        rounds: int | None = None,
        elsewhere: bool = False,
    ) -> None:
        """Replay the run without starting anything.

        `rounds` is the most that it measures, whatever the protocol; `elsewhere` says that boxes will measure, whose
        dispatch is set afterwards.
        """
        self.planned, self.written, self.run = planned, written, run
        self.screen, self.interrupt = screen, interrupt
        self.protocol = planned.sweep.protocol
        self.rounds = min(rounds or self.protocol.max_sessions, self.protocol.max_sessions)
        self.standings = sessions_by_cell(planned.cells, run.log)
        if run_anyway:
            for standing in self.standings.values():
                standing.forget_inferred()
        self.foregone = InferredOutcomes(
            planned, written.predictions, self.standings, run_anyway=run_anyway
        )
        self.logs: Path = run.folder / store.LOGS
        self.logs.mkdir(exist_ok=True)
        for log in self.logs.glob("*.log"):
            scrub(log)  # a killed sweep could not clean its last logs
        self.fork_servers: dict[str, launcher.ForkServer] = {}
        self.texts = {
            name: text(name)
            for name in {cell.prompts for cell in planned.cells}
            if name != sweep.SYNTHETIC
        }
        gpu = None if elsewhere else telemetry.gpu_of(planned.cells)
        self.watch = DeviceMonitor(gpu)
        cards = written.machine["gpus"] if elsewhere else info.machine()["gpus"] if gpu else []
        self.devices = chips.devices(cards)
        self.began = time.monotonic()
        self.dispatch: Dispatch | None = None

    def pending(self, session: int) -> list[Cell]:
        """Return the cells that still need session `session`."""
        spent_s = time.monotonic() - self.began
        wanted = [
            cell for cell in self.planned.cells if session not in self.standings[cell.id].done
        ]
        planned = planned_sessions(self.standings.values(), self.protocol)
        return [
            cell
            for cell in wanted
            if why_stop(self.standings[cell.id], self.protocol, planned, spent_s) is None
        ]

    def measure_all(self) -> None:
        """Run rounds until no cell needs another session, or a signal or the device stops the sweep."""
        try:
            for session in range(1, self.rounds + 1):
                cells = self.pending(session)
                if session > self.protocol.sessions:
                    if self.dispatch and self.dispatch.waiting():
                        return  # how many sessions an interval takes is planned when all have their first ones
                    planned = planned_sessions(self.standings.values(), self.protocol)
                    further = len(cells) * max(planned - session, 0)
                    self.screen.more_planned(len(cells), further)
                self._round(session, cells)
                self._close_fork_servers()
                if self.must_stop():
                    self._skip_rounds(session + 1)
                    return
            self._note_stops()
        finally:
            self._close_fork_servers()

    def must_stop(self) -> bool:
        """Return whether a signal or the device stops the sweep."""
        return self.interrupt.signal is not None or self.watch.halt is not None

    def _skip_rounds(self, first: int) -> None:
        """Record skipped sessions of rounds that will not run."""
        if (halt := self.watch.halt) and halt.status is Status.SKIPPED:
            for session in range(first, self.protocol.sessions + 1):
                self._end_all(self.pending(session), session, halt)

    def _end_all(self, cells: Iterable[Cell], session: int, halt: Halt) -> None:
        for cell in cells:
            self.put(cell, session, Outcome(cell=cell.id, status=halt.status, error=halt.why))

    def _round(self, session: int, cells: list[Cell]) -> None:
        """Measure session `session` of these cells, with groups and cells in a seeded order."""
        self.screen.begin_round(len(cells))
        order = random.Random(f"{self.protocol.seed}/{session}")  # noqa: S311 - an order, not a secret
        groups = sweep.groups(self.record_known(session, cells), self.protocol.isolation)
        order.shuffle(groups)
        if self.dispatch:
            for group in groups:
                order.shuffle(group)
            self.dispatch.round(session, groups)
            return
        left: list[Cell] = []
        while groups and not self.must_stop():
            group = groups.pop(0)
            order.shuffle(group)
            left = self._group(session, group)
        if self.watch.halt:
            self._end_all(itertools.chain(left, *groups), session, self.watch.halt)

    def record_known(self, session: int, cells: list[Cell]) -> list[Cell]:
        """Record the sessions with a known outcome; return the cells that must be measured."""
        known = self.foregone.outcomes(cells)
        for cell in cells:
            if cell.id in known:
                self.put(cell, session, known[cell.id])
        return [cell for cell in cells if cell.id not in known]

    def _group(self, session: int, cells: list[Cell]) -> list[Cell]:
        """Measure one group, with a new worker after each early end; return the cells left by a stop."""
        remaining = list(cells)
        while (remaining := self.record_known(session, remaining)) and not self.must_stop():
            self.watch.before_worker()
            remaining = self._worker(session, remaining)
            if self.protocol.nursery == "session":
                self._close_fork_servers()
            self.watch.after_worker(self.interrupt)
        return remaining

    def _worker(self, session: int, cells: list[Cell]) -> list[Cell]:
        """Run one worker; return the cells that still need one."""
        first = cells[0]
        self.screen.loading(first, session)
        log = self.logs / f"{first.id}-s{session}-a{self.attempt(first, session)}.log"
        known = first.backend in self.fork_servers
        try:
            worker = self._fork_server(first.backend).fork(
                self.job(cells, session), log, self.protocol.deadlines.start_s, self.interrupt
            )
        except launcher.ForkServerDied as error:
            self.drop_fork_server(first.backend)
            if known or self.interrupt.signal is not None:
                return cells  # replaces one that died between two workers
            failed = Outcome(
                cell=first.id,
                status=Status.CRASH,
                phase="start",
                error=f"the worker could not be started: {error}",
            )
            self.put_all(cells, session, failed, {})
            return []
        process = WorkerProcess(
            worker.pid, started_at(worker.pid), processes.boot_id(), worker.session
        )
        about = {"pid": worker.pid, "start": worker.start, "log": f"logs/{log.name}"}
        return self._follow(
            WorkerSession(self, process, about, self.watch, session, cells, worker.go), worker
        )

    def _follow(self, session: WorkerSession, worker: launcher.Worker) -> list[Cell]:
        """Record every cell as it ends; return the cells that need another worker."""
        session.begin()
        spared = {fork_server.process.pid for fork_server in self.fork_servers.values()}
        with closing(
            worker.listen(self.protocol.deadlines, self.interrupt, spared, self.watch.tick)
        ) as heard:
            for message in heard:
                if isinstance(message, launcher.WorkerEnd):
                    scrub(worker.log)
                    if message.why == "nursery":
                        self.drop_fork_server(session.remaining[0].backend)
                session.take(message)
        return session.remaining

    def job(self, cells: list[Cell], session: int, *, gated: bool = False) -> Job:
        """Return the job of a worker that measures this session of these cells."""
        return Job(
            cells=cells,
            model=self.planned.models[cells[0].model],
            protocol=self.protocol,
            session=session,
            attempt=self.attempt(cells[0], session),
            attended=True,
            gated=gated,
            prompts_text=self.texts.get(cells[0].prompts),
            requests_folder=str((self.run.folder / store.REQUESTS).absolute()),
        )

    def attempt(self, cell: Cell, session: int) -> int:
        """Return the number of the next attempt at a session."""
        return self.standings[cell.id].attempts.get(session, 0) + 1

    def _fork_server(self, backend: str) -> launcher.ForkServer:
        if backend not in self.fork_servers:
            self.fork_servers[backend] = launcher.ForkServer(
                backend,
                processes.Mark.of_run(self.written.run, self.run.folder),
                self._log_of(backend),
            )
        return self.fork_servers[backend]

    def drop_fork_server(self, backend: str) -> None:
        """Forget a fork server that died; the next worker gets a new one."""
        if fork_server := self.fork_servers.pop(backend, None):
            fork_server.close()
            scrub(self._log_of(backend))

    def _log_of(self, backend: str) -> Path:
        return self.logs / f"forkserver-{backend}.log"

    def leave_no_logs(self) -> None:
        """Remove the workers' logs; no worker is alive."""
        for log in self.logs.glob("*.log"):
            log.unlink()

    def _close_fork_servers(self) -> None:
        for backend in list(self.fork_servers):
            self.drop_fork_server(backend)

    def begin(self, cell: Cell, session: int, process: WorkerProcess) -> None:
        """Write the intent to measure durably before the cell begins."""
        attempt = self.standings[cell.id].attempts[session] = self.attempt(cell, session)
        begin = Begin(
            cell=cell.id, session=session, attempt=attempt, at=utc_now("milliseconds"), token=process.token,
            pid=process.pid, pid_start_s=process.start_s, boot=process.boot,
        )  # fmt: skip
        self.run.append(begin)

    def put_all(
        self,
        cells: list[Cell],
        session: int,
        outcome: Outcome,
        worker: dict[str, Any],
        monitor: Monitor | None = None,
    ) -> None:
        """Record the outcome of a whole group, such as a failed load, for each of its cells."""
        for cell in cells:
            self.put(cell, session, msgspec.structs.replace(outcome, cell=cell.id), worker, monitor)

    def put(
        self,
        cell: Cell,
        session: int,
        outcome: Outcome,
        worker: dict[str, Any] | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        """Check, write, count and show one record; `monitor` saw the device, this machine's unless another is given."""
        if outcome.engine:
            work = bounds.least_work(cell, self.planned.models[cell.model], outcome.engine)
            outcome = msgspec.structs.replace(outcome, engine={**work, **outcome.engine})
        record = record_of(
            cell, session, self.standings[cell.id].attempts.get(session, 1), outcome,
            telemetry=(monitor or self.watch).seen(), worker=worker or {}, environment=self.written.environment_digest,
            ceilings=bounds.ceilings(cell, outcome.engine, self.devices, self.written.probes),
        )  # fmt: skip
        self.run.append(record)
        if self.dispatch:
            self.dispatch.boxes.ping()  # thousands of cells may be recorded in a row
        self.standings[cell.id].note(record)
        self.screen.ended_with(record)

    def _note_stops(self) -> None:
        """Write, once per cell, why it gets no further session."""
        from llmbench.stats import intervals  # noqa: PLC0415 - loads numpy, which no start has to wait for

        planned = planned_sessions(self.standings.values(), self.protocol)
        spent_s = time.monotonic() - self.began
        for cell in self.planned.cells:
            standing = self.standings[cell.id]
            reason = why_stop(standing, self.protocol, planned, spent_s)
            if reason and standing.stopped_at != len(standing.done):
                half_width = intervals.half_width(list(standing.medians_s.values()))
                self.run.append(
                    Stop(
                        cell=cell.id,
                        sessions=len(standing.done),
                        reason=reason,
                        half_width=half_width,
                    )
                )


class WorkerProcess(NamedTuple):
    """A worker as its `begin` lines name it: process, its start in seconds, the machine's boot, the session's token."""

    pid: int
    start_s: float
    boot: str
    token: str


class Monitor(Protocol):
    """The monitor of a worker's device; see DeviceMonitor."""

    def before_cell(self, worker: int) -> None:
        """Start anew for a cell."""

    def after_load(self) -> None:
        """Start anew for the cell's measurement."""

    def seen(self) -> dict[str, Any]:
        """Return the observations of the device."""


class WorkerSession:
    """One worker's messages taken in, so that every cell is recorded however the worker ends."""

    def __init__(
        self,
        runner: Runner,
        process: WorkerProcess,
        about: dict[str, Any],
        monitor: Monitor,
        session: int,
        cells: list[Cell],
        go: Callable[[], None],
    ) -> None:
        """Store the parts; `about` is for the records, and `go` lets the worker begin its next cell."""
        self.runner, self.process, self.about, self.monitor = runner, process, about, monitor
        self.session, self.remaining, self.go = session, list(cells), go
        self.held: Outcome | None = None

    def begin(self) -> None:
        """Write that the next cell begins."""
        self.monitor.before_cell(self.process.pid)
        self.runner.begin(self.remaining[0], self.session, self.process)

    def take(self, message: Message | launcher.WorkerEnd) -> None:
        """Take in the next message, and record what it ends."""
        if isinstance(message, Progress):
            self._progress(message)
        elif isinstance(message, CellResult):
            self._result(message)
        else:
            self._ended(message)

    def _progress(self, message: Progress) -> None:
        if message.phase == "warmup" and message.iteration == 0:
            self.monitor.after_load()
            self.runner.screen.measuring(self.remaining[0], self.session)

    def _result(self, message: CellResult) -> None:
        """Write a result and let the worker continue; its last result waits until none of its processes is alive."""
        if self.held is not None:
            return  # nothing is expected after a worker's last or an invalid result
        if message.outcome.cell != self.remaining[0].id:
            reason = f"protocol: a result for {message.outcome.cell!r}, which is not being measured"
            self.held = Outcome(cell=self.remaining[0].id, status=Status.CRASH, error=reason)
            return  # it gets no answer and ends by its deadline
        if message.last or len(self.remaining) == 1:
            self.held = message.outcome
            return
        cell = self.remaining.pop(0)
        self.runner.put(cell, self.session, message.outcome, self.about, self.monitor)
        self.begin()
        self.go()

    def _ended(self, ended: launcher.WorkerEnd) -> None:
        """Record the last result, or an outcome for the cell that the worker's end interrupted."""
        about = {
            **self.about,
            "strays": ended.strays,
            "peak_rss_bytes": ended.peak_rss_bytes,
            "end": ended.why,
            "exit": ended.code,
        }
        outcome = self.held or outcome_without_result(self.remaining[0], ended)
        together = outcome.phase in ("start", "load") and outcome.status is not Status.INTERRUPTED
        cells = self.remaining if together else self.remaining[:1]
        self.remaining = self.remaining[len(cells) :]
        self.runner.put_all(cells, self.session, outcome, about, self.monitor)


def started_at(pid: int) -> float:
    """Return when a process started, in seconds; 0 if it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0
