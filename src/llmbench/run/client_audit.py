"""The audit of the client of served endpoints: what it adds on this machine, against a server that logs its sends."""

from __future__ import annotations

import resource
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmbench.backends import fake_server
from llmbench.selftest import Checked
from llmbench.serve import endpoint, stream, timeline, wire
from llmbench.serve.session import own_cores
from llmbench.serve.stream import Client, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llmbench.serve.endpoint import Address

STREAMS = (1, 16, 64, 256)
TOKENS, TTFT_MS, ITL_MS = 32, 50.0, 20.0
ANSWERS = 3
WITHIN_MS = 0.2
"""How late a token may be at the 99th percentile; what is later was read together with another, and is told so."""
LOGGED = struct.Struct("<qiq")


def checked() -> Iterator[Checked]:
    """Yield one check for each number of streams."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for streams in STREAMS:
        yield _at(streams)


def _at(streams: int) -> Checked:
    answer_s = (TTFT_MS + (TOKENS - 1) * ITL_MS) / 1e3
    with tempfile.TemporaryDirectory(prefix="llmbench-audit-") as name:
        folder = Path(name)
        server, address = fake_server.started(folder, {"ttft_ms": TTFT_MS, "itl_ms": ITL_MS})
        try:
            with own_cores(server.cores):
                client = Client(address[:2], streams, _requests(address), wire.reply)
                until = ANSWERS * answer_s * 1e9
                client.closed_loop(
                    int(answer_s * 1e9), lambda each, at: at if at - each.began_ns > until else None
                )
                client.offsets.append((now(), stream.offset()))
                client.parse_all()
                client.close()
        finally:
            server.close()
        sent = _sent(folder / "log")
    requests = timeline.on_one_clock(client.answers, client.offsets)
    whole = [r for r in requests if len(r.token_ns) == TOKENS == len(sent.get(r.number, ()))]
    late = np.concatenate(
        [np.array(r.token_ns) - sent[r.number] for r in whole] or [np.array([np.inf])]
    )
    users = np.concatenate([np.array(r.lag_ns) for r in whole if r.lag_ns] or [np.zeros(1)])
    merged = sum(r.merged for r in whole) / max(1, TOKENS * len(whole))
    rate = streams * TOKENS / answer_s
    p99 = float(np.percentile(late, 99)) / 1e6
    shares = "" if server.cores else ", sharing its core with the server"
    return Checked(
        f"the client adds at most {WITHIN_MS} ms with {streams} streams",
        p99 <= WITHIN_MS,
        f"{1e3 * p99:.0f} us at {rate:,.0f} tokens a second on one core{shares}; its own clock would add "
        f"{float(np.percentile(users, 99)) / 1e6:.2f} ms; {merged:.1%} read together ({len(whole)} answers)",
    )


def _requests(address: Address) -> Callable[[int], bytes]:
    body = b'{"prompt": [7], "max_tokens": %d, "stream": true}' % TOKENS
    whole = endpoint.request(address, body)
    first, _, rest = whole.partition(b"\r\n")
    return lambda number: b"%s\r\nX-Number: %d\r\n%s" % (first, number, rest)


def _sent(log: Path) -> dict[int, list[int]]:
    """Return when each request's tokens were sent."""
    sent: dict[int, list[int]] = {}
    for number, _, at in LOGGED.iter_unpack(log.read_bytes()):
        sent.setdefault(number, []).append(at)
    return sent
