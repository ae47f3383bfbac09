"""A slot: the process that measures on one GPU of a box, or on several together, as its agent passes on orders.

It sees its own GPUs only, and does what `runner` does on a single GPU: workers from a fork server, deadlines, the
device's monitor. If its agent or the sweep dies, it ends its worker with everything that the worker started.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench import interpreter
from llmbench.machine import processes
from llmbench.measure import telemetry
from llmbench.run import channel, launcher
from llmbench.run.device_monitor import DeviceMonitor
from llmbench.run.messages import CellResult, Progress
from llmbench.run.outcome import scrub
from llmbench.run.runner import started_at

if TYPE_CHECKING:
    from llmbench.run.channel import Answer, Orders, Start

TELL_S = 10.0
"""How often a slot says that its worker is alive in the same phase: seldom, because a clock may run."""
LONGEST_TAIL = 2**18
"""The bytes of a worker's log that are sent on; the whole stays on the box until its agent ends."""


def main() -> None:
    """Serve orders on standard input until it ends; `run` marks every process that is started."""
    interpreter.outlive_parent()  # to end the worker's whole family, which a killed process could not
    processes.adopt_orphans()
    out = os.dup(1)
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="llmbench-slot-") as logs:
        SlotProcess(channel.Orders(0), out, sys.argv[1], Path(logs)).serve()


class SlotProcess:
    """One slot and its fork servers."""

    def __init__(self, orders: Orders, out: int, mark: str, logs: Path) -> None:
        """Begin without a fork server; `out` takes answers."""
        self.orders, self.out, self.mark, self.logs = orders, out, mark, logs
        self.fork_servers: dict[str, launcher.ForkServer] = {}
        self.watch: DeviceMonitor | None = None

    def serve(self) -> None:
        """Measure what is ordered."""
        while (order := self.orders.next()) is not None:
            if isinstance(order, channel.Start):
                self._attempt(order)
            else:
                self._close()
        self._close()

    def say(self, message: Answer) -> None:
        """Send an answer; nobody reads it if the agent is gone, which the next order tells."""
        data = memoryview(channel.line("", message)[1:])
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self.out, data) :]

    def _attempt(self, start: Start) -> None:
        """Run one worker and say how it ended."""
        self.orders.begin(start.token)
        watch = self.watch = self.watch or DeviceMonitor(telemetry.gpu_of(start.job.cells))
        watch.before_worker()
        log = self.logs / start.log
        ended = self._work(start, watch, log)
        watch.after_worker(self.orders)
        if start.job.protocol.nursery == "session" or ended.why == "nursery":
            self._close()
        lost = watch.halt.why if watch.halt else ""
        self.say(
            channel.Ended(
                token=start.token, end=ended, log=_tail(log), telemetry=watch.seen(), lost=lost
            )
        )

    def _work(self, start: Start, watch: DeviceMonitor, log: Path) -> launcher.WorkerEnd:
        try:
            worker = self._fork(start, log)
        except launcher.ForkServerDied as error:
            self._close()
            why = "stopped" if self.orders.signal is not None else "start"
            return launcher.WorkerEnd(why=why, phase="start", detail=str(error))
        self.say(
            channel.Started(
                token=start.token, pid=worker.pid, start_s=started_at(worker.pid),
                boot=processes.boot_id(), start=worker.start,
            )
        )  # fmt: skip
        self.orders.go()
        watch.before_cell(worker.pid)
        return self._follow(start, worker, watch)

    def _fork(self, start: Start, log: Path) -> launcher.Worker:
        """Fork a worker; if a fork server from before has died meanwhile, from a new one."""
        backend, start_s = start.job.cells[0].backend, start.job.protocol.deadlines.start_s
        known = backend in self.fork_servers
        try:
            return self._fork_server(backend).fork(
                start.job, log, start_s, self.orders, start.token
            )
        except launcher.ForkServerDied:
            if not known or self.orders.signal is not None:
                raise
            self._close()
            return self._fork_server(backend).fork(
                start.job, log, start_s, self.orders, start.token
            )

    def _follow(
        self, start: Start, worker: launcher.Worker, watch: DeviceMonitor
    ) -> launcher.WorkerEnd:
        """Pass on what a worker says, and every GO to it; return how it ended."""
        spared = {each.process.pid for each in self.fork_servers.values()}
        phase, told_at = "", 0.0
        with closing(
            worker.listen(start.job.protocol.deadlines, self.orders, spared, watch.tick)
        ) as heard:
            for message in heard:
                if isinstance(message, launcher.WorkerEnd):
                    return message
                if isinstance(message, Progress):
                    if message.phase == "warmup" and message.iteration == 0:
                        watch.after_load()
                    if message.phase != phase or time.monotonic() - told_at > TELL_S:
                        phase, told_at = message.phase, time.monotonic()
                        self.say(channel.SlotPhase(token=start.token, phase=message.phase))
                    if message.phase == "ready" and self.orders.go():
                        worker.go()
                elif isinstance(message, CellResult):
                    self._result(start.token, message, worker, watch)
        raise AssertionError("a worker's last message says how it ended")

    def _result(
        self, token: str, message: CellResult, worker: launcher.Worker, watch: DeviceMonitor
    ) -> None:
        self.say(
            channel.SlotResult(
                token=token, outcome=message.outcome, last=message.last, telemetry=watch.seen()
            )
        )
        if not message.last and self.orders.go():
            watch.before_cell(worker.pid)
            worker.go()

    def _fork_server(self, backend: str) -> launcher.ForkServer:
        if backend not in self.fork_servers:
            log = self.logs / f"forkserver-{backend}.log"
            self.fork_servers[backend] = launcher.ForkServer(backend, self.mark, log)
        return self.fork_servers[backend]

    def _close(self) -> None:
        """End the fork servers."""
        while self.fork_servers:
            self.fork_servers.popitem()[1].close()


def _tail(log: Path) -> str:
    """Return the end of a worker's log without secrets, and remove it."""
    scrub(log)
    try:
        data = log.read_bytes()[-LONGEST_TAIL:]
        log.unlink()
    except OSError:
        return ""
    return data.decode("utf-8", errors="replace")
