"""One session of a served cell, once its first request has been answered: a ramp, a window, and what the window says.

The load stays on until the last request that was due in the window has ended, so that none of them finds a server that
empties.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbench.errors import LoadFailed
from llmbench.results.record import Given, Served
from llmbench.serve import metrics, requests_file
from llmbench.serve.capacity import TriedRate, fewest, search
from llmbench.serve.loaded import LoadedServer
from llmbench.serve.stream import now
from llmbench.spec import load as spec_load
from llmbench.spec.load import SHARDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmbench.measure.loop import Measurement
    from llmbench.measure.prompts import Phase
    from llmbench.results.record import Job
    from llmbench.serve.proof import Proof
    from llmbench.serve.shards import Shards
    from llmbench.serve.stream import Client
    from llmbench.serve.timeline import ServedRequest, WindowFigures
    from llmbench.spec.load import Load

SAY_EVERY_NS = 2_000_000_000
MANY = 100
"""Requests from which the 99th percentile of late sends is taken, and not the 90th."""
SHORT = 4
"""A rate is tried in a window of a fourth of the length, or as long as the fewest requests take that can show it."""


class Session:
    """A served cell of one session; `run` does it whole, and results go into `taken` as they come."""

    def __init__(
        self,
        proof: Proof,
        job: Job,
        taken: Measurement,
        say: Callable[[Phase, int], None],
    ) -> None:
        """Store the parts without sending anything."""
        self.proof, self.target, self.cell = proof, proof.target, proof.cell
        self.job, self.taken, self.say = job, taken, say
        self.load, self.request, options = proof.load, proof.request, proof.options
        self.window_s = float(options["window_s"])
        self.slo = metrics.Slo(
            float(options["ttft_slo_ms"]) / 1e3, float(options["tpot_slo_ms"]) / 1e3
        )
        self.share = float(options["slo_share"])
        self.shards = spec_load.shards(options)
        if not options[SHARDS]:
            self.shards = min(self.shards, len(os.sched_getaffinity(0)))
        self.cores: list[int] = []
        self.runs = self.numbered = 0
        self._said = (0, 0)

    def run(self) -> tuple[Served, dict[str, Given]]:
        """Ramp, measure; return the session and its metrics.

        Raises:
            LoadFailed: the server does not carry the load.

        """
        with own_cores(self.target.facts.get("cores"), self.shards) as cores:
            self.cores = cores
            before = dict(self.target.counters())
            process = self.target.process()
            tried: list[TriedRate] = []
            if self.load.kind == "most":
                loaded, tried = self._highest()
            else:
                loaded = self._loaded(self.load, self.window_s)
            after = dict(self.target.counters())
            same = process == self.target.process()
        told = loaded.told
        server = _server(self.target.facts, before, after, self.runs, same=same)
        self.taken.returned.update(_wrong(loaded.mine, self.proof.lengths))
        served = Served(
            warmup_s=(loaded.start_ns - loaded.client.began_ns) / 1e9,
            steady=loaded.steady,
            window_s=(loaded.end_ns - loaded.start_ns) / 1e9,
            due=told.due,
            done=told.done,
            failed=dict(told.failed),
            figures=_figures(told, played=self.proof.trace is not None),
            overloaded=loaded.overloaded,
            client=_client(loaded, cores),
            server=server,
            tokens="ids, then usage" if self.proof.by_ids else "usage",
            prompts=self._prompts(loaded.mine, server),
            requests=self._written(loaded),
            tried=[list(probe) for probe in tried],
        )
        given = metrics.given(loaded.mine, told, self.slo, latencies=not served.overloaded)
        if (hits := served.prompts.get("hits")) is not None:
            given |= metrics.one("prefix_hit_share", hits)
        if tried:
            given |= metrics.one("capacity_rps", tried[-1].rate)
        return served, given

    def _loaded(self, load: Load, window_s: float) -> LoadedServer:
        """Put a load on the server until its window is over."""
        first = self.numbered
        loaded = LoadedServer(
            self.target,
            load,
            trace=self.proof.trace,
            request=lambda number: self.request(first + number),
            seed=f"{self.job.protocol.seed}/{self.cell.id}/{self.job.session}/{first}",
            window_s=window_s,
            budget_s=self.job.protocol.warmup_budget_s,
            alone_s=self.proof.alone_s,
            heard=self._heard,
            reopens=self.proof.reopens,
            cores=self.cores,
            shards=self.shards,
        )
        self.runs += loaded.client.sent
        self.numbered += loaded.numbered
        return loaded

    def _highest(self) -> tuple[LoadedServer, list[TriedRate]]:
        """Search the highest rate within the limits; raise LoadFailed if not even a low one is."""
        last: list[LoadedServer] = []

        def tried(rate: float, window_s: float) -> TriedRate:
            load = self.load._replace(kind="poisson", rate=rate)
            loaded = self._loaded(load, max(window_s, fewest(self.share) / rate))
            last[:] = [loaded]
            good = sum(map(self.slo.met_by, loaded.mine))
            # In a short window chance alone may look like an overload.
            carried = window_s < self.window_s or not loaded.overloaded
            return TriedRate(rate, good, len(loaded.mine), carried=carried)

        found, probes = search(
            0.5 / self.proof.alone_s,
            self.share,
            lambda rate: tried(rate, self.window_s / SHORT),
            lambda rate: tried(rate, self.window_s),
        )
        if found is None:
            raise LoadFailed(f"no rate was found at which {self.share:.0%} met the limits")
        return last[0], probes

    def _prompts(self, mine: Sequence[ServedRequest], server: Mapping[str, Any]) -> dict[str, Any]:
        """Return how prompts were written and what a cache knew of them; empty for ids with nothing in common."""
        asked, besides = self.request.asked, self.request.alphabet.besides
        trace = self.proof.trace
        blocks = trace is not None and bool(trace.blocks)
        if asked["prompt_as"] == "ids" and not asked["shared_prefix"] and not blocks:
            return {}
        tokens = [self.proof.lengths(request.number)[0] for request in mine] or [
            self.proof.lengths(0)[0]
        ]
        shared = sum(self.request.shared_share(count) * count for count in tokens) / sum(tokens)
        if trace is not None and blocks:
            known = trace.known()
            shared = sum(known[request.number] for request in mine) / sum(tokens)
        hits = metrics.prefix_hit_share(mine, server)
        told = {
            "shared_prefix": float(asked["shared_prefix"]),
            "shared": _finite(shared),
            "hits": hits if hits is None else _finite(hits),
        }
        if asked["prompt_as"] == "ids":
            return told
        words = len(self.request.alphabet.pieces)
        return {"prompt_as": asked["prompt_as"], "words": words, "besides": besides, **told}

    def _heard(self, client: Client | Shards, is_open: bool) -> None:  # noqa: FBT001 - as `LoadedServer` calls it
        """Tell the launcher that something still arrives; a server that has fallen silent is its to notice."""
        phase: Phase = "iteration" if is_open else "warmup"
        moment, (at, received) = now(), self._said
        if phase != self.taken.phase or (
            moment - at >= SAY_EVERY_NS and client.received != received
        ):
            self.taken.phase, self._said = phase, (moment, client.received)
            self.say(phase, client.finished)

    def _written(self, loaded: LoadedServer) -> dict[str, Any]:
        """Write the raw requests to their file, before the record, and return the file's name and digest."""
        if not self.job.requests_folder:
            return {}
        name = f"{self.cell.id}-s{self.job.session}-a{self.job.attempt}.requests"
        path = Path(self.job.requests_folder) / name
        return requests_file.write(path, loaded.requests, loaded.start_ns)


