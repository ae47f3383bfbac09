"""One worker as its runner follows it: every cell recorded as it ends, whatever ended it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from llmbench.results.record import Outcome, Status
from llmbench.run.messages import CellResult, Progress
from llmbench.run.outcome import ended_badly, scrub

if TYPE_CHECKING:
    from llmbench.run import launcher
    from llmbench.run.device_monitor import DeviceMonitor
    from llmbench.run.progress import Screen
    from llmbench.run.signals import Interrupt
    from llmbench.spec import sweep
    from llmbench.spec.sweep import Cell


class Runner(Protocol):
    """What a supervisor needs of the runner that it works for."""

    nurseries: dict[str, launcher.ForkServer]
    protocol: sweep.Protocol
    interrupt: Interrupt
    screen: Screen
    watch: DeviceMonitor

    def begin(self, cell: Cell, session: int, worker: launcher.Worker) -> None:
        """Write the intent to measure a cell."""

    def put(
        self, cell: Cell, session: int, outcome: Outcome, worker: dict[str, Any] | None = None
    ) -> None:
        """Write one record."""

    def put_all(
        self, cells: list[Cell], session: int, outcome: Outcome, worker: dict[str, Any]
    ) -> None:
        """Write one record for each cell that shared what happened."""

    def drop_nursery(self, backend: str) -> None:
        """Forget a nursery that died."""


class Supervisor:
    """One worker as the runner follows it, cell by cell."""

    def __init__(
        self, runner: Runner, worker: launcher.Worker, session: int, cells: list[Cell]
    ) -> None:
        """Begin with the first cell."""
        self.runner, self.worker, self.session = runner, worker, session
        self.remaining = list(cells)
        self.held: Outcome | None = None

    def follow(self) -> list[Cell]:
        """Record every cell as it ends; return the cells that need another worker."""
        self._begin()
        spared = {nursery.process.pid for nursery in self.runner.nurseries.values()}
        deadlines, interrupt = self.runner.protocol.deadlines, self.runner.interrupt
        with closing(
            self.worker.listen(deadlines, interrupt, spared, self.runner.watch.tick)
        ) as heard:
            for message in heard:
                if isinstance(message, Progress):
                    self._progress(message)
                elif isinstance(message, CellResult):
                    self._result(message)
                else:
                    self._ended(message)
        return self.remaining

    def _begin(self) -> None:
        self.runner.begin(self.remaining[0], self.session, self.worker)

    def _progress(self, message: Progress) -> None:
        if message.phase == "warmup" and message.iteration == 0:
            self.runner.watch.after_load()
            self.runner.screen.measuring(self.remaining[0], self.session)

    def _result(self, message: CellResult) -> None:
        """Write a result and let the worker go on; the worker's last is held until nothing of it is alive."""
        if self.held is not None:
            return  # after its last, or after one that made no sense, a worker has nothing to say
        if message.outcome.cell != self.remaining[0].id:
            reason = f"protocol: a result for {message.outcome.cell!r}, which is not being measured"
            self.held = Outcome(cell=self.remaining[0].id, status=Status.CRASH, error=reason)
            return  # it gets no answer, and its deadline ends it
        if message.last or len(self.remaining) == 1:
            self.held = message.outcome
            return
        self.runner.put(self.remaining.pop(0), self.session, message.outcome, self._about({}))
        self._begin()
        self.worker.go()

    def _ended(self, ended: launcher.WorkerEnd) -> None:
        """Record the last cell, or what the worker's end did to the one that it was measuring."""
        scrub(self.worker.log)
        if ended.why == "nursery":
            self.runner.drop_nursery(self.remaining[0].backend)
        about = self._about(
            {
                "strays": ended.strays,
                "peak_rss_bytes": ended.peak_rss_bytes,
                "end": ended.why,
                "exit": ended.code,
            }
        )
        outcome = self.held or ended_badly(self.remaining[0], ended)
        together = outcome.phase in ("start", "load") and outcome.status is not Status.INTERRUPTED
        cells = self.remaining if together else self.remaining[:1]
        self.remaining = self.remaining[len(cells) :]
        self.runner.put_all(cells, self.session, outcome, about)

    def _about(self, more: dict[str, Any]) -> dict[str, Any]:
        return {
            "pid": self.worker.pid,
            "start": self.worker.start,
            "log": f"logs/{self.worker.log.name}",
            **more,
        }
