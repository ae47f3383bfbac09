"""The metrics of a window of requests, under the keys of METRICS."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmbench.results.record import Given
from llmbench.serve.timeline import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.serve.timeline import ServedRequest, WindowFigures

DEFINITIONS = {
    "served_ttft_s": "due to the first token's arrival at this machine, median over requests due in the window",
    "served_ttft_p90_s": "as served_ttft_s, 90th percentile, from 100 requests",
    "served_ttft_p99_s": "as served_ttft_s, 99th percentile, from 1,000 requests",
    "served_tpot_s": "(last token - first token) / (n - 1) by the server's count n, median over requests",
    "served_gap_s": "gap between successive events of one token each, median over those read alone",
    "served_e2e_s": "due to the last token's arrival, median over requests due in the window",
    "served_e2e_p99_s": "as served_e2e_s, 99th percentile, from 1,000 requests",
    "steady_output_tok_s": "new tokens that arrived in the window / its length",
    "achieved_rps": "requests that ended in the window / its length",
    "slo_share": "share of the requests due in the window that met every limit; a failed one meets none",
    "goodput_rps": "requests due in the window that met every limit / its length",
    "prefix_hit_share": "prompt tokens from the server's cache / prompt tokens, by its answers, else by its counters",
    "capacity_rps": "highest rate found at which surely as many requests as wanted met every limit",
}
CLOCK = "the kernel's receive stamp, moved to the monotonic clock; from the time at which a request was due"
COUNTED = "the server's count of each answer"


class Slo(NamedTuple):
    """Limits that a request must meet, in seconds; 0 = none."""

    ttft_s: float
    tpot_s: float

    def met_by(self, request: ServedRequest) -> bool:
        """Return whether a request meets every limit."""
        if request.trouble:
            return False
        tpot = request.tpot_ns
        return not (
            (self.ttft_s and request.ttft_ns / 1e9 > self.ttft_s)
            or (self.tpot_s and tpot is not None and tpot / 1e9 > self.tpot_s)
        )


def given(
    mine: Sequence[ServedRequest], told: WindowFigures, slo: Slo, *, latencies: bool
) -> dict[str, Given]:
    """Return the metrics of the requests due in a window, by key.

    Args:
        mine: the requests.
        told: what the window says of all.
        slo: the limits; without any there is no share.
        latencies: whether the load was one that the server carries; else a latency depends on the window's length.

    """
    done = [request for request in mine if not request.trouble]
    window_s = told.due / told.offered_rps if told.offered_rps else 0.0
    values: dict[str, float | None] = {
        "steady_output_tok_s": told.output_tok_s,
        "achieved_rps": told.achieved_rps,
    }
    if done and latencies:
        first = [request.ttft_ns / 1e9 for request in done]
        whole = [request.e2e_ns / 1e9 for request in done]
        steps = [step / 1e9 for request in done if (step := request.tpot_ns) is not None]
        gaps = _gaps(done)
        values |= {
            "served_ttft_s": float(np.median(first)),
            "served_ttft_p90_s": percentile(first, 0.9),
            "served_ttft_p99_s": percentile(first, 0.99),
            "served_tpot_s": float(np.median(steps)) if steps else None,
            "served_gap_s": float(np.median(gaps)) if gaps else None,
            "served_e2e_s": float(np.median(whole)),
            "served_e2e_p99_s": percentile(whole, 0.99),
        }
    if (slo.ttft_s or slo.tpot_s) and mine:
        good = sum(map(slo.met_by, mine))
        values |= {"slo_share": good / len(mine), "goodput_rps": good / window_s}
    return {
        key: Given(
            value=value, definition=DEFINITIONS[key], clock=CLOCK, tokens=COUNTED, per="request"
        )
        for key, value in values.items()
        if value is not None
    }


def one(key: str, value: float) -> dict[str, Given]:
    """Return a number of the whole session as a metric."""
    return {key: Given(value=value, definition=DEFINITIONS[key], clock=CLOCK, tokens=COUNTED)}


def prefix_hit_share(mine: Sequence[ServedRequest], server: Mapping[str, Any]) -> float | None:
    """Return the share of prompt tokens from a cache, by the answers or else the server's counters; None if unknown."""
    told = [
        (request.cached_tokens, request.prompt_tokens)
        for request in mine
        if request.cached_tokens is not None and request.prompt_tokens
    ]
    if told:
        return sum(cached for cached, _ in told) / sum(whole for _, whole in told)
    hits, queries = server.get("prefix_cache_hits"), server.get("prefix_cache_queries")
    return float(hits / queries) if hits is not None and queries else None


def _gaps(done: Sequence[ServedRequest]) -> list[float]:
    """Return the gaps in seconds between tokens that came alone; none if any event held several tokens."""
    if any(request.tokens is None or request.tokens != len(request.token_ns) for request in done):
        return []
    return [
        (late - early) / 1e9
        for request in done
        if not request.merged
        for early, late in pairwise(request.token_ns)
    ]
