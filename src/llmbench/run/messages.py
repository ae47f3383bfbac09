"""Messages between a worker and its launcher: one JSON line each, on a separate pipe.

A worker's stdout and stderr go to its log, because engines print there.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from llmbench.results import lines as results_lines
from llmbench.results.record import Outcome  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 64 * 2**20
"""A longer line is not a valid message."""


class Progress(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="progress", omit_defaults=True
):
    """A heartbeat: the worker enters a phase, or the next iteration of it.

    `ready` is said by a worker that was told to wait before its clock runs: it is warm, and needs a GO.
    """

    phase: Literal["load", "warmup", "ready", "iteration", "memory"]
    cell: str | None = None
    iteration: int = 0


class CellResult(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="result"):
    """The outcome of one cell, successful or not; with `last` the worker ends here, even if cells are left."""

    outcome: Outcome
    last: bool


Message: TypeAlias = Progress | CellResult

ALIVE_S = 2.0
"""How often a worker says that it lives, where it holds ranks of an engine on another box; no clock of its own runs."""
GO = b"go\n"
"""The launcher's answer to a result, which is saved, and to `ready`: go on."""

_encoder = msgspec.json.Encoder(enc_hook=str)  # an engine's facts may have types of its own
_decoder = msgspec.json.Decoder(Progress | CellResult)


def send(fd: int, message: Message) -> None:
    """Write one whole message."""
    data = memoryview(_encoded(message) + b"\n")
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def alive(fd: int) -> Iterator[None]:
    """Say every few seconds that a worker lives which has nothing else to say, until the end of the context."""
    ended = threading.Event()

    def say() -> None:
        with contextlib.suppress(OSError):  # the launcher is gone
            while not ended.wait(ALIVE_S):
                send(fd, Progress(phase="load"))

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _encoded(message: Message) -> bytes:
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:  # such as a path in an error that is not UTF-8
        text = json.dumps(msgspec.to_builtins(message, enc_hook=str), ensure_ascii=False)
        return results_lines.spelled(text).encode()


def read_line(fd: int) -> bytes:
    """Read one line without waiting for more; empty at the end of the pipe."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(fd, 2**16)
        if not data:
            return b""
        line += data
    return line


class Reader:
    """Splits a stream of bytes into messages."""

    def __init__(self) -> None:
        """Begin with an empty buffer."""
        self.rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages completed by `data`; raise ValueError for an invalid one."""
        self.rest += data  # in place, because a long line comes in thousands of pieces
        if b"\n" in data:
            *lines, self.rest = self.rest.split(b"\n")
            for line in lines:
                yield self._decode(line)
        if len(self.rest) > LONGEST:
            raise ValueError(f"a line of over {LONGEST:,} bytes")

    @staticmethod
    def _decode(line: bytearray) -> Message:
        try:
            message: Message = _decoder.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"{error}: {bytes(line[:80])!r}") from error
        return message
