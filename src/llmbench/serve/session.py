"""One session of a served cell: a proof of the token counts, a ramp, a window, and what the window says.

The load stays on until the last request that was due in the window has ended, so that none of them finds a server that
empties.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbench.errors import LoadFailed
from llmbench.results.record import Given, Served
from llmbench.serve import metrics, prompts, requests_file, timeline, wire
from llmbench.serve.arrivals import arrivals
from llmbench.serve.stream import Client, now, offset
from llmbench.spec import load as spec_load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmbench.measure.loop import Measurement
    from llmbench.measure.prompts import Phase
    from llmbench.results.record import Job
    from llmbench.serve.endpoint import Endpoint
    from llmbench.serve.timeline import ServedRequest, WindowFigures
    from llmbench.spec.sweep import Cell

SHORTEST_PART_S = 0.5
SAY_EVERY_NS = 2_000_000_000
MOST_LOST = 20
"""Requests whose connection was lost, beyond one a stream, after which a session is given up."""
DRAIN = 20
"""Latencies at one stream that an answer may take after the window, besides the proof's own deadline."""


class Session:
    """A served cell of one session; `run` does it whole, and results go into `taken` as they come."""

    def __init__(
        self,
        target: Endpoint,
        job: Job,
        cell: Cell,
        taken: Measurement,
        say: Callable[[Phase, int], None],
    ) -> None:
        """Store the parts without sending anything."""
        self.target, self.job, self.cell, self.taken, self.say = target, job, cell, taken, say
        options: Mapping[str, Any] = {**target.defaults, **cell.options}
        self.load = spec_load.parse(str(options["load"]))
        self.window_ns = int(float(options["window_s"]) * 1e9)
        self.slo = metrics.Slo(
            float(options["ttft_slo_ms"]) / 1e3, float(options["tpot_slo_ms"]) / 1e3
        )
        self.start_ns = 0
        self.steady = False
        self.given_up = ""
        self._busy: list[tuple[int, float]] = []
        self._said = (0, 0)

    def run(self) -> tuple[Served, dict[str, Given]]:
        """Prove, ramp, measure; return the session and its metrics.

        Raises:
            LoadFailed: the server does not answer, or not as it was asked to.

        """
        self._enter("warmup")
        proven_s, by_ids = self._prove()
        with own_core(self.target.facts.get("cores")) as cores:
            before = dict(self.target.counters())
            process = self.target.process()
            client = self._loaded(proven_s)
            after = dict(self.target.counters())
            same = process == self.target.process()
        requests = timeline.on_one_clock(client.answers, client.offsets)
        if not self.start_ns:
            first = next((each.trouble for each in requests if each.trouble), "no answer ended")
            raise LoadFailed(f"the server did not carry the load: {self.given_up or first}")
        end_ns = self.start_ns + self.window_ns
        told = timeline.figures(requests, self.start_ns, end_ns, now())
        mine = timeline.due_in(requests, self.start_ns, end_ns)
        facts = {
            "client": self._client(client, mine, cores),
            "server": _server(self.target.facts, before, after, client.sent, same=same),
            "requests": self._written(requests),
        }
        self.taken.returned.update(_wrong(mine, self.cell))
        served = Served(
            warmup_s=(self.start_ns - client.began_ns) / 1e9,
            steady=self.steady,
            window_s=self.window_ns / 1e9,
            due=told.due,
            done=told.done,
            failed=dict(told.failed),
            figures=_figures(told),
            overloaded=self.load.kind != "closed" and told.overloaded,
            tokens="ids, then usage" if by_ids else "usage",
            **facts,
        )
        return served, metrics.given(mine, told, self.slo, latencies=not served.overloaded)

    def _enter(self, phase: Phase) -> None:
        self.taken.phase = phase
        self.say(phase, 0)

    def _prove(self) -> tuple[float, bool]:
        """Send one request alone, and return how long it took and whether its tokens were counted by their ids.

        Raises:
            LoadFailed: it was not answered, or has not the lengths that were asked for.

        """
        written = prompts.proof(self.target, self.cell, self.job.protocol.seed, self.job.session)
        client = Client(
            self.target.address[:2], 1, lambda _: written, wire.reply, drain_ns=600_000_000_000
        )
        try:
            client.closed_loop(0, lambda each, moment: moment if each.sent else None)
            client.parse_all()
        finally:
            client.close()
        if not client.answers:
            raise LoadFailed("the server did not answer")
        reply: wire.ServedReply = client.answers[0]
        if reply.trouble:
            raise LoadFailed(f"the server did not answer: {reply.trouble}")
        if reply.tokens is None:
            raise LoadFailed("the server does not count its tokens: no usage came with the answer")
        if reply.prompt_tokens not in (None, self.cell.input_len):
            raise LoadFailed(
                f"the server counts {reply.prompt_tokens} prompt tokens for {self.cell.input_len} ids"
            )
        wanted = self.cell.output_len
        if reply.token_ids and len(reply.token_ids) != wanted:
            raise LoadFailed(
                f"the server gave {len(reply.token_ids)} ids, and {wanted} were asked for"
            )
        if reply.tokens != wanted:
            raise LoadFailed(f"the server gave {reply.tokens} tokens, and {wanted} were asked for")
        self.taken.warmup_ns.append(reply.ended_ns - reply.sent_ns)
        return (reply.ended_ns - reply.sent_ns) / 1e9, bool(reply.token_ids)

    def _loaded(self, proven_s: float) -> Client:
        """Put the load on the server until the window is over, and return the client."""
        protocol = self.job.protocol
        request = prompts.requests(self.target, self.cell, protocol.seed, self.job.session)
        client = Client(
            self.target.address[:2],
            self.load.streams,
            request,
            wire.reply,
            drain_ns=int((60 + DRAIN * proven_s) * 1e9),
        )
        try:
            client.began_ns = now()
            steer = self._steer(max(SHORTEST_PART_S, proven_s / 2))
            if self.load.kind == "closed":
                client.closed_loop(int(proven_s * 1e9), steer)
            else:
                horizon_s = protocol.warmup_budget_s + self.window_ns / 1e9 + 2
                seed = f"{protocol.seed}/{self.cell.id}/{self.job.session}"
                client.open_loop(arrivals(self.load, seed, horizon_s).tolist(), steer)
            client.offsets.append((now(), offset()))
            client.parse_all()
        finally:
            client.close()
        return client

    def _steer(self, part_s: float) -> Callable[[Client, int], int | None]:
        """Return what decides, once a tick, when the window begins and when it has ended."""
        part_ns = int(part_s * 1e9)
        budget_ns = int(self.job.protocol.warmup_budget_s * 1e9)

        def steer(client: Client, moment: int) -> int | None:
            self._report(client, moment)
            if client.lost > MOST_LOST + self.load.streams:
                self.given_up = f"{client.lost} connections were lost"
                return moment
            if not self.start_ns:
                settled = client.finished >= self.load.streams or self.load.kind != "closed"
                self.steady = settled and timeline.steady(client.bytes_at, part_ns)
                if self.steady or (settled and moment - client.began_ns > budget_ns):
                    self.start_ns = moment
                    self._busy = [(moment, time.thread_time())]
                    self._enter("iteration")
                return None
            if moment < self.start_ns + self.window_ns:
                return None
            self._busy.append((moment, time.thread_time()))
            return self.start_ns + self.window_ns

        return steer

    def _report(self, client: Client, moment: int) -> None:
        """Tell the launcher that something still arrives; a server that has fallen silent is its to notice."""
        at, received = self._said
        if moment - at >= SAY_EVERY_NS and client.received != received:
            self._said = (moment, client.received)
            self.say("iteration" if self.start_ns else "warmup", client.finished)

    def _client(
        self, client: Client, mine: list[ServedRequest], cores: list[int]
    ) -> dict[str, Any]:
        """Return how the client itself did, which is what its numbers rest on."""
        lags = [lag for request in mine for lag in request.lag_ns]
        sends = [request.sent_ns - request.due_ns for request in mine]
        gaps = [gap for request in mine for gap in np.diff(request.token_ns).tolist()]
        events = sum(len(request.token_ns) for request in mine)
        offsets = [each for _, each in client.offsets]
        wall, cpu = (
            (end - start for start, end in zip(*self._busy, strict=True))
            if len(self._busy) == 2
            else (1, 0.0)
        )
        return {
            "cores": ",".join(map(str, cores)),
            "shares_core": not cores,
            "busy_share": round(cpu / (wall / 1e9), 4),
            "stamps": "kernel" if lags else "user",
            "lag_p50_ns": _quantile(lags, 0.5),
            "lag_p99_ns": _quantile(lags, 0.99),
            "send_lag_p99_ns": _quantile(sends, 0.99),
            "gap_p50_ns": _quantile(gaps, 0.5),
            "merged_share": round(sum(request.merged for request in mine) / events, 6)
            if events
            else 0.0,
            "clock_moved_ns": max(offsets) - min(offsets) if offsets else 0,
            "reconnects": client.reconnects,
            "capped": client.capped,
        }

    def _written(self, requests: list[ServedRequest]) -> dict[str, Any]:
        """Write the raw requests to their file, before the record, and return the file's name and digest."""
        if not self.job.requests_folder:
            return {}
        name = f"{self.cell.id}-s{self.job.session}-a{self.job.attempt}.requests"
        return requests_file.write(Path(self.job.requests_folder) / name, requests, self.start_ns)


