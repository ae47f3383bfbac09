"""What a sweep and the agents of its boxes say to each other: lines of a slot's name, a space, and one JSON object.

A slot is one GPU of a box or several together, named by their numbers (`0`, `0,1`), or the processors (`cpu`). The
agent passes a line on without reading the object; its own lines have the name `-`.
"""

from __future__ import annotations

import os
import select
import signal
from typing import Any, Literal, TypeAlias

import msgspec

from llmbench.results.record import Job, Outcome  # noqa: TC001 - msgspec reads the annotations
from llmbench.run.launcher import WorkerEnd  # noqa: TC001 - likewise
from llmbench.run.messages import LONGEST

AGENT = b"-"
"""The name in lines of an agent itself."""
CPU = "cpu"
Device: TypeAlias = Literal["cpu", "cuda", "auto"]


class Join(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="join"):
    """The first line to an agent.

    `gpus` chooses among its GPUs by number; None means all, or the processors if it has none. `device` is what the
    sweep asks for.
    """

    gpus: list[int] | None
    device: Device


class Own(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="own"):
    """Says which run the agent belongs to: what an earlier agent of the same run has left is killed."""

    run: str


class Start(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="start"):
    """Start a worker for a job; `token` names this attempt in every message about it, `log` the worker's log."""

    token: str
    log: str
    job: Job


class Go(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="go"):
    """Go on: what was said is written down, and nothing on the box forbids it."""

    token: str


class StopAttempt(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="stop"):
    """End the worker of this attempt."""

    token: str


class Kill(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="kill"):
    """Kill a slot that no longer answers: the agent does it, and does not pass it on."""

    slot: str


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="ping"):
    """Says that the sweep is there. It also shows an end of the channel that is closed, which silence would not."""


class NewRound(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="round"):
    """Begin the next workers from fork servers of their own."""


Order: TypeAlias = Join | Own | Start | Go | StopAttempt | Kill | Ping | NewRound


class Here(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="here"):
    """An agent's answer to Join: what its box is.

    Attributes:
        host: the box's name.
        units: the ids of the GPUs chosen, or of the processors.
        gpus: the numbers of the GPUs chosen; empty for processors.
        users: the processes that use these GPUs.
        machine: facts of the machine, with the chosen GPUs only.
        environment: facts about the numbers' environment, and their digest.
        address: by which other boxes reach it.
        daemons: the names of processes of cluster engines that run there.

    """

    host: str
    units: list[str]
    gpus: list[int]
    users: list[int] = []
    machine: dict[str, Any]
    environment: dict[str, Any]
    digest: str
    address: str = ""
    daemons: list[str] = []


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="refused"):
    """An agent cannot take part, or a slot cannot be started."""

    why: str


class Alive(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="alive"):
    """An agent's heartbeat, when it has nothing else to say."""


class Started(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="started"):
    """A worker has been forked; it gets its job after a GO."""

    token: str
    pid: int
    start_s: float
    boot: str
    start: str


class SlotPhase(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="phase"):
    """A worker has entered a phase. `ready` waits for a GO."""

    token: str
    phase: Literal["load", "warmup", "ready", "iteration", "memory"]


class SlotResult(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="measured"):
    """The outcome of a cell, and what the device's monitor saw; unless it is the `last`, it waits for a GO."""

    token: str
    outcome: Outcome
    last: bool
    telemetry: dict[str, Any]


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="ended"):
    """A worker has ended and left no process.

    Attributes:
        end: how it ended.
        log: the end of its log, without secrets.
        telemetry: what the device's monitor saw.
        lost: why the slot cannot measure any more; empty if it can.

    """

    token: str
    end: WorkerEnd
    log: str = ""
    telemetry: dict[str, Any] = {}
    lost: str = ""


Answer: TypeAlias = Here | Refused | Alive | Started | SlotPhase | SlotResult | Ended

_encoder = msgspec.json.Encoder(enc_hook=str)
_orders: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
NOT_UNDERSTOOD = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def line(slot: str, message: Order | Answer) -> bytes:
    """Return a message as a line of a slot, or of the agent."""
    return b"%s %s\n" % (slot.encode(), _encoder.encode(message))


def split(whole: bytes) -> tuple[bytes, bytes]:
    """Return the slot of a line, and its object."""
    slot, _, body = whole.partition(b" ")
    return slot, body


def order(body: bytes) -> Order:
    """Return an order; raise one of NOT_UNDERSTOOD for anything else."""
    return _orders.decode(body)


def answer(body: bytes) -> Answer:
    """Return an answer; raise one of NOT_UNDERSTOOD for anything else."""
    return _answers.decode(body)


class Lines:
    """Splits a stream of bytes into lines."""

    def __init__(self) -> None:
        """Begin with an empty buffer."""
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines completed by `data`; raise ValueError for one that is longer than any message."""
        self._rest += data
        if len(self._rest) > 2 * LONGEST and b"\n" not in data:
            raise ValueError(f"a line of over {2 * LONGEST:,} bytes")
        if b"\n" not in data:
            return []
        *lines, self._rest = self._rest.split(b"\n")
        return [bytes(each) for each in lines]


class Orders:
    """The orders to a slot, as they come through a pipe; a stop, or the pipe's end, interrupts what it does."""

    def __init__(self, fd: int) -> None:
        """Take orders from `fd`."""
        self.fd, self.token = fd, ""
        self._lines, self._waiting = Lines(), list[Order]()
        self._ended = False

    @property
    def signal(self) -> int | None:
        """Return SIGTERM if the attempt that is going on is to be stopped; never wait."""
        while not self._ended and select.select([self.fd], [], [], 0)[0]:
            self._read()
        stop = any(
            isinstance(each, StopAttempt) and each.token == self.token for each in self._waiting
        )
        return signal.SIGTERM if stop or self._ended else None

    def begin(self, token: str) -> None:
        """Note the attempt that goes on from now."""
        self.token = token

    def go(self) -> bool:
        """Wait for the GO of the attempt that goes on; return False if it is to be stopped instead."""
        while self.signal is None:
            for each in self._waiting:
                if isinstance(each, Go) and each.token == self.token:
                    self._waiting.remove(each)
                    return True
            select.select([self.fd], [], [])
        return False

    def next(self) -> Order | None:
        """Wait for the next order that is not about an attempt that has ended; None at the pipe's end."""
        while True:
            while self._waiting:
                each = self._waiting.pop(0)
                if not isinstance(each, Go | StopAttempt):
                    return each
            if self._ended:
                return None
            self._read()

    def _read(self) -> None:
        data = os.read(self.fd, 2**16)
        self._ended = not data
        self._waiting += map(order, self._lines.feed(data))