class own_cores:  # noqa: N801 - reads as the statement it is
    """Keep this process on its last core while a load runs, if the server leaves it one; yields the cores.

    Of several processes each keeps to its own, and this one, which only watches them, to all of theirs.
    """

    def __init__(self, servers: object, wanted: int = 1) -> None:
        """Take the server's cores, a comma-separated text; without them, or enough others, the clients share."""
        self.before = os.sched_getaffinity(0)
        theirs = {int(core) for core in str(servers or "").split(",") if core.isdigit()}
        free = sorted(self.before - theirs)
        self.mine = free[-wanted:] if theirs and len(free) >= wanted else []

    def __enter__(self) -> list[int]:
        if self.mine:
            os.sched_setaffinity(0, self.mine)
        return self.mine

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self.before)


def _client(loaded: LoadedServer, cores: list[int]) -> dict[str, Any]:
    """Return how the client itself did, which is what its numbers rest on."""
    mine, client = loaded.mine, loaded.client
    lags = [lag for request in mine for lag in request.lag_ns]
    events = sum(len(request.token_ns) for request in mine)
    merged = sum(request.merged for request in mine)
    moved = [
        max(each for _, each in offsets) - min(each for _, each in offsets)
        for offsets in loaded.offsets
    ]
    sends = [each.sent_ns - each.due_ns for each in mine]
    many = len(sends) >= MANY
    return {
        "cores": ",".join(map(str, cores)),
        "shares_core": not cores,
        "busy_share": round(loaded.busy_share, 4),
        "stamps": "kernel" if lags else "user",
        "lag_p50_ns": _quantile(lags, 0.5),
        "lag_p99_ns": _quantile(lags, 0.99),
        f"send_lag_p{99 if many else 90}_ns": _quantile(sends, 0.99 if many else 0.9),
        "gap_p50_ns": _quantile(
            [gap for each in mine for gap in np.diff(each.token_ns).tolist()], 0.5
        ),
        "merged_share": round(merged / events, 6) if events else 0.0,
        "clock_moved_ns": max(moved),
        "reconnects": client.lost,
        **({"reopens": True} if client.reopens else {}),
        "capped": client.capped,
        **({"shards": len(loaded.offsets)} if len(loaded.offsets) > 1 else {}),
    }


def _wrong(mine: list[ServedRequest], lengths: Callable[[int], tuple[int, int]]) -> dict[str, int]:
    """Return how many answers had not the lengths that were asked for, and the prompt tokens from a cache."""
    done = [request for request in mine if not request.trouble]
    wanted = [lengths(request.number) for request in done]
    pairs = list(zip(done, wanted, strict=True))
    counts = {
        "token_count": sum(
            request.tokens != new or len(request.token_ns) > new for request, (_, new) in pairs
        ),
        "prompt_tokens": sum(
            request.prompt_tokens not in {None, given} for request, (given, _) in pairs
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


def _figures(told: WindowFigures, *, played: bool) -> dict[str, float | None]:
    """Return what the window says; of a trace, not what only a steady load can say."""
    steady = () if played else ("little", "edge", "growth_low", "halves")
    names = ("in_flight", *steady, "offered_rps", "achieved_rps")
    return {name: _finite(getattr(told, name)) for name in names}


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _quantile(values: list[int], share: float) -> int | None:
    return int(np.quantile(np.array(values), share)) if values else None
