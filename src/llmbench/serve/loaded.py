"""One load on a server: a ramp until its rate has settled, a window, and the requests that were due in it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmbench.errors import LoadFailed
from llmbench.serve import endpoint, timeline, wire
from llmbench.serve.arrivals import arrivals
from llmbench.serve.shards import ShardResult, Shards, Share
from llmbench.serve.stream import Client, now, offset
from llmbench.spec.load import CLOSED, TRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmbench.serve.endpoint import Endpoint
    from llmbench.serve.timeline import ServedRequest, WindowFigures
    from llmbench.serve.trace import Trace
    from llmbench.spec.load import Load

    Steer = Callable[[Client, int], int | None]

SHORTEST_PART_S = 0.5
FIRST = 32
"""If so many answers have come and none succeeds, the load is given up: it would only hammer the server."""
MOST_LOST = 20
"""Requests whose connection was lost, beyond one a stream and half of all, after which a load is given up."""
DRAIN_S, DRAIN_ANSWERS = 60, 20
"""How long an answer may take after the window: so many seconds, and so many times that of a request alone."""


class LoadedServer:
    """A load that has been put on a server.

    Attributes:
        client: what sent it: one process, or several.
        start_ns: the window's start; `end_ns` its end.
        steady: whether the ramp ended because the rate had settled.
        busy_share: of the client's core, over the window; of several the busiest.
        requests: all that ended.
        numbered: the number after the highest of its requests.
        offsets: for each process, pairs of a monotonic time and realtime minus monotonic then.
        mine: those that were due in the window.
        told: what the window says.

    """

    def __init__(  # noqa: PLR0913 - one argument each, by name
        self,
        target: Endpoint,
        load: Load,
        *,
        trace: Trace | None,
        request: Callable[[int], bytes],
        seed: str,
        window_s: float,
        budget_s: float,
        alone_s: float,
        heard: Callable[[Client | Shards, bool], None],
        reopens: bool,
        cores: Sequence[int] = (),
        shards: int = 1,
    ) -> None:
        """Put the load on until its window is over.

        Args:
            target: the server.
            load: what arrives when.
            trace: the requests of a trace.
            request: the bytes of a request, by its number.
            seed: of the arrivals of an open loop.
            window_s: how long the window is open.
            budget_s: how long the ramp may take once every stream has had an answer.
            alone_s: how long a request takes alone.
            heard: called once a tick with the client, and whether the window is open.
            reopens: whether the server takes one request a connection.
            cores: of the client's processes, one for each; empty if they have none of their own.
            shards: how many client processes.

        Raises:
            LoadFailed: the server did not carry it.

        """
        self._target, self._load, self._request = target, load, request
        self._heard, self._reopens, self._alone_s = heard, reopens, alone_s
        self._window_ns, self._budget_ns = int(window_s * 1e9), int(budget_s * 1e9)
        self._part_ns = int(max(SHORTEST_PART_S, alone_s / 2) * 1e9)
        self._given_up = ""
        self._spent: list[float] = []
        self._looked = False
        self.start_ns, self.steady = 0, False
        self._due: list[int] = []
        if load.kind != CLOSED:
            horizon_s = budget_s + window_s + 2 + DRAIN_ANSWERS * alone_s
            self._due = arrivals(load, seed, horizon_s, trace).tolist()
        self.client: Client | Shards
        self._conclude(self._by_shards(shards, cores) if shards > 1 else self._by_one())

    def _by_shards(self, shards: int, cores: Sequence[int]) -> list[ShardResult]:
        """Put the load on from several processes."""
        self.client = Shards(shards, cores, self._connected, self._put_on)
        self.client.run(self._steer, lambda: self.start_ns)
        self.numbered = self.client.numbered
        return self.client.seen

    def _by_one(self) -> list[ShardResult]:
        """Put the load on from this process."""
        alone = Share(0, 1)
        self.client = client = self._connected(alone)
        try:
            self._put_on(client, alone, 0, self._steer)
            client.offsets.append((now(), offset()))
            client.parse_all()
        finally:
            client.close()
        self.numbered = client.sent
        return [ShardResult(client.answers, client.offsets, self._busy_share())]

    def _connected(self, share: Share) -> Client:
        """Return a client that sends this share, with its connections open."""
        return Client(
            self._target.address[:2],
            share.streams(self._load.streams),
            lambda own: self._request(share.global_number(own)),
            wire.reply,
            drain_ns=int((DRAIN_S + DRAIN_ANSWERS * self._alone_s) * 1e9),
            tls=endpoint.context(self._target.address),
            reopens=self._reopens,
        )

    def _put_on(self, client: Client, share: Share, begin_ns: int, steer: Steer) -> None:
        """Send a share of the load until `steer` says that it is over."""
        if self._load.kind == CLOSED:
            client.closed_loop(int(self._alone_s * 1e9), steer, begin_ns)
        else:
            client.open_loop(self._due[share.number :: share.of], steer, begin_ns)

    def _conclude(self, seen: Sequence[ShardResult]) -> None:
        """Take in what came back; raise LoadFailed if no window was open."""
        self.requests = [
            request
            for each in seen
            for request in timeline.on_one_clock(each.answers, each.offsets)
        ]
        self.offsets = [each.offsets for each in seen]
        if len(self._spent) < 2:
            troubles = (each.trouble for each in self.requests if each.trouble)
            why = self._given_up or next(troubles, "no answer ended")
            raise LoadFailed(f"the server did not carry the load: {why}")
        self.end_ns = self.start_ns + self._window_ns
        self.busy_share = max(each.busy_share for each in seen)
        self.mine: list[ServedRequest] = timeline.due_in(self.requests, self.start_ns, self.end_ns)
        self.told: WindowFigures = timeline.figures(
            self.requests, self.start_ns, self.end_ns, now()
        )

    def _busy_share(self) -> float:
        """Return the share of the window in which this process's core was busy; 0 if none was open."""
        if len(self._spent) < 2:
            return 0.0
        return (self._spent[1] - self._spent[0]) / (self._window_ns / 1e9)

    def _steer(self, client: Client | Shards, moment: int) -> int | None:
        """Decide, once a tick, when the window begins and when it has ended."""
        self._heard(client, bool(self.start_ns))
        if client.lost > max(MOST_LOST + self._load.streams, client.finished / 2):
            self._given_up = f"{client.lost} connections were lost"
            return moment
        if not self._looked and client.finished >= FIRST:
            self._looked = True
            if not client.succeeded:
                return moment
        if not self.start_ns and self._load.kind == TRACE:
            # Every session counts the same requests of a trace, whose rate never settles.
            if moment - client.began_ns > self._budget_ns:
                self.start_ns, self.steady = client.began_ns + self._budget_ns, True
                self._spent.append(time.thread_time())
            return None
        if not self.start_ns:
            settled = client.finished >= self._load.streams or self._load.kind != CLOSED
            self.steady = settled and timeline.steady(client.bytes_at, self._part_ns)
            if self.steady or (settled and moment - client.began_ns > self._budget_ns):
                self.start_ns = moment
                self._spent.append(time.thread_time())
            return None
        if moment < self.start_ns + self._window_ns:
            return None
        self._spent.append(time.thread_time())
        return self.start_ns + self._window_ns

    @property
    def overloaded(self) -> bool:
        """Return whether more came in than went out; a closed loop sends no more, and a trace is as it is."""
        return self._load.kind not in {CLOSED, TRACE} and self.told.overloaded
