"""The agent: llmbench's process on a box, with its standard input and output at the sweep.

It says what the box is, starts a slot for each GPU that is asked for, and passes lines between the slots and the sweep.
It ends, with everything that it started, when its input does.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from llmbench import interpreter
from llmbench.errors import LlmbenchError
from llmbench.machine import gpus, info, nvidia, processes, units
from llmbench.measure import telemetry
from llmbench.run import channel
from llmbench.run.channel import AGENT, CPU, Here, Join, Kill, Own, Ping, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

BEAT_S = 1.0
"""How often an agent says that it is alive, which takes 0.1 ms of CPU."""
SWEEP_SILENT_S = 60.0
"""A sweep that has asked for work and says nothing for so long is gone, or stopped: it pings every second."""
LEAVE_WITHIN_S = 15.0
"""How long a slot may take to end its worker, which may take processes.PATIENCE_S to die."""


def main() -> None:
    """Serve the sweep at the other end of standard input and output."""
    out = os.dup(1)
    os.dup2(2, 1)  # nothing else may be printed there
    Agent(out).serve()


class _RunningSlot:
    """A running slot and the pipes to it."""

    def __init__(self, name: str, visible: dict[str, str], mark: str) -> None:
        self.name, self.lines = name, channel.Lines()
        self.process = subprocess.Popen(
            interpreter.command("llmbench.run.slot", mark),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | interpreter.SAFE | visible,
            start_new_session=True,  # so that a signal to the agent's group does not hit it
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.into, self.fd = self.process.stdin, self.process.stdout.fileno()


class Agent:
    """The agent of one box."""

    def __init__(self, out: int) -> None:
        """Begin without slots; `out` takes the lines to the sweep."""
        self.out, self.lines = out, channel.Lines()
        self.slots: dict[str, _RunningSlot] = {}
        self.uuids: list[str] = []
        self.mark = ""
        self.pinged_at = math.inf

    def serve(self) -> None:
        """Pass lines on until the sweep's end is closed."""
        try:
            while self._pass_on():
                pass
        except BrokenPipeError:
            pass  # the sweep is gone
        finally:
            self._leave()

    def _pass_on(self) -> bool:
        """Wait for lines and pass them on; return False at the end of the input, or if the sweep is silent."""
        by_fd = {slot.fd: slot for slot in self.slots.values()}
        ready, _, _ = select.select([0, *by_fd], [], [], BEAT_S)
        for fd in ready:
            data = os.read(fd, 2**16)
            if fd != 0:
                self._from_slot(by_fd[fd], data)
            elif not data:
                return False
            else:
                for line in self.lines.feed(data):
                    self._from_sweep(line)
        if not ready:
            self._say(channel.Alive())
        return time.monotonic() - self.pinged_at < SWEEP_SILENT_S

    def _from_slot(self, slot: _RunningSlot, data: bytes) -> None:
        if not data:
            del self.slots[slot.name]
            code = slot.process.wait()
            self._say(Refused(why=f"slot {slot.name} ended with code {code}"), slot.name)
        for line in slot.lines.feed(data):
            self._write(b"%s %s\n" % (slot.name.encode(), line))

    def _from_sweep(self, line: bytes) -> None:
        name, body = channel.split(line)
        if name == AGENT:
            self._order(channel.order(body))
            return
        with contextlib.suppress(
            BrokenPipeError
        ):  # a slot that has died is met by its output's end
            slot = self._slot(name.decode())
            slot.into.write(body + b"\n")
            slot.into.flush()

    def _order(self, order: channel.Order) -> None:
        if isinstance(order, Ping):
            self.pinged_at = time.monotonic()
        elif isinstance(order, Kill):
            if order.slot in self.slots:
                os.killpg(self.slots[order.slot].process.pid, signal.SIGKILL)
        elif isinstance(order, Join):
            try:
                self._say(self._joined(order))
            except LlmbenchError as why:
                self._say(Refused(why=str(why)))
        elif isinstance(order, Own):
            processes.adopt_orphans()
            mark = processes.Mark.of_agent(order.run, units.host())
            self.mark = str(mark)
            processes.kill_left_over(mark)

    def _joined(self, join: Join) -> Here | Refused:
        """Choose GPUs, or the processors, and return what the box is."""
        host, machine, wanted = units.host(), info.machine(), join.gpus
        address, daemons = units.address(), processes.daemons()
        none = not machine["gpus"] and wanted is None and not gpus.present()
        if join.device == "cpu" or (join.device == "auto" and none):
            facts, digest = info.environment(machine)
            return Here(
                host=host, units=[units.unit_of_cpu()], gpus=[], machine=machine,
                environment=facts, digest=digest, address=address, daemons=daemons,
            )  # fmt: skip
        self.uuids = units.uuids()
        chosen = list(range(len(self.uuids))) if wanted is None else list(wanted)
        if refused := self._refusal(chosen, machine["gpus"]):
            return Refused(why=refused)
        machine["gpus"] = [machine["gpus"][number] for number in chosen]
        facts, digest = info.environment(machine)
        names = [units.unit_of_gpu(self.uuids[number]) for number in chosen]
        return Here(
            host=host, units=names, gpus=chosen, machine=machine, environment=facts, digest=digest,
            address=address, daemons=daemons, users=telemetry.Gpu(*chosen).others({os.getpid()}) or [],
        )  # fmt: skip

    def _refusal(self, chosen: Sequence[int], cards: Sequence[dict[str, object]]) -> str:
        """Return why these GPUs cannot be measured on; empty if they can."""
        if not self.uuids:
            return f"no GPU can be used ({gpus.trouble() or f'NVML says: {nvidia.error()}'})"
        if missing := [number for number in chosen if number >= len(self.uuids)]:
            return f"there is no GPU {missing[0]}; the numbers end at {len(self.uuids) - 1}"
        first = {**cards[chosen[0]], "uuid_hash": None}
        for number in chosen:
            if {**cards[number], "uuid_hash": None} != first:
                names = [cards[each].get("name") for each in (chosen[0], number)]
                return (
                    f"GPU {number} ({names[1]}) is not like GPU {chosen[0]} ({names[0]}); choose GPUs of one kind "
                    "and one setting with --gpus"
                )
        return ""

    def _slot(self, name: str) -> _RunningSlot:
        if name not in self.slots:
            numbers = [] if name == CPU else [int(number) for number in name.split(",")]
            visible = units.visible([self.uuids[number] for number in numbers]) if numbers else {}
            self.slots[name] = _RunningSlot(name, visible, self.mark)
        return self.slots[name]

    def _say(self, message: channel.Answer, slot: str = AGENT.decode()) -> None:
        self._write(channel.line(slot, message))

    def _write(self, line: bytes) -> None:
        data = memoryview(line)
        while data:
            data = data[os.write(self.out, data) :]

    def _leave(self) -> None:
        """End every slot: each ends its worker when its input ends. Whoever writes to us learns now that we end."""
        os.close(0)
        for slot in self.slots.values():
            with contextlib.suppress(BrokenPipeError):
                slot.into.close()
        deadline = time.monotonic() + LEAVE_WITHIN_S
        for slot in self.slots.values():
            try:
                slot.process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(slot.process.pid, signal.SIGKILL)
