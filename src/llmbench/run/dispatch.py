"""Dispatch: which GPU of which box measures which cells of a round, and when a clock may run.

A box is either loud or timed. While loud, its GPUs load, compile and warm up; a worker that is warm waits. When all
are warm, their clocks run together, and whoever has finished waits until no clock runs before the next cell warms up.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from llmbench.machine import calibration
from llmbench.machine.info import utc_now
from llmbench.numbers import plural
from llmbench.redact import redact
from llmbench.results import store
from llmbench.results.record import Move, Outcome, Place, Status
from llmbench.run import channel, launcher, pins
from llmbench.run.channel import CPU, Ended, SlotPhase, SlotResult, Started
from llmbench.run.messages import CellResult, Progress
from llmbench.run.runner import WorkerProcess, WorkerSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llmbench.run.boxes import Box, Boxes
    from llmbench.run.channel import Answer
    from llmbench.run.pins import Block
    from llmbench.run.runner import Runner
    from llmbench.spec.sweep import Cell

LOOK_S = 1.0
"""The longest sleep between two looks at which boxes are silent."""
STOPPED_WITHIN_S = 20.0
"""How long workers may take to end after a stop signal, before they are left to their agents."""
BUSY = ("loud", "warm", "timed", "paused", "ending")
"""The states of a slot with a worker: it loads or warms up, waits for its clock, is timed, waits to warm up, ends."""


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


class Slot:
    """One GPU of a box, several together, or its processors, with what is to be measured there in this round."""

    def __init__(self, box: Box, gpus: Sequence[int], units: Sequence[str]) -> None:
        """Begin idle."""
        self.box, self.gpus = box, frozenset(gpus)
        self.name = ",".join(map(str, gpus)) or CPU
        self.unit = pins.TOGETHER.join(units)
        self.queue: deque[list[Cell]] = deque()
        self.state, self.token, self.lost = "idle", "", ""
        self.cells: list[Cell] = []
        self.log = ""
        self.work: WorkerSession | Company | None = None
        self.company: list[Slot] = []
        self.harmless = 0
        self.telemetry: dict[str, Any] = {}
        self.neighbours = 0

    def before_cell(self, worker: int) -> None:  # noqa: ARG002 - the monitor's protocol
        """Begin a cell, so far without neighbours."""
        self.neighbours, self.telemetry = 0, {}

    def after_load(self) -> None:
        """Do nothing: the slot's own process has the monitor."""

    def seen(self) -> dict[str, Any]:
        """Return what the monitor there saw, and how many other GPUs of the box were timed at the same time."""
        timed = {"neighbours": self.neighbours} if self.neighbours else {}
        harmless = {"neighbours_harmless": True} if 0 < self.neighbours <= self.harmless else {}
        return {**self.telemetry, **timed, **harmless}

    def send(self, order: channel.Order) -> None:
        """Send an order to the slot's process."""
        self.box.send(order, self.name)

    def pause(self) -> None:
        """Let the worker wait with its next cell until the box may be loud."""
        self.state = "paused"


