"""The checks of a served session: findings that make its numbers invalid, and warnings for the reader.

Every check is a function from an outcome to findings, listed in one table. None of them repairs a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmbench.results.record import Finding, Status

if TYPE_CHECKING:
    from llmbench.results.record import Outcome, Served

FAILED_SHARE = 0.01
LATE_FLOOR_NS, LATE_SHARE = 1_000_000, 0.01
"""A send may be late by a millisecond, or by 1 % of the median TTFT, at the 99th percentile; of fewer than 100 requests
at the 90th."""
BUSY_SHARE = 0.8
"""Of the client's core over the window; above it, a send or a read waits for another."""
MERGED_SHARE = 0.01
CLOCK_MOVED_NS = 100_000
LITTLE_WITHIN = 0.02
"""How far Little's law may be off besides what the window's two ends explain: one latency over its length."""
UNSTEADY = 0.05
FEWEST = 100
HITS_WITHIN = 0.02
"""How far the share of prompt tokens from a cache may be off what prompts have in common: caches keep whole blocks."""

Check = Callable[["Served", "Outcome"], Iterator[Finding]]


def check(outcome: Outcome) -> tuple[Status, list[Finding], list[Finding]]:
    """Return a served record's status, the findings that invalidate it, and the warnings."""
    served = outcome.served
    assert served is not None
    warnings = [finding for each in WARNINGS for finding in each(served, outcome)]
    if outcome.status is not Status.OK:
        return outcome.status, [], warnings
    checks = PROBLEMS if served.due else (_no_requests,)
    problems = [finding for each in checks for finding in each(served, outcome)]
    return Status.INVALID if problems else Status.OK, problems, warnings


def _no_requests(served: Served, _: Outcome) -> Iterator[Finding]:
    yield Finding("no_requests", f"no request was due in the window of {served.window_s:g} s")


def _failed(served: Served, _: Outcome) -> Iterator[Finding]:
    """Nearly all requests must have been answered in full."""
    failed = sum(served.failed.values())
    if failed > FAILED_SHARE * served.due:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(served.failed.items()))
        yield Finding("failed_requests", f"{failed} of {served.due} requests failed: {kinds}")


def _lengths(served: Served, outcome: Outcome) -> Iterator[Finding]:
    """Every answer must have exactly the lengths that were asked for."""
    if wrong := outcome.returned.get("token_count"):
        yield Finding("token_count", f"{wrong} of {served.due} answers had another length")
    if wrong := outcome.returned.get("prompt_tokens"):
        yield Finding(
            "prompt_tokens", f"{wrong} of {served.due} prompts had another length for the server"
        )


def _prefix_hits(served: Served, outcome: Outcome) -> Iterator[Finding]:
    """No prompt token may come from a cache, as the server and each answer count them, but for what is shared."""
    if served.prompts:
        hits, shared = served.prompts.get("hits"), served.prompts["shared"]
        if hits is not None and hits > shared + HITS_WITHIN:
            yield Finding(
                "prefix_hits",
                f"{hits:.1%} of the prompt tokens came from a cache, and prompts have {shared:.1%} in common",
            )
        return
    if hits := served.server.get("prefix_cache_hits"):
        yield Finding("prefix_hits", f"{hits:,.0f} prompt tokens came from the server's cache")
    if cached := outcome.returned.get("cached_tokens"):
        yield Finding("prefix_hits", f"{cached:,} prompt tokens came from a cache, say the answers")


def _late_sends(served: Served, outcome: Outcome) -> Iterator[Finding]:
    """Requests must be sent when they are due."""
    ttft = outcome.given.get("served_ttft_s")
    allowed = max(LATE_FLOOR_NS, LATE_SHARE * 1e9 * (ttft.value if ttft else 0))
    for share, name in ((1, "send_lag_p99_ns"), (10, "send_lag_p90_ns")):
        if (late := served.client.get(name) or 0) > allowed:
            yield Finding(
                "late_sends", f"{share} % of the requests were sent over {late / 1e6:.2f} ms late"
            )


def _client_saturated(served: Served, _: Outcome) -> Iterator[Finding]:
    if (busy := served.client.get("busy_share") or 0) > BUSY_SHARE:
        yield Finding(
            "client_saturated",
            f"the client's core was busy {busy:.0%} of the window; shards=N sends from N processes",
        )


