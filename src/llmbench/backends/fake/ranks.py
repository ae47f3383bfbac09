"""The simulated engine on several boxes: the first waits for a connection from each other, and all end together."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING

from llmbench.errors import LoadFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.results.record import Job

MEET_WITHIN_S = 20.0
"""How long each waits for the others."""


def others(job: Job) -> list[socket.socket]:
    """Return a connection from each other box; empty for an engine on one."""
    if job.rank is None:
        return []
    with socket.create_server(("", job.rank.port)) as server:
        server.settimeout(MEET_WITHIN_S)
        try:
            return [server.accept()[0] for _ in range(job.rank.of - 1)]
        except TimeoutError as error:
            raise LoadFailed(f"another box did not connect within {MEET_WITHIN_S:.0f} s") from error


def hold(job: Job) -> None:
    """Connect to the first box, and return when that has ended."""
    assert job.rank is not None
    with _connected(job.rank.address, job.rank.port) as first:
        first.settimeout(None)
        first.recv(1)


def check(connections: Sequence[socket.socket]) -> None:
    """Raise ConnectionError if one of the other boxes has ended: it never says anything."""
    if connections and select.select(connections, [], [], 0)[0]:
        raise ConnectionError("another box has ended")


def _connected(address: str, port: int) -> socket.socket:
    deadline = time.monotonic() + MEET_WITHIN_S
    while True:
        try:
            return socket.create_connection((address, port), timeout=MEET_WITHIN_S)
        except OSError as error:
            if time.monotonic() > deadline:
                raise LoadFailed(
                    f"{address}:{port}: the first box does not answer: {error}"
                ) from error
            time.sleep(0.05)
