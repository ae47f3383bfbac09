"""Dispatch: which GPU of which box measures which cells of a round, and when a clock may run.

A box is either loud or timed. While loud, its GPUs load, compile and warm up; a worker that is warm waits. When all
are warm, their clocks run together, and whoever has finished waits until no clock runs before the next cell warms up.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from llmbench.machine import calibration
from llmbench.machine.info import utc_now
from llmbench.numbers import plural
from llmbench.redact import redact
from llmbench.results import store
from llmbench.results.record import Move, Outcome, Place, Rank, Record, Status
from llmbench.run import channel, launcher, pins
from llmbench.run.channel import Ended, SlotPhase, SlotResult, Started
from llmbench.run.messages import CellResult, Progress
from llmbench.run.runner import WorkerProcess, WorkerSession
from llmbench.run.slots import Company, RankWork, Slot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.run.boxes import Box, Boxes
    from llmbench.run.channel import Answer
    from llmbench.run.pins import Block, Size
    from llmbench.run.runner import Runner
    from llmbench.spec.sweep import Cell

SHOWN = 3
"""How many moved cells are named."""
LOOK_S = 1.0
"""The longest sleep between two looks at which boxes are silent."""
STOPPED_WITHIN_S = 20.0
"""How long workers may take to end after a stop signal, before they are left to their agents."""
FIRST_PORT, PORTS = 20_000, 10_000
"""Where the ranks of an engine on several boxes meet: below the ports that systems give to outgoing connections."""


class Dispatch:
    """The slots of all boxes, and the pins of a run's cells."""

    def __init__(self, boxes: Boxes, runner: Runner, *, alone: bool, company: bool = False) -> None:
        """Take the pins from the run's records, and deal out the cells that have none.

        With `alone`, a box measures one group at a time, on its first GPUs; with `company`, its other GPUs do the same
        work then, of which nothing is recorded.
        """
        self.boxes, self.runner, self.alone, self.company = boxes, runner, alone, company
        self.slots: dict[Size, list[Slot]] = {}
        self.session = 0
        self.spread = runner.protocol.across == "kind"
        self.turn: dict[Block, str] = {}
        refused = runner.planned.refused
        cells = [cell for cell in runner.planned.cells if cell.id not in refused]
        self.pins = pins.pinned(runner.run.log, self.block)
        self.begun = set(self.pins)
        self.measured = self._measured()
        predictions = runner.written.predictions
        seconds = {cell: one.session_s for cell, one in predictions.items()}
        self.work = pins.weights(cells, self.block, seconds)
        self.names = dict(_units_of(runner))
        for box in boxes.all:
            self._note_place(box)
        self._deal()

    def block(self, cell: Cell) -> Block:
        """Return the block of a cell, whose members are measured on one unit."""
        most = max(len(box.here.gpus) for box in self.boxes.all if box.here)
        return pins.block_of(cell, pins.width_of(cell, most))

    def waiting(self) -> dict[str, list[Cell]]:
        """Return the cells that need a session on a unit that is not here, by the unit."""
        here = {slot.unit for slot in self._living()}
        sizes = {size for size in self.slots if any(not slot.out for slot in self.slots[size])}
        waiting: dict[str, list[Cell]] = {}
        first = range(1, self.runner.protocol.sessions + 1)
        for cell in self.runner.planned.cells:
            if cell.id in self.runner.planned.refused:
                continue
            block = self.block(cell)
            unit = None if self.spread else self.pins.get(block)
            is_here = block.size in sizes if self.spread else unit in here
            done = self.runner.standings[cell.id].done
            if not is_here and any(session not in done for session in first):
                waiting.setdefault(unit or "", []).append(cell)
        return waiting

    def told(self) -> Iterator[str]:
        """Yield a sentence for each unit that cells wait for."""
        for unit, cells in sorted(self.waiting().items()):
            where = (
                f"unit {unit} of {self._boxes_of(unit)}"
                if unit
                else "a box, or boxes, with enough GPUs"
            )
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
            if not gone:
                continue  # no unit has measured them yet
            blocks = {self.block(cell) for cell in waiting}
            cells = [cell for cell in self.runner.planned.cells if self.block(cell) in blocks]
            move = Move(cells=[cell.id for cell in cells], unit=gone, at=utc_now("milliseconds"))
            self.runner.run.append(move)
            self.runner.screen.note(
                f"Moved {plural(len(cells), 'cell')} from unit {gone} of {self._boxes_of(gone)}, to be measured "
                f"anew: {_some(move.cells)}."
            )
            for cell in cells:
                self.runner.standings[cell.id].forget()
            self.pins = {block: unit for block, unit in self.pins.items() if block not in blocks}
            self.begun -= blocks
        self._deal()

    def round(self, session: int, groups: Sequence[list[Cell]]) -> None:
        """Measure a session of these cells; those whose unit is gone stay pending."""
        self.session, self.turn = session, {}
        for slot in self._all():
            if slot.deaths:  # its process ended, and the agent can start another
                slot.deaths, slot.lost = 0, ""
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
            if slot.token and not slot.box.gone:
                slot.send(channel.NewRound())

    def _slots(self, size: Size) -> list[Slot]:
        """Return the slots of a size."""
        if size not in self.slots:
            pinned = [self.pins[block] for block in self.pins if block.size == size]
            boxes = {box.name: box for box in self.boxes.all}
            units = {box.name: box.here.units for box in self.boxes.all if box.here}
            self.slots[size] = [
                slot
                for names in pins.sets(units, size.boxes, pinned)
                for slot in self._of_boxes([boxes[name] for name in names], size.gpus)
            ]
        return self.slots[size]

    def _of_boxes(self, boxes: Sequence[Box], width: int) -> Iterator[Slot]:
        """Yield the slots of a set of boxes: each box has the same GPUs in it, by their order."""
        by_box = [self._of_box(box, width) for box in boxes]
        if self.company:
            ((first, *others),) = by_box
            yield Slot(first.box, sorted(first.gpus), [first.unit], others)
            return
        for first, *others in zip(*by_box, strict=False):
            slot = Slot(first.box, sorted(first.gpus), [first.unit], others) if others else first
            assert boxes[0].here is not None
            slot.harmless = calibration.most_harmless(boxes[0].here.machine)
            yield slot

    def _of_box(self, box: Box, width: int) -> list[Slot]:
        here = box.here
        assert here is not None
        return [
            Slot(
                box,
                [here.gpus[place] for place in share] if width else [],
                [here.units[place] for place in share],
            )
            for share in pins.shares(
                range(len(here.units)), width, alone=self.alone and not self.company
            )
        ]

    def _leaders(self) -> Iterator[Slot]:
        return (slot for slots in self.slots.values() for slot in slots)

    def _all(self) -> Iterator[Slot]:
        return (member for slot in self._leaders() for member in slot.members)

    def _living(self) -> Iterator[Slot]:
        return (slot for slot in self._leaders() if not slot.out)

    def _busy(self) -> list[Slot]:
        return [slot for slot in self._all() if slot.busy]

    def _deal(self) -> None:
        """Pin the blocks that have no unit yet to living ones."""
        for size in {block.size for block in self.work}:
            units = [slot.unit for slot in self._slots(size) if not slot.out]
            work = {block: one for block, one in self.work.items() if block.size == size}
            if units and not self.spread:
                self.pins |= pins.deal(work, units, self.pins)

    def _measured(self) -> dict[Block, dict[str, set[int]]]:
        """Return which sessions of each block were measured on each unit."""
        found: defaultdict[Block, dict[str, set[int]]] = defaultdict(dict)
        for line in self.runner.run.log if self.spread else ():
            if isinstance(line, Record) and line.final and (unit := line.worker.get(pins.UNIT)):
                found[self.block(line.cell)].setdefault(str(unit), set()).add(line.session)
        return found

    def _unit(self, cell: Cell) -> str:
        """Return the unit that measures a cell in this round; empty if there is none."""
        block = self.block(cell)
        if not self.spread:
            return self.pins.get(block, "")
        living = {slot.unit: slot.where for slot in self._slots(block.size) if not slot.out}
        if self.turn.get(block) not in living:
            load: defaultdict[str, float] = defaultdict(float)
            for other, unit in self.turn.items():
                load[unit] += self.work[other]
            had = self.measured.get(block, {})
            self.turn[block] = pins.next_unit(living, had, self.session, load)
        return self.turn[block]

    def _queue(self, groups: Sequence[list[Cell]]) -> None:
        """Queue each group's cells at the slots that they are pinned to."""
        for group in groups:
            parts: dict[Slot, list[Cell]] = {}
            for cell in group:
                unit = self._unit(cell)
                for slot in self.slots.get(self.block(cell).size, ()):
                    if slot.unit == unit and not slot.out:
                        parts.setdefault(slot, []).append(cell)
            for slot, cells in parts.items():
                slot.queue.append(cells)

    def _start(self) -> None:
        """Let workers start, load, warm up or be timed, as far as their boxes are quiet."""
        for box in self.boxes.living:
            slots = [slot for slot in self._all() if slot.box is box]
            if any(slot.state == "timed" for slot in slots):
                continue
            for slot in slots:
                if slot.state == "paused":
                    slot.go("loud")
                while slot.state == "idle" and slot.queue and self._is_free(slot):
                    self._begin(slot)
            warm = [slot for slot in slots if slot.state == "warm"]
            if warm and not any(slot.state == "loud" for slot in slots):
                for slot in warm:
                    slot.go("timed")
                    slot.neighbours = len(warm) - 1

    def _is_free(self, slot: Slot) -> bool:
        """Return whether no other slot uses one of its GPUs now, or may not be measured at the same time."""
        return not any(
            self.alone or other.gpus & member.gpus or slot.whole or other.whole
            for other in self._busy()
            for member in slot.members
            if other.box is member.box
        )

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
        port = FIRST_PORT + secrets.randbelow(PORTS)
        for number, each in enumerate(slot.members):
            each.token, each.state, each.log = secrets.token_hex(16), "loud", log
            each.phase, each.blame, each.heard_at = "start", "", time.monotonic()
            each.work, own = None, job
            if slot.ranks:
                assert slot.box.here is not None
                rank = Rank(
                    number=number, of=len(slot.members), address=slot.box.here.address, port=port
                )
                own = msgspec.structs.replace(job, rank=rank, gated=number == 0)
                each.work = RankWork(slot.cells) if number else None
            elif number:
                each.work = Company(slot.cells, each.pause)
            each.send(channel.Start(token=each.token, log=log, job=own))

    def _hear(self, timeout_s: float) -> None:
        for box, name, answer in self.boxes.hear(timeout_s, self.runner.interrupt.fd):
            if answer is None:
                self._lose_box(box)
                continue
            if (slot := self._meant(box, name)) is not None:
                self._take(slot, answer)
        for slot in self._busy():
            if why := slot.silent(self.runner.protocol.deadlines):
                slot.blame, slot.heard_at = why, time.monotonic()
                slot.box.send(channel.Kill(slot=slot.name))  # whose end the agent tells

    def _meant(self, box: Box, name: str) -> Slot | None:
        """Return the slot of a box by its name; of several the one with a worker, because they share a GPU."""
        there = [slot for slot in self._all() if slot.box is box and slot.name == name]
        return next((slot for slot in there if slot.busy), next(iter(there), None))

    def _take(self, slot: Slot, answer: Answer) -> None:
        """Take in an answer about a slot; one about another attempt than the present one is dropped."""
        slot.heard_at = time.monotonic()
        if isinstance(answer, channel.Refused):
            if slot.busy:
                self._died(slot, slot.blame or answer.why)
        elif getattr(answer, "token", None) != slot.token or not slot.busy:
            note = f"Box {slot.box.name}, GPU {slot.name}: something about an attempt that had ended was dropped."
            self.runner.screen.note(note)
        elif isinstance(answer, Started):
            self._started(slot, answer)
        elif isinstance(answer, Ended):
            self._ended(slot, answer)
        elif slot.work is not None:
            self._heard(slot, slot.work, answer)

    def _started(self, slot: Slot, answer: Started) -> None:
        slot.phase = "load"
        if isinstance(slot.work, Company | RankWork) or not slot.cells:
            slot.go("loud")
            return
        process = WorkerProcess(answer.pid, answer.start_s, answer.boot, answer.token)
        about = {
            "pid": answer.pid, "start": answer.start, "log": f"{store.LOGS}/{slot.log}",
            pins.UNIT: slot.unit, "box": slot.where, "gpus": sorted(slot.gpus),
        }  # fmt: skip
        slot.work = WorkerSession(
            self.runner, process, about, slot, self.session, slot.cells, slot.pause
        )
        slot.work.begin()
        slot.go("loud")

    def _heard(self, slot: Slot, work: WorkerSession | Company | RankWork, answer: Answer) -> None:
        if isinstance(answer, SlotPhase):
            if answer.phase == "ready":
                slot.state = "warm"
            if answer.phase != slot.phase:  # else it only says that it is alive
                slot.phase = "warmup" if answer.phase == "ready" else answer.phase
                work.take(Progress(phase=answer.phase))
        elif isinstance(answer, SlotResult):
            self._note_begun(slot, work.remaining[0])
            slot.telemetry, slot.phase = answer.telemetry, "exit"
            slot.state = "ending"
            work.take(CellResult(outcome=answer.outcome, last=answer.last))
            if work.held is not None and not answer.last:
                slot.send(channel.StopAttempt(token=slot.token))  # it would wait for a GO for ever

    def _ended(self, slot: Slot, answer: Ended) -> None:
        """Record what a worker's end means, and put back what it has not measured."""
        slot.state = "idle"
        slot.telemetry = {**slot.telemetry, **answer.telemetry}
        self._keep_log(slot, answer.log)
        if isinstance(slot.work, RankWork):
            self._rank_ended(slot, slot.work, answer)
        elif not isinstance(slot.work, Company):
            for each in filter(lambda each: each.busy, slot.ranks):
                each.stop()
            if remaining := self._remaining(slot, _blamed(answer.end, slot.blame)):
                slot.queue.appendleft(remaining)
        if answer.lost:
            self._lose_slot(slot, answer.lost)

    def _remaining(self, slot: Slot, end: launcher.WorkerEnd) -> list[Cell]:
        """Record what the end of a worker means for its cells; return those that still need one."""
        if slot.work is not None:
            if end.why != "stopped":
                self._note_begun(slot, slot.work.remaining[0])
            slot.work.take(end)
            return list(slot.work.remaining)
        if end.why != "stopped":
            why = f"the worker could not be started: {end.detail}"
            failed = Outcome(cell="", status=Status.CRASH, phase="start", error=why)
            self.runner.put_all(slot.cells, self.session, failed, {pins.UNIT: slot.unit}, slot)
        return []

    def _rank_ended(self, slot: Slot, work: RankWork, answer: Ended) -> None:
        """End the engine of which a rank has ended; the reason is its session's."""
        leader = slot.leader
        needed = leader.busy and leader.cells and (leader.work is None or leader.work.held is None)
        if needed and answer.end.why != "stopped":
            rank = leader.members.index(slot)
            leader.blame = f"rank {rank} on box {slot.box.name} ended: {work.why(answer.end)}"
            leader.stop()

    def _note_begun(self, slot: Slot, cell: Cell) -> None:
        block = self.block(cell)
        self.begun.add(block)
        self.measured.setdefault(block, {}).setdefault(slot.unit, set()).add(self.session)

    def _keep_log(self, slot: Slot, text: str) -> None:
        if text:
            with launcher.opened(self.runner.logs / slot.log) as log:
                log.write(redact(text).encode())

    def _died(self, slot: Slot, why: str) -> None:
        """Interrupt what a slot measures whose process has died, and try it once more; then lose it."""
        slot.deaths += 1
        if slot.deaths > 1:
            self._lose_slot(slot, why)
            return
        self.runner.screen.note(f"Box {slot.box.name}, GPU {slot.name}: {why}; it is started anew")
        slot.state, leader = "idle", slot.leader
        left = leader.work.remaining if leader.work else leader.cells
        self._interrupt(leader, why)
        if left:
            leader.queue.appendleft(list(left))

    def _lose_slot(self, slot: Slot, why: str) -> None:
        """Interrupt what a slot measures; other slots take the cells that have no session there."""
        for each in self._all():
            if each is slot or (each.box is slot.box and slot.gpus and slot.gpus <= each.gpus):
                each.lost = why
        self.runner.screen.note(f"Box {slot.box.name}, GPU {slot.name}: {why}")
        self._leave(why)

    def _lose_box(self, box: Box) -> None:
        """Interrupt what a box measures; other boxes take the cells that have no session there."""
        self.runner.screen.note(f"Box {box.name} is gone: {box.gone}.")
        self._leave(f"box {box.name} is gone: {box.gone}")

    def _leave(self, why: str) -> None:
        """Interrupt what lost slots measure; deal out again what has no session there, and leave the rest pending."""
        left: list[list[Cell]] = []
        for slot in self._leaders():
            if slot.out:
                left += [slot.work.remaining if slot.work else slot.cells] * slot.busy
                left += slot.queue
                slot.queue.clear()
                self._interrupt(slot, why)
        living = {slot.unit for slot in self._living()}
        self.pins = {b: unit for b, unit in self.pins.items() if b in self.begun or unit in living}
        self._deal()
        self._queue(left)

    def _interrupt(self, slot: Slot, why: str) -> None:
        """Record that the session that had begun on a slot was cut off; end the workers that took part in it."""
        if isinstance(slot.work, WorkerSession):
            cell = slot.work.remaining[0]
            cut = Outcome(cell=cell.id, status=Status.INTERRUPTED, error=why)
            self.runner.put(cell, self.session, cut, slot.work.about, slot)
        for each in slot.members:
            each.work, each.cells = None, []
            if each.lost or each.box.gone or not each.busy:
                each.state = "idle"
            else:
                each.state, each.phase = "ending", "exit"
                each.stop()

    def _stop(self) -> None:
        """End all workers after a stop signal, and record what was cut off."""
        for slot in self._busy():
            slot.send(channel.StopAttempt(token=slot.token))
        deadline = time.monotonic() + STOPPED_WITHIN_S
        while self._busy() and time.monotonic() < deadline:
            for box, name, answer in self.boxes.hear(0.2):
                if answer is None:
                    self._stopped()
                elif (meant := self._meant(box, name)) is not None:
                    self._take(meant, answer)
        for box in {slot.box for slot in self._busy()}:
            box.leave("it did not stop in time")
        self._stopped()

    def _stopped(self) -> None:
        """Record what was cut off on boxes that are gone."""
        for slot in self._leaders():
            if slot.out and slot.busy:
                self._interrupt(slot, "the sweep was asked to stop")

    def _boxes_of(self, unit: str) -> str:
        """Return the box or boxes that a unit is on, in words."""
        names = [self.names.get(part, "?") for part in unit.split(pins.TOGETHER)]
        return f"box {' and box '.join(dict.fromkeys(names))}"

    def _note_place(self, box: Box) -> None:
        """Write what a box is, unless the run has it."""
        here = box.here
        assert here is not None
        if any(unit not in self.names for unit in here.units):
            place = Place(
                at=utc_now("milliseconds"), name=box.name, units=here.units, machine=here.machine,
                environment=here.environment, environment_digest=here.digest,
                daemons=here.daemons,
            )  # fmt: skip
            self.runner.run.append(place)
            self.names |= dict.fromkeys(here.units, box.name)


def _blamed(end: launcher.WorkerEnd, blame: str) -> launcher.WorkerEnd:
    """Return the end of a worker; if it was stopped because a rank elsewhere had ended, with that reason."""
    if not blame or end.why != "stopped":
        return end
    return msgspec.structs.replace(end, why="rank", detail=blame)


def _some(names: Sequence[str]) -> str:
    """Return some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _units_of(runner: Runner) -> Iterator[tuple[str, str]]:
    """Yield the units that a run has a place of, with the name of their box."""
    for line in runner.run.log:
        if isinstance(line, Place):
            yield from ((unit, line.name) for unit in line.units)
