"""The time of a worker: its own processor time, and what it has waited for its devices.

A busy machine takes the processor away in the middle of a call; such time does not count. A wait takes no time at all:
the clock is put forward. Times on the stand-in are therefore the same on any machine that computes as fast.
"""

from __future__ import annotations

import sys
import time

WORKER = "llmbench.run.forkserver"
BEGAN_NS, EPOCH_NS = time.monotonic_ns(), time.time_ns() - time.monotonic_ns()
WAITED_NS = [0]


def now_ns() -> int:
    """Return the moment in nanoseconds."""
    return BEGAN_NS + time.thread_time_ns() + WAITED_NS[0]


def wait_until(ns: int) -> None:
    """Put the clock forward to a moment, if it is to come."""
    WAITED_NS[0] += max(0, ns - now_ns())


def install() -> None:
    """Let the fork server and its workers have this time; all other processes have that of the system."""
    if sys.orig_argv[3:4] == [WORKER]:
        time.monotonic_ns = now_ns
        time.monotonic = lambda: now_ns() / 1e9
        time.time_ns = lambda: EPOCH_NS + now_ns()
