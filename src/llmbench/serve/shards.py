"""More client processes than one: each sends its share of one load, and nothing is shared while it runs but counts.

A shard is forked, opens its connections, and begins at the same moment of the monotonic clock as all others. It writes
down how far it is, 20 times a second, where the process that began it reads that and says when the window is over.
"""

from __future__ import annotations

import mmap
import os
import pickle
import select
import signal
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench import interpreter
from llmbench.errors import LoadFailed
from llmbench.serve.stream import now, offset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmbench.serve.stream import Client

MOST = 64
BEGIN_NS = 50_000_000
"""How long after the last shard is ready all of them begin."""
READY_S = 60.0
LOOK_S = 0.05
COUNTS = ("ready", "received", "finished", "succeeded", "lost", "closed", "capped", "sent")
BEGIN, OPENED, LAST = 0, 1, 2
"""What the first process writes: when all begin, when the window has opened, and until when requests count."""


class Share(NamedTuple):
    """One shard's part of a load: every `of`-th request, from its own number on."""

    number: int
    of: int

    def streams(self, whole: int) -> int:
        """Return how many of a closed loop's streams are this shard's."""
        return len(range(self.number, whole, self.of))

    def global_number(self, own: int) -> int:
        """Return the number in the whole load of this shard's request."""
        return self.number + own * self.of


class ShardResult(NamedTuple):
    """What a shard brings back: its replies, its clock's offsets, and in which share of the window it was busy."""

    answers: list[Any]
    offsets: list[tuple[int, int]]
    busy_share: float


class Board:
    """Whole numbers that all shards see: three from the first process, and counts from each shard."""

    def __init__(self, shards: int) -> None:
        """Begin with zeros."""
        self._cells = memoryview(mmap.mmap(-1, 8 * (3 + shards * len(COUNTS)))).cast("q")

    def __getitem__(self, place: int) -> int:
        """Return what the first process wrote."""
        return self._cells[place]

    def __setitem__(self, place: int, value: int) -> None:
        """Write as the first process."""
        self._cells[place] = value

    def tell(self, shard: int, client: Client) -> None:
        """Write how far a shard is."""
        start = 3 + shard * len(COUNTS)
        counts = (1, *(int(getattr(client, name)) for name in COUNTS[1:]))
        for place, count in enumerate(counts, start):
            self._cells[place] = count

    def counts(self, name: str) -> list[int]:
        """Return a count of every shard."""
        return self._cells[3 + COUNTS.index(name) :: len(COUNTS)].tolist()


class Shards:
    """A load in several processes; it has the figures of a `Client`, those of all shards together."""

    reopens = False

    def __init__(
        self,
        of: int,
        cores: Sequence[int],
        client: Callable[[Share], Client],
        put_on: Callable[[Client, Share, int, Callable[[Client, int], int | None]], None],
    ) -> None:
        """Store the parts.

        Args:
            of: how many shards.
            cores: for each its own; empty if there are not as many.
            client: opens a shard's connections.
            put_on: sends its share from a moment on, until the function that it is given says that it is over.

        """
        self._of, self._cores, self._client, self._put_on = of, cores, client, put_on
        self._board = Board(of)
        self.began_ns = 0
        self.bytes_at: list[tuple[int, int]] = []
        self.seen: list[ShardResult] = []

    def __getattr__(self, name: str) -> int:
        if name not in COUNTS:
            raise AttributeError(name)
        return sum(self._board.counts(name))

    @property
    def numbered(self) -> int:
        """Return the number after the highest of any request; they are numbered in turn over the shards."""
        return self._of * max(self._board.counts("sent"))

    def run(self, steer: Callable[[Any, int], int | None], opened: Callable[[], int]) -> None:
        """Put the load on until `steer` says when its window was over, and all that was due in it has ended.

        `opened` returns when the window opened, 0 before. Raises LoadFailed if a shard fails.
        """
        forks = [self._forked(Share(number, self._of)) for number in range(self._of)]
        pipes = [pipe for _, pipe in forks]
        try:
            self._await_all(pipes)
            self.began_ns = self._board[BEGIN] = now() + BEGIN_NS
            while not self._board[LAST] and not select.select(pipes, [], [], LOOK_S)[0]:
                moment = now()
                self.bytes_at.append((moment, self.received))
                last = steer(self, moment)
                self._board[OPENED] = opened()
                self._board[LAST] = last or 0
            self._board[LAST] = (
                self._board[LAST] or now()
            )  # one has ended by itself, which it must not
            self.seen = [_received(pipe) for pipe in pipes]
        finally:
            for pid, pipe in forks:
                os.close(pipe)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _await_all(self, pipes: list[int]) -> None:
        """Wait until every shard has its connections; one that cannot open them ends the load."""
        deadline = time.monotonic() + READY_S
        while sum(self._board.counts("ready")) < self._of:
            if failed := select.select(pipes, [], [], LOOK_S)[0]:
                _received(failed[0])
            if time.monotonic() > deadline:
                raise LoadFailed(f"a client process had no connections after {READY_S:.0f} s")

    def _forked(self, share: Share) -> tuple[int, int]:
        """Begin a shard and return its process and the pipe that its results come through."""
        reading, writing = os.pipe()
        parent = os.getpid()
        if pid := os.fork():
            os.close(writing)
            return pid, reading
        try:
            interpreter.die_with_parent()
            if os.getppid() != parent:
                os._exit(70)
            os.close(reading)
            try:
                data = pickle.dumps(self._shard(share))
            except BaseException as error:  # noqa: BLE001 - whatever it is, the first process tells it
                traceback.print_exc()
                data = pickle.dumps(str(error) or type(error).__name__)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(data)
        finally:
            os._exit(0)

    def _shard(self, share: Share) -> ShardResult:
        """Send a share; runs in the shard's own process."""
        if self._cores:
            os.sched_setaffinity(0, {self._cores[share.number]})
        client, board = self._client(share), self._board
        marks: list[tuple[int, float]] = []

        def steer(client: Client, moment: int) -> int | None:
            board.tell(share.number, client)
            if len(marks) < bool(board[OPENED]) + bool(board[LAST]):
                marks.append((moment, time.thread_time()))
            return board[LAST] or None

        board.tell(share.number, client)
        while not board[BEGIN]:
            time.sleep(0.001)
        self._put_on(client, share, board[BEGIN], steer)
        board.tell(share.number, client)
        client.offsets.append((now(), offset()))
        client.parse_all()
        client.close()
        answers = [
            reply._replace(number=share.global_number(reply.number)) for reply in client.answers
        ]
        return ShardResult(answers, client.offsets, _busy(marks))


def _busy(marks: list[tuple[int, float]]) -> float:
    """Return the share of the time between two marks in which a thread was busy."""
    if len(marks) < 2:
        return 0.0
    (begin, spent), (end, spent_then) = marks
    return (spent_then - spent) / ((end - begin) / 1e9)


def _received(pipe: int) -> ShardResult:
    """Return what a shard brings back; raise LoadFailed with its own words, or if it died."""
    parts = []
    while part := os.read(pipe, 2**20):
        parts.append(part)
    found = pickle.loads(b"".join(parts)) if parts else "it died"  # noqa: S301 - from our own fork
    if isinstance(found, str):
        raise LoadFailed(f"a client process ended: {found}")
    assert isinstance(found, ShardResult)
    return found