class own_core:  # noqa: N801 - reads as the statement it is
    """Keep this process on its last core while a load runs, if the server leaves it one; yields the cores."""

    def __init__(self, servers: object) -> None:
        """Take the server's cores, a comma-separated text; without them the client shares what there is."""
        self.before = os.sched_getaffinity(0)
        theirs = {int(core) for core in str(servers or "").split(",") if core.isdigit()}
        free = sorted(self.before - theirs)
        self.mine = free[-1:] if theirs else []

    def __enter__(self) -> list[int]:
        if self.mine:
            os.sched_setaffinity(0, self.mine)
        return self.mine

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self.before)


def _wrong(mine: list[ServedRequest], cell: Cell) -> dict[str, int]:
    """Return how many answers had not the lengths that were asked for, and the prompt tokens from a cache."""
    done = [request for request in mine if not request.trouble]
    counts = {
        "token_count": sum(request.tokens != cell.output_len for request in done),
        "prompt_tokens": sum(
            request.prompt_tokens not in {None, cell.input_len} for request in done
        ),
        "cached_tokens": sum(request.cached_tokens or 0 for request in done),
    }
    return {name: count for name, count in counts.items() if count}


def _server(
    facts: Mapping[str, Any],
    before: Mapping[str, float],
    after: Mapping[str, float],
    sent: int,
    *,
    same: bool,
) -> dict[str, Any]:
    """Return the server's own counts over the session, and whether it was one and the same."""
    counts = {name: after[name] - before[name] for name in after if name in before}
    return {
        "kind": facts.get("server", ""),
        "version": facts.get("version", ""),
        "fresh": bool(facts.get("fresh")),
        "restarted": not same,
        "sent": sent,
        **counts,
    }


def _figures(told: WindowFigures) -> dict[str, float | None]:
    names = ("in_flight", "little", "edge", "growth_low", "halves", "offered_rps", "achieved_rps")
    return {name: _finite(getattr(told, name)) for name in names}


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _quantile(values: list[int], share: float) -> int | None:
    return int(np.quantile(np.array(values), share)) if values else None
