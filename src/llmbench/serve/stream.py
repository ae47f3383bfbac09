"""The client's loop: one thread, one epoll set, sockets of its own, and the time at which the kernel received bytes.

A client that takes the time after its own work has its lateness in the number. Linux stamps every segment when it
arrives (SO_TIMESTAMPNS), so that a late loop is measured here instead of being in the number. Connections are opened
and requests written before the first is sent; while streams are live nothing is parsed but the end of an answer. A
request counts from the moment it was due, and nothing is ever sent a second time.

Measured with a server that logs what it sends, and the rest of the machine idle: see `scripts/bench-serve`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import socket
import ssl
import struct
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SO_TIMESTAMPNS = 35
"""Linux's number of the option; Python has no name for it."""
ANCILLARY = 64
READ = 65536
LAST_CHUNK = b"\r\n0\r\n\r\n"
"""How an answer in chunks ends, with the end of the chunk before."""
CLOSES_WITHIN_S = 0.2
"""How soon after an answer a server closes a connection, if it takes each for one request only."""
SEND_BUFFER = 2**20
CLOCK_MONOTONIC, TFD_NONBLOCK, TFD_TIMER_ABSTIME = 1, 0o4000, 1
PARSE_BELOW_NS = 3_000_000
"""An answer is parsed between two reads only if nothing is due within this time: parsing one took up to 2 ms."""
OFFSET_EVERY_NS = 1_000_000_000

SUCCEEDS = b" 200 "
"""What the first line of such an answer has after the version of HTTP."""

STAMP = struct.Struct("qq").unpack
now = time.monotonic_ns


class Piece(NamedTuple):
    """What one read returned: its bytes, the kernel's stamp (realtime ns; 0 if none), and the clock after it."""

    data: bytes
    kernel_ns: int
    user_ns: int


class RawAnswer(NamedTuple):
    """One request and all that came back; times are monotonic nanoseconds, but the kernel's stamps.

    `trouble` says what ended it early: `cut`, `refused`, `not sent`; empty if the answer ended by itself.
    """

    number: int
    due_ns: int
    sent_ns: int
    pieces: list[Piece]
    ended_ns: int
    trouble: str = ""


class _Connection:
    __slots__ = ("due", "expected", "number", "pieces", "rest", "sent", "sock", "tls")

    def __init__(self, sock: socket.socket, tls: _Tls | None = None) -> None:
        self.sock, self.tls = sock, tls
        self.pieces: list[Piece] = []
        self.number = self.due = self.sent = 0
        self.rest = b""
        self.expected = 0


class _Tls:
    """TLS over a socket whose reads stay ours, so that the kernel's stamps are not lost."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Shake hands on a socket that blocks; raise OSError if the server is not who it should be."""
        self.come, self.go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.of = context.wrap_bio(self.come, self.go, server_hostname=host)
        while True:
            try:
                self.of.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(self.go.read())
                data = sock.recv(READ)
                if not data:
                    raise ConnectionError("the server ended the handshake") from None
                self.come.write(data)
            else:
                sock.sendall(self.go.read())
                return

    def sealed(self, data: bytes) -> bytes:
        """Return what goes over the wire for these bytes."""
        self.of.write(data)
        return self.go.read()

    def opened(self, data: bytes) -> bytes:
        """Return what these bytes from the wire hold; empty for a part of a record."""
        self.come.write(data)
        parts = []
        try:
            while part := self.of.read(READ):
                parts.append(part)
        except ssl.SSLError:
            pass  # more is wanted; a broken record has no answer, which is noticed
        return b"".join(parts)


