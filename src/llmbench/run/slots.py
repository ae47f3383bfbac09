"""Slots as the sweep sees them: one GPU of a box, several together, its processors, or the like on several boxes."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from llmbench.run import channel, launcher, pins
from llmbench.run.channel import CPU
from llmbench.run.messages import CellResult, Progress
from llmbench.spec.load import LOAD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmbench.results.record import Outcome
    from llmbench.run.boxes import Box
    from llmbench.run.runner import WorkerSession
    from llmbench.spec.sweep import Cell, Deadlines

BUSY = ("loud", "warm", "timed", "paused", "ending")
"""The states of a slot with a worker: it loads or warms up, waits for its clock, is timed, waits to warm up, ends."""
LATE_S = 60.0
"""How much longer than its worker a slot may be silent: it kills one that is too slow itself, which takes seconds, and
then waits for the device's memory."""
POWER = "power_w_"
"""Begins the names of levels that one box cannot tell of several."""


class Company:
    """The session of a worker that only keeps a GPU busy while another is measured: nothing of it is recorded."""

    def __init__(self, cells: Sequence[Cell], go: Callable[[], None]) -> None:
        """Begin with the first cell."""
        self.remaining, self.go = list(cells), go
        self.held: Outcome | None = None

    def take(self, message: Progress | CellResult | launcher.WorkerEnd) -> None:
        """Let the worker go on to its next cell."""
        if isinstance(message, CellResult) and not message.last:
            del self.remaining[0]
            self.go()


class RankWork:
    """A worker that holds ranks of another box's engine: it has no result of its own, only a reason if it fails."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        """Begin without a reason."""
        self.remaining = list(cells)
        self.held: Outcome | None = None

    def take(self, message: Progress | CellResult | launcher.WorkerEnd) -> None:
        """Keep the outcome, which is that of a failed load."""
        if isinstance(message, CellResult):
            self.held = message.outcome

    def why(self, end: launcher.WorkerEnd) -> str:
        """Return why it has ended."""
        said = self.held.error if self.held else ""
        return said or end.detail or f"its worker ended with code {end.code}"


class Slot:
    """What is to be measured on some GPUs of a box, or on its processors, in this round.

    `followers` work for the slot: on other boxes they hold the other ranks of its engine, on its own box they only keep
    GPUs busy. A follower's `leader` is the slot.
    """

    def __init__(
        self, box: Box, gpus: Sequence[int], units: Sequence[str], followers: Sequence[Slot] = ()
    ) -> None:
        """Begin idle."""
        self.box, self.gpus = box, frozenset(gpus)
        self.name = ",".join(map(str, gpus)) or CPU
        self.followers, self.leader = list(followers), self
        for each in self.followers:
            each.leader = self
        self.unit: str = pins.TOGETHER.join([*units, *(each.unit for each in self.ranks)])
        self.where = pins.TOGETHER.join(each.box.name for each in (self, *self.ranks))
        self.queue: deque[list[Cell]] = deque()
        self.state, self.token, self.lost, self.phase = "idle", "", "", "start"
        self.cells: list[Cell] = []
        self.log = ""
        self.work: WorkerSession | Company | RankWork | None = None
        self.harmless = 0
        self.telemetry: dict[str, Any] = {}
        self.neighbours, self.deaths = 0, 0
        self.blame, self.heard_at = "", time.monotonic()

    @property
    def members(self) -> tuple[Slot, ...]:
        """Return the slot and its followers."""
        return (self, *self.followers)

    @property
    def ranks(self) -> list[Slot]:
        """Return the followers on other boxes."""
        return [each for each in self.followers if each.box is not self.box]

    @property
    def busy(self) -> bool:
        """Return whether it has a worker."""
        return self.state in BUSY

    @property
    def out(self) -> bool:
        """Return whether it cannot measure any more."""
        return any(each.lost or each.box.gone for each in self.members)

    @property
    def whole(self) -> bool:
        """Return whether its present or next cells need their boxes for themselves: served ones, and on several."""
        cells = self.leader.cells if self.busy else next(iter(self.queue), [])
        return bool(self.leader.ranks) or any(LOAD in cell.options for cell in cells)

    def before_cell(self, worker: int) -> None:  # noqa: ARG002 - the monitor's protocol
        """Begin a cell, so far without neighbours."""
        self.neighbours, self.telemetry = 0, {}

    def after_load(self) -> None:
        """Do nothing: the slot's own process has the monitor."""

    def seen(self) -> dict[str, Any]:
        """Return what the monitor there saw, and how many other GPUs of the box were timed at the same time."""
        timed = {"neighbours": self.neighbours} if self.neighbours else {}
        harmless = {"neighbours_harmless": True} if 0 < self.neighbours <= self.harmless else {}
        seen = self.telemetry
        if self.ranks:  # power is a sum over GPUs, of which only those of the first box were seen
            seen = {key: value for key, value in seen.items() if not key.startswith(POWER)}
        return {**seen, **timed, **harmless}

    def send(self, order: channel.Order) -> None:
        """Send an order to the slot's process."""
        self.box.send(order, self.name)

    def go(self, state: str) -> None:
        """Let the worker go on."""
        self.state, self.heard_at = state, time.monotonic()
        self.send(channel.Go(token=self.token))

    def stop(self) -> None:
        """Ask the slot to end its worker."""
        self.send(channel.StopAttempt(token=self.token))

    def pause(self) -> None:
        """Let the worker wait with its next cell until the box may be loud."""
        self.state = "paused"

    def silent(self, deadlines: Deadlines) -> str:
        """Return how long the slot has said nothing, if that is too long for what it does; else empty."""
        begins = self.state == "loud" and self.phase == "exit"  # its next cell
        most = launcher.limit(deadlines, "warmup" if begins else self.phase) + LATE_S
        if self.state not in {"loud", "timed", "ending"} or time.monotonic() - self.heard_at < most:
            return ""
        return f"it has said nothing for {most:.0f} s ({self.phase}) and was killed"
