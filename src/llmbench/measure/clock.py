"""The two clocks of a measurement."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock(NamedTuple):
    """Two clocks in nanoseconds: the monotonic one for timing, and the wall clock to check it."""

    now: Callable[[], Any]
    wall: Callable[[], Any]


REAL = Clock(time.monotonic_ns, time.time_ns)