class Dispatch:
    """The slots of all boxes, and the pins of a run's cells."""

    def __init__(self, boxes: Boxes, runner: Runner, *, alone: bool, company: bool = False) -> None:
        """Take the pins from the run's records, and deal out the cells that have none.

        With `alone`, a box measures one group at a time, on its first GPUs; with `company`, its other GPUs do the same
        work then, of which nothing is recorded.
        """
        self.boxes, self.runner, self.alone, self.company = boxes, runner, alone, company
        self.slots: dict[tuple[int, str], list[Slot]] = {}
        self.session = 0
        cells = runner.planned.cells
        self.pins = pins.pinned(runner.run.log, self.block)
        self.begun = set(self.pins)
        predictions = runner.written.predictions
        seconds = {cell: one.session_s for cell, one in predictions.items()}
        self.work = pins.weights(cells, self.block, seconds)
        self.names = dict(_units_of(runner))
        for box in boxes.all:
            self._note_place(box)
        self._deal()

    def block(self, cell: Cell) -> Block:
        """Return the block of a cell, whose members are measured on one unit."""
        return pins.block_of(cell, self._width(cell))

    def waiting(self) -> dict[str, list[Cell]]:
        """Return the cells that need a session on a unit that is not here, by the unit."""
        here = {slot.unit for slot in self._living()}
        waiting: dict[str, list[Cell]] = {}
        first = range(1, self.runner.protocol.sessions + 1)
        for cell in self.runner.planned.cells:
            unit = self.pins.get(self.block(cell))
            done = self.runner.standings[cell.id].done
            if unit not in here and any(session not in done for session in first):
                waiting.setdefault(unit or "", []).append(cell)
        return waiting

    def told(self) -> Iterator[str]:
        """Yield a sentence for each unit that cells wait for."""
        for unit, cells in sorted(self.waiting().items()):
            box = self.names.get(unit.split(pins.TOGETHER)[0])
            where = f"unit {unit} of box {box}" if unit else "a box with enough GPUs"
            what = (
                f"{plural(len(cells), 'cell')} {'waits' if len(cells) == 1 else 'wait'} for {where}"
            )
            yield (
                f"{what}, which is not here. The same command continues when it is"
                f"{'; --move measures them anew on other units' if unit else ''}."
            )

    def move(self) -> None:
        """Measure anew, on units that are here, the blocks whose unit is not; earlier sessions no longer count."""
        for gone, waiting in self.waiting().items():
            blocks = {self.block(cell) for cell in waiting}
            cells = [cell for cell in self.runner.planned.cells if self.block(cell) in blocks]
            move = Move(cells=[cell.id for cell in cells], unit=gone, at=utc_now("milliseconds"))
            self.runner.run.append(move)
            for cell in cells:
                self.runner.standings[cell.id].forget()
            self.pins = {block: unit for block, unit in self.pins.items() if block not in blocks}
            self.begun -= blocks
        self._deal()

    def round(self, session: int, groups: Sequence[list[Cell]]) -> None:
        """Measure a session of these cells; those whose unit is gone stay pending."""
        self.session = session
        self._queue(groups)
        interrupt = self.runner.interrupt
        while not self.runner.must_stop():
            self._start()
            if not self._busy():
                break
            self._hear(LOOK_S)
        for slot in self._all():
            slot.queue.clear()
        if interrupt.signal is not None:
            self._stop()
        for slot in self._all():
            if not slot.box.gone:
                slot.send(channel.NewRound())

    def _width(self, cell: Cell) -> int:
        return pins.width_of(cell, max(len(box.here.gpus) for box in self.boxes.all if box.here))

    def _slots(self, width: int) -> list[Slot]:
        """Return the slots of so many GPUs each, over all boxes."""
        return [slot for box in self.boxes.all for slot in self._of_box(box, width)]

    def _of_box(self, box: Box, width: int) -> list[Slot]:
        key = (width, box.name)
        if key not in self.slots:
            here = box.here
            assert here is not None
            places = range(len(here.units))
            self.slots[key] = [
                Slot(
                    box,
                    [here.gpus[place] for place in share] if width else [],
                    [here.units[place] for place in share],
                )
                for share in pins.shares(places, width, alone=self.alone and not self.company)
            ]
            for slot in self.slots[key]:
                slot.harmless = calibration.most_harmless(here.machine)
            if self.company:
                self.slots[key][0].company = self.slots[key][1:]
                del self.slots[key][1:]
        return self.slots[key]

    def _all(self) -> Iterator[Slot]:
        for slots in self.slots.values():
            for slot in slots:
                yield from (slot, *slot.company)

    def _living(self) -> Iterator[Slot]:
        return (slot for slot in self._all() if not (slot.lost or slot.box.gone))

    def _busy(self) -> list[Slot]:
        return [slot for slot in self._all() if slot.state in BUSY]

    def _deal(self) -> None:
        """Pin the blocks that have no unit yet to living ones."""
        for width in {int(block[3]) for block in self.work}:
            units = [slot.unit for slot in self._slots(width) if not (slot.lost or slot.box.gone)]
            work = {block: one for block, one in self.work.items() if block[3] == width}
            if units:
                self.pins |= pins.deal(work, units, self.pins)

    def _queue(self, groups: Sequence[list[Cell]]) -> None:
        """Queue each group's cells at the slots that they are pinned to."""
        by_unit = {slot.unit: slot for slot in self._living()}
        for group in groups:
            parts: dict[str, list[Cell]] = {}
            for cell in group:
                parts.setdefault(self.pins.get(self.block(cell), ""), []).append(cell)
            for unit, cells in parts.items():
                if unit in by_unit:
                    by_unit[unit].queue.append(cells)

    def _start(self) -> None:
        """Let workers start, load, warm up or be timed, as far as their boxes are quiet."""
        for box in self.boxes.living:
            slots = [slot for slot in self._all() if slot.box is box]
            if any(slot.state == "timed" for slot in slots):
                continue
            for slot in slots:
                if slot.state == "paused":
                    self._go(slot, "loud")
                while slot.state == "idle" and slot.queue and self._is_free(slot, slots):
                    self._begin(slot)
            warm = [slot for slot in slots if slot.state == "warm"]
            if warm and not any(slot.state == "loud" for slot in slots):
                for slot in warm:
                    self._go(slot, "timed")
                    slot.neighbours = len(warm) - 1

    def _is_free(self, slot: Slot, slots: Sequence[Slot]) -> bool:
        """Return whether no other slot uses one of its GPUs now, or may not be measured at the same time."""
        others = [other for other in slots if other.state in BUSY and other is not slot]
        return not any(self.alone or other.gpus & slot.gpus for other in others)

    def _begin(self, slot: Slot) -> None:
        """Start a worker for the next group of a slot, unless all its outcomes are known."""
        runner = self.runner
        slot.cells = runner.record_known(self.session, slot.queue.popleft())
        if not slot.cells or runner.must_stop():
            return
        first = slot.cells[0]
        runner.screen.loading(first, self.session)
        log = f"{first.id}-s{self.session}-a{runner.attempt(first, self.session)}.log"
        job = runner.job(slot.cells, self.session, gated=True)
        for each in (slot, *slot.company):
            each.token, each.state, each.log = secrets.token_hex(16), "loud", log
            each.work = None if each is slot else Company(slot.cells, each.pause)
            each.send(channel.Start(token=each.token, log=log, job=job))

    @staticmethod
    def _go(slot: Slot, state: str) -> None:
        slot.state = state
        slot.send(channel.Go(token=slot.token))

    def _hear(self, timeout_s: float) -> None:
        for box, name, answer in self.boxes.hear(timeout_s, self.runner.interrupt.fd):
            if answer is None:
                self._lose_box(box)
                continue
            for slot in self._all():
                if slot.box is box and slot.name == name:
                    self._take(slot, answer)

    def _take(self, slot: Slot, answer: Answer) -> None:
        """Take in an answer about a slot; one about another attempt than the present one is dropped."""
        if isinstance(answer, channel.Refused):
            if slot.state in BUSY:
                self._lose_slot(slot, answer.why)
        elif getattr(answer, "token", None) != slot.token or slot.state not in BUSY:
            note = f"Box {slot.box.name}, GPU {slot.name}: something about an attempt that had ended was dropped."
            self.runner.screen.note(note)
        elif isinstance(answer, Started):
            self._started(slot, answer)
        elif isinstance(answer, Ended):
            self._ended(slot, answer)
        elif slot.work is not None:
            self._heard(slot, slot.work, answer)

    def _started(self, slot: Slot, answer: Started) -> None:
        if isinstance(slot.work, Company):
            self._go(slot, "loud")
            return
        process = WorkerProcess(answer.pid, answer.start_s, answer.boot, answer.token)
        about = {
            "pid": answer.pid, "start": answer.start, "log": f"{store.LOGS}/{slot.log}",
            pins.UNIT: slot.unit, "box": slot.box.name, "gpus": sorted(slot.gpus),
        }  # fmt: skip
        slot.work = WorkerSession(
            self.runner, process, about, slot, self.session, slot.cells, slot.pause
        )
        slot.work.begin()
        self._go(slot, "loud")

    def _heard(self, slot: Slot, work: WorkerSession | Company, answer: Answer) -> None:
        if isinstance(answer, SlotPhase):
            if answer.phase == "ready":
                slot.state = "warm"
            work.take(Progress(phase=answer.phase))
        elif isinstance(answer, SlotResult):
            self.begun.add(self.block(work.remaining[0]))
            slot.telemetry = answer.telemetry
            slot.state = "ending"
            work.take(CellResult(outcome=answer.outcome, last=answer.last))
            if work.held is not None and not answer.last:
                slot.send(channel.StopAttempt(token=slot.token))  # it would wait for a GO for ever

    def _ended(self, slot: Slot, answer: Ended) -> None:
        """Record what a worker's end means, and put back what it has not measured."""
        slot.state = "idle"
        slot.telemetry = {**slot.telemetry, **answer.telemetry}
        self._keep_log(slot, answer.log)
        if isinstance(slot.work, Company):
            return
        if slot.work is not None:
            if answer.end.why != "stopped":
                self.begun.add(self.block(slot.work.remaining[0]))
            slot.work.take(answer.end)
            remaining = slot.work.remaining
        elif answer.end.why == "stopped":
            return
        else:
            why = f"the worker could not be started: {answer.end.detail}"
            failed = Outcome(cell="", status=Status.CRASH, phase="start", error=why)
            self.runner.put_all(slot.cells, self.session, failed, {pins.UNIT: slot.unit}, slot)
            remaining = []
        if remaining:
            slot.queue.appendleft(remaining)
        if answer.lost:
            self._lose_slot(slot, answer.lost)

    def _keep_log(self, slot: Slot, text: str) -> None:
        if text:
            with launcher.opened(self.runner.logs / slot.log) as log:
                log.write(redact(text).encode())

    def _lose_slot(self, slot: Slot, why: str) -> None:
        """Interrupt what a slot measures; other slots take the cells that have no session there."""
        for each in self._all():
            if each is slot or (each.box is slot.box and slot.gpus and slot.gpus <= each.gpus):
                each.lost = why
        self.runner.screen.note(f"Box {slot.box.name}, GPU {slot.name}: {why}")
        self._leave([each for each in self._all() if each.lost], why)

    def _lose_box(self, box: Box) -> None:
        """Interrupt what a box measures; other boxes take the cells that have no session there."""
        self.runner.screen.note(f"Box {box.name} is gone: {box.gone}.")
        gone = [slot for slot in self._all() if slot.box is box]
        self._leave(gone, f"box {box.name} is gone: {box.gone}")

    def _leave(self, slots: Sequence[Slot], why: str) -> None:
        """Interrupt what slots measure; deal out again what has no session there, and leave the rest pending."""
        left: list[list[Cell]] = []
        for slot in slots:
            if not isinstance(slot.work, Company):
                left += [slot.work.remaining if slot.work else slot.cells] * (slot.state in BUSY)
            left += slot.queue
            slot.queue.clear()
            self._interrupt(slot, why)
        living = {slot.unit for slot in self._living()}
        self.pins = {b: unit for b, unit in self.pins.items() if b in self.begun or unit in living}
        self._deal()
        self._queue(left)

    def _interrupt(self, slot: Slot, why: str) -> None:
        """Record that the session that had begun on a slot was cut off."""
        if slot.state in BUSY and isinstance(slot.work, WorkerSession):
            cell = slot.work.remaining[0]
            cut = Outcome(cell=cell.id, status=Status.INTERRUPTED, error=why)
            self.runner.put(cell, self.session, cut, slot.work.about, slot)
        slot.state, slot.work, slot.token = "idle", None, ""

    def _stop(self) -> None:
        """End all workers after a stop signal, and record what was cut off."""
        for slot in self._busy():
            slot.send(channel.StopAttempt(token=slot.token))
        deadline = time.monotonic() + STOPPED_WITHIN_S
        while self._busy() and time.monotonic() < deadline:
            for box, name, answer in self.boxes.hear(0.2):
                for slot in self._all():
                    if slot.box is box and answer is None:
                        self._interrupt(slot, "the sweep was asked to stop")
                    elif slot.box is box and slot.name == name and answer is not None:
                        self._take(slot, answer)
        for slot in self._busy():
            self._interrupt(slot, "the sweep was asked to stop")

    def _note_place(self, box: Box) -> None:
        """Write what a box is, unless the run has it."""
        here = box.here
        assert here is not None
        if any(unit not in self.names for unit in here.units):
            place = Place(
                at=utc_now("milliseconds"), name=box.name, units=here.units, machine=here.machine,
                environment=here.environment, environment_digest=here.digest,
            )  # fmt: skip
            self.runner.run.append(place)
            self.names |= dict.fromkeys(here.units, box.name)


def _units_of(runner: Runner) -> Iterator[tuple[str, str]]:
    """Yield the units that a run has a place of, with the name of their box."""
    for line in runner.run.log:
        if isinstance(line, Place):
            yield from ((unit, line.name) for unit in line.units)
