"""The checks of a served session: findings that make its numbers invalid, and warnings for the reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.results.record import Finding, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmbench.results.record import Outcome, Served

FAILED_SHARE = 0.01
LATE_FLOOR_NS, LATE_SHARE = 1_000_000, 0.01
"""A send may be late by a millisecond, or by 1 % of the median TTFT, at the 99th percentile."""
BUSY_SHARE = 0.8
MERGED_SHARE = 0.01
CLOCK_MOVED_NS = 100_000
LITTLE_WITHIN = 0.02
UNSTEADY = 0.05
FEWEST = 100


def check(outcome: Outcome) -> tuple[Status, list[Finding], list[Finding]]:
    """Return a served record's status, the findings that invalidate it, and the warnings."""
    served = outcome.served
    assert served is not None
    warnings = list(_warnings(served))
    if outcome.status is not Status.OK:
        return outcome.status, [], warnings
    problems = list(_problems(served, outcome))
    return Status.INVALID if problems else Status.OK, problems, warnings


def _problems(served: Served, outcome: Outcome) -> Iterator[Finding]:
    client, server, told = served.client, served.server, served.figures
    failed = sum(served.failed.values())
    if not served.due:
        yield Finding("no_requests", f"no request was due in the window of {served.window_s:g} s")
        return
    if failed > FAILED_SHARE * served.due:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(served.failed.items()))
        yield Finding("failed_requests", f"{failed} of {served.due} requests failed: {kinds}")
    for name, wanted in (("token_count", "new tokens"), ("prompt_tokens", "prompt tokens")):
        if wrong := outcome.returned.get(name):
            yield Finding(name, f"{wrong} of {served.due} answers had not the {wanted} asked for")
    if hits := server.get("prefix_cache_hits"):
        yield Finding("prefix_hits", f"{hits:,.0f} prompt tokens came from the server's prefix cache")
    if cached := outcome.returned.get("cached_tokens"):
        yield Finding("prefix_hits", f"{cached} prompt tokens came from a cache, says the usage")
    ttft = outcome.given.get("served_ttft_s")
    late, allowed = client.get("send_lag_p99_ns") or 0, LATE_SHARE * 1e9 * (ttft.value if ttft else 0)
    if late > max(LATE_FLOOR_NS, allowed):
        yield Finding("late_sends", f"1 % of the requests were sent over {late / 1e6:.2f} ms late")
    if (busy := client.get("busy_share") or 0) > BUSY_SHARE:
        yield Finding("client_saturated", f"the client's core was busy for {busy:.0%} of the window")
    lag, gap = client.get("lag_p99_ns") or 0, client.get("gap_p50_ns") or 0
    if (merged := client.get("merged_share") or 0) > MERGED_SHARE and gap and lag > gap / 2:
        yield Finding(
            "coalesced",
            f"{merged:.1%} of the events were read together with the one before, by a client {lag / 1e6:.1f} ms behind",
        )
    if (moved := client.get("clock_moved_ns") or 0) > CLOCK_MOVED_NS:
        yield Finding("clock_step", f"the realtime clock moved by {moved / 1e3:.0f} us")
    if capped := client.get("capped"):
        yield Finding("capped", f"{capped} requests were due while every connection was in use")
    little, edge = told.get("little"), told.get("edge")
    if little is not None and edge is not None and not served.overloaded and abs(little) > LITTLE_WITHIN + edge:
        yield Finding("implausible", f"Little's law is off by {little:+.1%}")
    if server.get("restarted"):
        yield Finding("server_restarted", "the server at the end is not the one of the beginning")
    answered = server.get("requests")
    if answered is not None and answered > server.get("sent", 0):
        yield Finding(
            "foreign_load",
            f"the server ended {answered:,.0f} requests, and {server['sent']:,} were ours",
        )


def _warnings(served: Served) -> Iterator[Finding]:
    client, told = served.client, served.figures
    if served.overloaded:
        yield Finding(
            "overloaded",
            f"{told.get('offered_rps'):g} requests a second came in and {told.get('achieved_rps'):g} went out",
        )
    if not served.steady:
        yield Finding("unsteady", f"the rate had not settled after {served.warmup_s:.0f} s")
    elif abs(halves := told.get("halves") or 0.0) > UNSTEADY:
        yield Finding("unsteady", f"the window's halves differ by {halves:+.1%} in tokens a second")
    if served.due < FEWEST:
        yield Finding("few_requests", f"{served.due} requests, too few for percentiles")
    if client.get("shares_core"):
        yield Finding("shared_core", "the client has no core of its own")
    if client.get("stamps") == "user":
        yield Finding("user_clock", "times are the client's own, without the kernel's stamps")
    if not served.server.get("fresh"):
        yield Finding("one_server", "all sessions are windows of one server, started by somebody else")
    if served.tokens == "usage":
        yield Finding("tokens_by_usage", "the server gives no ids; its own count was believed")
    if reconnects := client.get("reconnects"):
        yield Finding("reconnects", f"{reconnects} connections were opened while the load was on")
