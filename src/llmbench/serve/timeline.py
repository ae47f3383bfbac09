"""Replies on one clock, and what a window of them says: times, rates, how many were in flight, whether it was steady.

Everything here is arithmetic on arrays: nothing waits, and nothing knows of a socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llmbench.serve.wire import ServedReply

SUB_WINDOWS, STEADY_WITHIN = 3, 0.05
"""A ramp is over when so many successive parts of it received bytes at rates that agree within this share."""
GRID = 50
"""Moments of a window at which the requests in flight are counted, to see whether they grow."""
ONE_SIDED = 1.645
"""The normal quantile of 95 %, one-sided."""
BACKLOG_SHARE = 0.97
"""Completions below this share of arrivals, with a backlog that grows, mean more load than the server carries."""
TAIL = 10
"""A percentile p is given from 10 / (1 - p) requests: ten lie beyond it."""


class ServedRequest(NamedTuple):
    """One request, all times monotonic nanoseconds; `token_ns` holds the arrival of each event with tokens.

    `lag_ns` is the client's clock after a read minus the kernel's stamp, for each of those events; empty without
    stamps. `merged` says how many came in one read with the one before. The others are as in `wire.ServedReply`.
    """

    number: int
    due_ns: int
    sent_ns: int
    ended_ns: int
    token_ns: list[int]
    lag_ns: list[int]
    merged: int
    tokens: int | None
    prompt_tokens: int | None
    cached_tokens: int | None
    trouble: str

    @property
    def ttft_ns(self) -> int:
        """Return the time from when it was due to its first token."""
        return self.token_ns[0] - self.due_ns

    @property
    def e2e_ns(self) -> int:
        """Return the time from when it was due to its last token."""
        return self.token_ns[-1] - self.due_ns

    @property
    def tpot_ns(self) -> float | None:
        """Return the time per token after the first; None for one token, or if the server did not count them."""
        if self.tokens is None or self.tokens < 2 or len(self.token_ns) < 2:
            return None
        return (self.token_ns[-1] - self.token_ns[0]) / (self.tokens - 1)


def on_one_clock(
    replies: Sequence[ServedReply], offsets: Sequence[tuple[int, int]]
) -> list[ServedRequest]:
    """Return the replies with the kernel's stamps moved to the monotonic clock.

    Args:
        replies: as parsed.
        offsets: pairs of a monotonic time and realtime minus monotonic then, in nanoseconds.

    """
    at = np.array([moment for moment, _ in offsets], dtype=np.float64)
    first = offsets[0][1] if offsets else 0
    drift = np.array([offset - first for _, offset in offsets], dtype=np.float64)
    return [_placed(reply, at, drift, first) for reply in replies]


def _placed(
    reply: ServedReply, at: NDArray[np.float64], drift: NDArray[np.float64], first: int
) -> ServedRequest:
    user = np.array(reply.user_ns, dtype=np.int64)
    kernel = np.array(reply.kernel_ns, dtype=np.int64)
    stamped = len(kernel) > 0 and bool((kernel > 0).all()) and len(at) > 0
    offset = (
        first + np.interp(user.astype(np.float64), at, drift).astype(np.int64) if stamped else 0
    )
    token = kernel - offset if stamped else user
    return ServedRequest(
        number=reply.number,
        due_ns=reply.due_ns,
        sent_ns=reply.sent_ns,
        ended_ns=reply.ended_ns,
        token_ns=token.tolist(),
        lag_ns=(user - token).tolist() if stamped else [],
        merged=reply.merged,
        tokens=reply.tokens,
        prompt_tokens=reply.prompt_tokens,
        cached_tokens=reply.cached_tokens,
        trouble=reply.trouble,
    )


def steady(bytes_at: Sequence[tuple[int, int]], part_ns: int) -> bool:
    """Return whether the last parts of a ramp received bytes at the same rate.

    Args:
        bytes_at: pairs of a time and the bytes received until then, in nanoseconds and in order.
        part_ns: the length of a part.

    """
    if not bytes_at:
        return False
    end = bytes_at[-1][0]
    if end - bytes_at[0][0] < SUB_WINDOWS * part_ns:
        return False
    times, counts = np.array(bytes_at, dtype=np.float64).T
    edges = end - part_ns * np.arange(SUB_WINDOWS, -1, -1, dtype=np.float64)
    received = np.diff(np.interp(edges, times, counts))
    return bool(received.min() > 0 and received.max() / received.min() - 1 <= STEADY_WITHIN)


class WindowFigures(NamedTuple):
    """What a window says; times in seconds.

    Attributes:
        due: requests due in it.
        done: of those, the ones answered in full.
        failed: of those, why the others were not, and how many.
        ended: requests that ended in it, whenever they were due.
        output_tok_s: tokens that arrived in it a second.
        offered_rps: requests due a second.
        achieved_rps: requests that ended in it a second.
        in_flight: the mean number of requests between due and end.
        little: the mean number that Little's law gives, over `in_flight`, minus 1; NaN if nothing was answered.
        edge: the mean latency over the window's length: how far that may be off because of its two ends.
        growth_low: the lower end of a one-sided 95 % interval of the growth of requests in flight, a second.
        halves: tokens a second in the second half over those in the first, minus 1.

    """

    due: int
    done: int
    failed: Mapping[str, int]
    ended: int
    output_tok_s: float
    offered_rps: float
    achieved_rps: float
    in_flight: float
    little: float
    edge: float
    growth_low: float
    halves: float

    @property
    def overloaded(self) -> bool:
        """Return whether more came in than went out, for as long as the window was open."""
        return self.growth_low > 0 and self.achieved_rps < BACKLOG_SHARE * self.offered_rps


def due_in(requests: Sequence[ServedRequest], start_ns: int, end_ns: int) -> list[ServedRequest]:
    """Return the requests that were due in a window."""
    return [request for request in requests if start_ns <= request.due_ns < end_ns]


def figures(
    requests: Sequence[ServedRequest], start_ns: int, end_ns: int, until_ns: int
) -> WindowFigures:
    """Return what a window says.

    Args:
        requests: all that were sent, with those that have not ended when the run did.
        start_ns: the window's start.
        end_ns: its end.
        until_ns: the end of the run, after it.

    """
    length_s = (end_ns - start_ns) / 1e9
    mine = due_in(requests, start_ns, end_ns)
    done = [request for request in mine if not request.trouble]
    troubles: dict[str, int] = {}
    for request in mine:
        if request.trouble:
            kind = request.trouble.partition(":")[0]
            troubles[kind] = troubles.get(kind, 0) + 1
    begun = np.array([request.due_ns for request in requests], dtype=np.float64)
    gone = np.array([_gone(request, until_ns) for request in requests], dtype=np.float64)
    overlap = np.minimum(gone, end_ns) - np.maximum(begun, start_ns)
    in_flight = float(np.maximum(overlap, 0).sum() / (end_ns - start_ns))
    latencies = [(_gone(request, until_ns) - request.due_ns) / 1e9 for request in mine]
    mean_s = float(np.mean(latencies)) if latencies else float("nan")
    ended = int(((gone >= start_ns) & (gone < end_ns)).sum())
    tokens = _tokens_between(requests, start_ns, end_ns)
    middle = (start_ns + end_ns) // 2
    first = _tokens_between(requests, start_ns, middle)
    return WindowFigures(
        due=len(mine),
        done=len(done),
        failed=troubles,
        ended=ended,
        output_tok_s=tokens / length_s,
        offered_rps=len(mine) / length_s,
        achieved_rps=ended / length_s,
        in_flight=in_flight,
        little=len(mine) / length_s * mean_s / in_flight - 1
        if in_flight and mine
        else float("nan"),
        edge=mean_s / length_s,
        growth_low=_growth_low(begun, gone, start_ns, end_ns),
        halves=(tokens - first) / first - 1 if first else float("nan"),
    )


def _gone(request: ServedRequest, until_ns: int) -> int:
    """Return when a request had been answered: its last token, or its end if it had none."""
    if request.token_ns and not request.trouble:
        return request.token_ns[-1]
    return min(request.ended_ns, until_ns)


def _tokens_between(requests: Sequence[ServedRequest], start_ns: int, end_ns: int) -> float:
    """Return how many tokens arrived; an event stands for as many tokens as its answer had for each."""
    total = 0.0
    for request in requests:
        if not request.token_ns or request.token_ns[-1] < start_ns or request.token_ns[0] >= end_ns:
            continue
        inside = sum(start_ns <= at < end_ns for at in request.token_ns)
        per_event = (request.tokens or len(request.token_ns)) / len(request.token_ns)
        total += inside * per_event
    return total


def _growth_low(
    begun: NDArray[np.float64], gone: NDArray[np.float64], start_ns: int, end_ns: int
) -> float:
    """Return the lower end of the growth of requests in flight, a second, by a straight line through a grid."""
    if not len(begun):
        return 0.0
    moments = np.linspace(start_ns, end_ns, GRID)
    counts = np.array([((begun <= at) & (gone > at)).sum() for at in moments], dtype=np.float64)
    seconds = (moments - moments[0]) / 1e9
    x = seconds - seconds.mean()
    slope = float((x * counts).sum() / (x * x).sum())
    rest = counts - counts.mean() - slope * x
    error = float(np.sqrt((rest * rest).sum() / (GRID - 2) / (x * x).sum()))
    return slope - ONE_SIDED * error


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return a percentile; None if fewer than ten values lie beyond it."""
    if len(values) * (1 - share) < TAIL - 1e-9:
        return None
    return float(np.percentile(np.array(values), 100 * share))