def _coalesced(served: Served, _: Outcome) -> Iterator[Finding]:
    """A client that is behind reads tokens together, and the kernel keeps the last one's time for all."""
    lag, gap = served.client.get("lag_p99_ns") or 0, served.client.get("gap_p50_ns") or 0
    merged = served.client.get("merged_share") or 0
    if merged > MERGED_SHARE and gap and lag > gap / 2:
        yield Finding(
            "coalesced",
            f"{merged:.1%} of the tokens were read together with the one before, {lag / 1e6:.1f} ms late",
        )


def _clock_step(served: Served, _: Outcome) -> Iterator[Finding]:
    if (moved := served.client.get("clock_moved_ns") or 0) > CLOCK_MOVED_NS:
        yield Finding("clock_step", f"the realtime clock moved by {moved / 1e3:,.0f} us")


def _capped(served: Served, _: Outcome) -> Iterator[Finding]:
    if capped := served.client.get("capped"):
        yield Finding("capped", f"{capped} requests were due while every connection was in use")


def _implausible(served: Served, _: Outcome) -> Iterator[Finding]:
    """Requests in flight must be what Little's law makes of the rate and the latency."""
    little, edge = served.figures.get("little"), served.figures.get("edge")
    if little is None or edge is None or served.overloaded:
        return
    if abs(little) > LITTLE_WITHIN + edge:
        yield Finding("implausible", f"Little's law is off by {little:+.1%}")


def _other_server(served: Served, _: Outcome) -> Iterator[Finding]:
    """The server must be one and the same, and ours alone."""
    server = served.server
    if server.get("restarted"):
        yield Finding("server_restarted", "the server at the end is not the one of the beginning")
    answered, sent = server.get("requests"), server.get("sent", 0)
    if answered is not None and answered > sent:
        yield Finding(
            "foreign_load", f"the server ended {answered:,.0f} requests, and {sent:,} were ours"
        )


def _overloaded(served: Served, _: Outcome) -> Iterator[Finding]:
    if served.overloaded:
        offered, achieved = (served.figures[name] for name in ("offered_rps", "achieved_rps"))
        yield Finding(
            "overloaded", f"{offered:g} requests a second came in and {achieved:g} went out"
        )


def _unsteady(served: Served, _: Outcome) -> Iterator[Finding]:
    halves = served.figures.get("halves") or 0.0
    if not served.steady:
        yield Finding("unsteady", f"the rate had not settled after {served.warmup_s:.0f} s")
    elif abs(halves) > UNSTEADY:
        yield Finding("unsteady", f"the window's halves differ by {halves:+.1%} in tokens a second")


def _few_requests(served: Served, _: Outcome) -> Iterator[Finding]:
    if served.due < FEWEST:
        yield Finding("few_requests", f"{served.due} requests, too few for percentiles")


def _prefix_misses(served: Served, _: Outcome) -> Iterator[Finding]:
    """Say where a cache knew less than it was given the chance to know."""
    hits, shared = served.prompts.get("hits"), served.prompts.get("shared")
    if not served.prompts.get("shared_prefix") or shared is None:
        return
    if hits is None:
        yield Finding("prefix_misses", "the server does not say what came from its cache")
    elif hits < shared - HITS_WITHIN:
        yield Finding(
            "prefix_misses",
            f"{hits:.1%} of the prompt tokens came from a cache, and prompts have {shared:.1%} in common",
        )


def _clients_place(served: Served, _: Outcome) -> Iterator[Finding]:
    if served.client.get("shares_core"):
        yield Finding("shared_core", "the client has no core of its own")
    if served.client.get("stamps") == "user":
        yield Finding("user_clock", "times are the client's own, without the kernel's stamps")
    if served.client.get("reopens"):
        yield Finding("reconnects", "the server takes one request a connection")
    elif reconnects := served.client.get("reconnects"):
        yield Finding("reconnects", f"{reconnects} connections were opened under load")


def _servers_word(served: Served, _: Outcome) -> Iterator[Finding]:
    if not served.server.get("fresh"):
        yield Finding("one_server", "sessions are windows of one server that somebody else started")
    if served.tokens == "usage":
        yield Finding("tokens_by_usage", "the server gives no ids; its own count was believed")


PROBLEMS: tuple[Check, ...] = (
    _failed,
    _lengths,
    _prefix_hits,
    _late_sends,
    _client_saturated,
    _coalesced,
    _clock_step,
    _capped,
    _implausible,
    _other_server,
)
WARNINGS: tuple[Check, ...] = (
    _overloaded,
    _unsteady,
    _few_requests,
    _prefix_misses,
    _clients_place,
    _servers_word,
)
