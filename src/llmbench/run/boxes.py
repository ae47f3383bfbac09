"""The boxes of a sweep, seen from the sweep: a process here for each, whose pipes lead to the agent there."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Self

from llmbench.errors import RunError
from llmbench.machine import units
from llmbench.machine.differences import differing, flat
from llmbench.redact import redact
from llmbench.run import channel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from llmbench.places import HostCommand
    from llmbench.run.channel import Answer, Device, Here, Order

JOIN_WITHIN_S = 120.0
"""How long a box may take to say what it is; its Python may come from a cold network file system."""
SILENT_S = 30.0
"""A box that says nothing for so long is gone: its agent's heartbeat comes every second."""
PING_S = 1.0
"""How often each agent hears that the sweep is there."""
LEAVE_WITHIN_S = 20.0
"""How long an agent may take to end what it started; see agent.LEAVE_WITHIN_S."""


class Box:
    """One box: its agent's process here, and what the agent said that it is."""

    def __init__(self, host: HostCommand) -> None:
        """Start the command; it runs until its input is closed."""
        self.host, self.name = host, host.name
        self.here: Here | None = None
        self.gone = ""
        self.heard_at = time.monotonic()
        self._lines, self._unsent = channel.Lines(), bytearray()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self.process = subprocess.Popen(
                host.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                start_new_session=True,  # keeps a Ctrl-C meant for the sweep away from it
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise RunError(
                f"--places: {host.command[0]}: cannot be run: {error.strerror}."
            ) from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.into, self.out = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.into, False)
        os.set_blocking(self.out, False)

    def send(self, order: Order, slot: str = channel.AGENT.decode()) -> None:
        """Send an order; what the pipe does not take now goes with `flush`."""
        self._unsent += channel.line(slot, order)
        self.flush()

    def flush(self) -> None:
        """Write as much as the pipe takes."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self.into, self._unsent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()  # the end of its output says so

    @property
    def has_unsent(self) -> bool:
        """Return whether the pipe has not taken all yet."""
        return bool(self._unsent)

    def hear(self) -> Iterator[tuple[str, Answer]]:
        """Yield what has arrived, each with its slot; set `gone` at the end or for what is no answer."""
        try:
            data = os.read(self.out, 2**20)
        except BlockingIOError:
            return
        if not data:
            self.leave(self._last_words())
        self.heard_at = time.monotonic()
        try:
            for line in self._lines.feed(data):
                slot, body = channel.split(line)
                yield slot.decode(), channel.answer(body)
        except (*channel.NOT_UNDERSTOOD, ValueError) as error:
            said = bytes(data[:80])
            self.leave(f"it does not talk like an agent of this version ({error}): {said!r}")

    def leave(self, why: str) -> None:
        """Give the box up: what its agent started ends when the agent's input does."""
        self.gone = self.gone or redact(why)
        self._unsent.clear()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Close the pipes, and wait until the agent has ended what it started."""
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        try:
            self.process.wait(LEAVE_WITHIN_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._errors.close()

    def _last_words(self) -> str:
        """Return how the process ended, with the last line that it wrote to its standard error."""
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "its channel was closed"
        size = os.fstat(self._errors.fileno()).st_size
        tail = os.pread(self._errors.fileno(), 4096, max(0, size - 4096))
        lines = tail.decode("utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"its command ended with code {code}{last and f': {last}'}"


class Boxes:
    """The boxes that have joined, in the order in which their hosts were given, and why others have not."""

    def __init__(
        self, hosts: Sequence[HostCommand], gpus: list[int] | None, device: Device
    ) -> None:
        """Start an agent on each host, and wait until each has said what it is.

        Args:
            hosts: the machines.
            gpus: the numbers of the GPUs to use on each; None for all, and the processors if there is none.
            device: what the sweep asks for: cpu, cuda or auto.

        Raises:
            RunError: none could join.

        """
        self.refused: list[str] = []
        self.all: list[Box] = []
        self._pinged_at = math.inf
        try:
            for host in hosts:
                self.all.append(Box(host))
            self._join(channel.Join(gpus=gpus, device=device))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Keep the boxes until the end of the context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all agents."""
        self.close()

    @property
    def living(self) -> list[Box]:
        """Return the boxes that have not been given up."""
        return [box for box in self.all if not box.gone]

    @property
    def first(self) -> Here:
        """Return what the first box is: all others are of its kind."""
        return self.heres[0]

    @property
    def heres(self) -> list[Here]:
        """Return what each box is."""
        return [box.here for box in self.all if box.here]

    def own(self, run: str) -> None:
        """Tell every agent which run it measures for; from now on each hears that the sweep is there."""
        self._pinged_at = 0.0
        for box in self.living:
            box.send(channel.Own(run=run))

    def hear(
        self, timeout_s: float, interrupt_fd: int | None = None
    ) -> Iterator[tuple[Box, str, Answer | None]]:
        """Wait, and yield what boxes say, with the slot that it is about; None if the box is gone."""
        self.ping()
        by_fd = {box.out: box for box in self.living}
        taking = {box.into: box for box in self.living if box.has_unsent}
        also = [] if interrupt_fd is None else [interrupt_fd]
        ready, free, _ = select.select([*by_fd, *also], [*taking], [], min(timeout_s, PING_S))
        for fd in free:
            taking[fd].flush()
        for fd in ready:
            if (box := by_fd.get(fd)) is not None:
                for slot, answer in box.hear():
                    yield box, slot, answer
        for box in by_fd.values():
            if not box.gone and box.here and time.monotonic() - box.heard_at > SILENT_S:
                box.leave(f"it has said nothing for {SILENT_S:.0f} s")
            if box.gone:
                yield box, "", None

    def ping(self) -> None:
        """Tell the agents that the sweep is there, unless they have just heard it."""
        if time.monotonic() - self._pinged_at > PING_S:
            self._pinged_at = time.monotonic()
            for box in self.living:
                box.send(channel.Ping())

    def refuse_other_kinds(self, environment: Mapping[str, Any]) -> None:
        """Give up the boxes whose environment is of another kind than this one; say in what it differs."""
        kind = flat(units.kind_of(environment))
        for box in list(self.all):
            assert box.here is not None
            if changes := differing(kind, flat(units.kind_of(box.here.environment))):
                self._refuse(box, f"is of another kind than the run ({'; '.join(changes)})")

    def close(self) -> None:
        """End all agents, at the same time."""
        for box in self.living:
            with contextlib.suppress(OSError):
                assert box.process.stdin is not None
                box.process.stdin.close()
        for box in self.living:
            box.close()

    def _join(self, join: channel.Join) -> None:
        """Wait for the answer of every box."""
        waiting = list(self.all)
        for box in waiting:
            box.send(join)
        deadline = time.monotonic() + JOIN_WITHIN_S
        while waiting := [box for box in self.all if box.here is None]:
            if time.monotonic() > deadline:
                for box in waiting:
                    self._refuse(box, f"did not answer within {JOIN_WITHIN_S:.0f} s")
            for box, _, answer in self.hear(0.5):
                if isinstance(answer, channel.Here):
                    box.here = answer
                elif isinstance(answer, channel.Refused):
                    self._refuse(box, answer.why)
                elif answer is None and box in self.all:
                    self._refuse(box, box.gone)
        self._refuse_doubles()
        if not self.all:
            raise RunError(f"no box can be used. {' '.join(self.refused)}")

    def _refuse_doubles(self) -> None:
        """Give up a box that has a unit of an earlier one."""
        owners: dict[str, str] = {}
        for box in list(self.all):
            assert box.here is not None
            known = [owners[unit] for unit in box.here.units if unit in owners]
            if known:
                self._refuse(
                    box,
                    f"is not used: it is the same machine as {known[0]}, or has its name; a "
                    f"{units.HOST} of its own there tells them apart",
                )
            else:
                owners |= dict.fromkeys(box.here.units, box.name)

    def _refuse(self, box: Box, why: str) -> None:
        self.refused.append(
            f"Box {box.name}: {redact(why).removeprefix(box.name + ': ').rstrip('.')}."
        )
        self.all.remove(box)
        if not box.gone:
            box.leave(why)
