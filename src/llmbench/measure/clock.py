"""The two clocks of a measurement."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock(NamedTuple):
    """Two readings in nanoseconds: one that never jumps, and the wall's, to judge the first by."""

    now: Callable[[], Any]
    wall: Callable[[], Any]


REAL = Clock(time.monotonic_ns, time.time_ns)