class Client:
    """One run of one load against one address.

    Attributes:
        began_ns: when the load began.
        answers: every request that ended, parsed or not, as `parse` returned it.
        offsets: pairs of a monotonic time and realtime minus monotonic then, in nanoseconds.
        reopens: whether each request gets a connection of its own, opened when it is due: a server that takes one
            request a connection may hold a thread for each that waits.
        lost: requests whose connection was lost, in whose place another was opened.
        closed: connections that the server closed while they waited for a request.
        finished: requests that have ended, however.
        succeeded: whether an answer has begun as one that succeeds.
        capped: requests of an open loop that were due while all connections were in use.
        bytes_at: pairs of a time and the bytes received until then, one pair a tick.

    """

    def __init__(  # noqa: PLR0913 - one argument each, by name
        self,
        address: tuple[str, int],
        streams: int,
        request: Callable[[int], bytes],
        parse: Callable[[RawAnswer], Any],
        *,
        stamps: bool = True,
        drain_ns: int = 120_000_000_000,
        tls: ssl.SSLContext | None = None,
        reopens: bool = False,
    ) -> None:
        """Open the connections, unless each request gets its own; raise OSError if the server does not take them.

        Args:
            address: host and port.
            streams: how many connections.
            request: the bytes of a request, by its number; called with 0, 1, 2, ... in turn.
            parse: what becomes of an answer; called while nothing is due, or after the run.
            stamps: whether to ask the kernel for the time at which bytes arrived.
            tls: how to speak TLS; None = not at all.
            reopens: whether each request gets a connection of its own.
            drain_ns: how long after the last due time an answer may take before it counts as failed.

        """
        self.drain_ns, self.tls, self.reopens = drain_ns, tls, reopens
        self.address, self.request, self.parse, self.stamps = address, request, parse, stamps
        self.answers: list[Any] = []
        self.offsets: list[tuple[int, int]] = []
        self.bytes_at: list[tuple[int, int]] = []
        self.closed = self.capped = self.received = self.sent = self.lost = 0
        self.finished = self.began_ns = 0
        self.succeeded = False
        self._backlog: deque[RawAnswer] = deque()
        self._live: dict[int, _Connection] = {}
        self._epoll = select.epoll()
        self._timer = _timer()
        self._epoll.register(self._timer, select.EPOLLIN | select.EPOLLET)  # told once, never read
        self._armed = 0
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection | None] = [
            None if reopens else self._opened() for _ in range(streams)
        ]

    def close(self) -> None:
        """Close all sockets; answers that have not ended are lost with them."""
        for connection in self._connections.values():
            connection.sock.close()
        self._epoll.close()
        os.close(self._timer)

    def is_closed_by_server(self) -> bool:
        """Return whether the server closes a connection after an answer, as it then does with every one."""
        connection = self._idle[-1] if self._idle else None
        if self.closed or connection is None:
            return True
        sock = connection.sock
        sock.settimeout(CLOSES_WITHIN_S)
        try:
            while sock.recv(READ):
                pass  # a ticket of TLS
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def closed_loop(
        self, spread_ns: int, steer: Callable[[Client, int], int | None], begin_ns: int = 0
    ) -> None:
        """Keep every connection busy: the next request is due when the last answer has ended.

        Args:
            spread_ns: over how long the streams begin, so that they do not march in step.
            steer: called once a tick with the time; returns when the last request may be due, None while it goes on.
            begin_ns: when the load begins; now unless said.

        """
        with _uncollected():
            self.began_ns = begin = begin_ns or now()
            count = len(self._idle)
            waiting = deque(begin + spread_ns * n // count for n in range(count))
            last: int | None = None
            tick = begin
            while self._connections or self.reopens:
                while waiting and waiting[0] <= now() and self._idle:
                    self._send(self._idle.pop(), waiting.popleft())
                if now() >= tick:
                    last, tick = self._tick(steer, last, tick)
                    if last is not None and self._is_over(last):
                        return
                self._read(min(waiting[0], tick) if waiting else tick)
                # Also after the last that counts, so that none of those finds a server that empties.
                for _ in range(min(len(self._idle), count - len(waiting) - len(self._live))):
                    self._send(self._idle.pop(), now())

    def open_loop(
        self,
        due: Sequence[int],
        steer: Callable[[Client, int], int | None],
        begin_ns: int = 0,
    ) -> None:
        """Send each request when it is due, in nanoseconds from the start, whatever has come back.

        The others are as in `closed_loop`. Where every connection is in use, a request waits and counts as capped.
        """
        with _uncollected():
            self.began_ns = begin_ns or now()
            begin = self.began_ns + 20_000_000
            position, last, tick, blocked = 0, None, begin, -1
            while self._connections or self.reopens:
                moment = now()
                if moment >= tick:
                    last, tick = self._tick(steer, last, tick)
                    unsent = begin + due[position] if position < len(due) else None
                    if last is not None and self._is_over(last, unsent):
                        return
                while position < len(due) and begin + due[position] <= moment:
                    if not self._idle:
                        self.capped += position != blocked
                        blocked = position
                        break
                    self._send(self._idle.pop(), begin + due[position])
                    position += 1
                    moment = now()
                following = begin + due[position] if position < len(due) and self._idle else tick
                self._read(min(following, tick))

    def _tick(
        self, steer: Callable[[Client, int], int | None], last: int | None, tick: int
    ) -> tuple[int | None, int]:
        """Note the clock's offset and the bytes so far, ask how long to go on, and return that and the next tick."""
        moment = now()
        if not self.offsets or moment - self.offsets[-1][0] >= OFFSET_EVERY_NS:
            self.offsets.append((moment, offset()))
        self.bytes_at.append((moment, self.received))
        step = 50_000_000
        return (steer(self, moment) if last is None else last), max(tick + step, moment)

    def _is_over(self, last: int, unsent: int | None = None) -> bool:
        """Return whether every request that was due in time has ended, giving up those that take too long.

        `unsent` is when the next request is due; a client that woke up late still sends it if that was in time.
        """
        owed = [connection for connection in self._live.values() if connection.due <= last]
        if (moment := now()) > last + self.drain_ns:
            for connection in owed:
                self._finish(connection, moment, "unanswered")
            return True
        return not owed and (unsent is None or unsent > last)

    def _opened(self) -> _Connection:
        sock = socket.create_connection(self.address, timeout=10.0)
        try:
            secure = _Tls(sock, self.tls, self.address[0]) if self.tls else None
        except OSError:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if self.stamps:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setblocking(False)
        connection = _Connection(sock, secure)
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return connection

    def _send(self, connection: _Connection | None, due: int) -> None:
        number = self.sent
        self.sent += 1
        try:
            connection = connection or self._opened()
        except OSError:
            self.lost += 1
            self.finished += 1
            self._backlog.append(RawAnswer(number, due, now(), [], now(), "refused"))
            self._idle.append(None)
            return
        written = self.request(number)
        if connection.tls:
            written = connection.tls.sealed(written)
        connection.pieces = []
        connection.number, connection.due, connection.expected = number, due, 0
        connection.sent = now()
        self._live[connection.sock.fileno()] = connection
        try:
            count = connection.sock.send(written)
        except BlockingIOError:
            count = 0
        except OSError:
            self._lost(connection, "not sent")
            return
        if count < len(written):
            connection.rest = written[count:]
            self._epoll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _read(self, until: int) -> None:
        """Take what has arrived, waiting for it until a moment."""
        while self._backlog and until - now() > PARSE_BELOW_NS:
            if events := self._epoll.poll(0, 4096):
                self._take(events)
                return
            self.answers.append(self.parse(self._backlog.popleft()))
        wait = until - now()
        if wait <= 0:
            self._take(self._epoll.poll(0, 4096))
            return
        if until != self._armed:
            self._armed = until
            _arm(self._timer, until)
        self._take(self._epoll.poll(wait / 1e9 + 1.0, 4096))

    def _take(self, events: list[tuple[int, int]]) -> None:
        for number, kind in events:
            connection = self._connections.get(number)
            if connection is None:
                continue  # the timer, or a connection that was lost in this turn
            if kind & select.EPOLLOUT:
                self._write_rest(connection)
            try:
                data, ancillary, _, _ = connection.sock.recvmsg(READ, ANCILLARY)
            except BlockingIOError:
                continue
            except OSError:
                data, ancillary = b"", []
            moment = now()
            if not data:
                self._lost(connection, "cut")
                continue
            stamp = ancillary[0][2] if ancillary else b""
            kernel = 0
            if len(stamp) == 16:
                seconds, nanoseconds = STAMP(stamp)
                kernel = seconds * 1_000_000_000 + nanoseconds
            self.received += len(data)
            if connection.tls and not (data := connection.tls.opened(data)):
                continue  # a part of a record, or none of the answer's
            connection.pieces.append(Piece(data, kernel, moment))
            if self._ended(connection, data):
                self._finish(connection, moment)
                self._free(connection)

    def _ended(self, connection: _Connection, data: bytes) -> bool:
        """Return whether an answer is complete: its last chunk, or as many bytes as its head announced."""
        if len(connection.pieces) == 1 or connection.expected < 0:
            connection.expected = length_announced(connection.pieces)
        if connection.expected > 0:
            return sum(len(piece.data) for piece in connection.pieces) >= connection.expected
        if connection.expected < 0:
            return False
        whole = len(data) >= len(LAST_CHUNK)
        tail = (
            data
            if whole
            else b"".join(piece.data for piece in connection.pieces[-len(LAST_CHUNK) :])
        )
        return tail.endswith(LAST_CHUNK)

    def _finish(self, connection: _Connection, moment: int, trouble: str = "") -> None:
        if self._live.pop(connection.sock.fileno(), None) is None:
            return
        self.finished += 1
        if not self.succeeded and connection.pieces:
            self.succeeded = SUCCEEDS in connection.pieces[0].data[: len(SUCCEEDS) + 10]
        self._backlog.append(
            RawAnswer(
                connection.number, connection.due, connection.sent, connection.pieces, moment,
                trouble,
            )
        )  # fmt: skip

    def _lost(self, connection: _Connection, trouble: str) -> None:
        """End what a lost connection carried, and open another in its place."""
        live = connection.sock.fileno() in self._live
        self.lost, self.closed = self.lost + live, self.closed + (not live)
        self._finish(connection, now(), trouble)
        self._drop(connection)
        if self.reopens:
            self._idle.append(None)
            return
        with suppress(OSError):  # the server is gone; what is due from now on waits and is counted
            self._idle.append(self._opened())

    def _free(self, connection: _Connection) -> None:
        """Keep a connection for another request, if the server takes more than one on it."""
        if self.reopens:
            self._drop(connection)
            self._idle.append(None)
        else:
            self._idle.append(connection)

    def _drop(self, connection: _Connection) -> None:
        """Close a connection for good."""
        number = connection.sock.fileno()
        self._epoll.unregister(number)
        connection.sock.close()
        del self._connections[number]
        if connection in self._idle:
            self._idle.remove(connection)

    def _write_rest(self, connection: _Connection) -> None:
        try:
            count = connection.sock.send(connection.rest)
        except BlockingIOError:
            return
        except OSError:
            return  # the read that follows meets the same error
        connection.rest = connection.rest[count:]
        if not connection.rest:
            self._epoll.modify(connection.sock.fileno(), select.EPOLLIN)

    def parse_all(self) -> None:
        """Parse what is left after the run."""
        while self._backlog:
            self.answers.append(self.parse(self._backlog.popleft()))


def length_announced(pieces: list[Piece]) -> int:
    """Return how many bytes an answer will have; 0 if it comes in chunks, -1 while its head is incomplete."""
    start = b"".join(piece.data for piece in pieces) if len(pieces) > 1 else pieces[0].data
    head, found, _ = start.partition(b"\r\n\r\n")
    if not found:
        return -1
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = line.partition(b":")[2].strip()
            return len(head) + 4 + (int(length[:12]) if length.isdigit() else 0)
    return 0


def offset(tries: int = 9) -> int:
    """Return realtime minus monotonic in nanoseconds, from the tightest of several readings."""
    best, found = None, 0
    for _ in range(tries):
        before = now()
        real = time.time_ns()
        after = now()
        if best is None or after - before < best:
            best, found = after - before, real - (before + after) // 2
    return found


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


LIBC = ctypes.CDLL(None, use_errno=True)


def _timer() -> int:
    """Return a timer that wakes at an absolute time: epoll's own timeout rounds up to whole milliseconds."""
    number = LIBC.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)
    if number < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(number)


def _arm(timer: int, moment: int) -> None:
    setting = _Timer()
    setting.value.seconds, setting.value.nanoseconds = divmod(moment, 1_000_000_000)
    LIBC.timerfd_settime(timer, TFD_TIMER_ABSTIME, ctypes.byref(setting), None)


class _uncollected:  # noqa: N801 - reads as the statement it is
    """Hold the garbage collector off, with what exists taken out of its sight."""

    def __enter__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()
