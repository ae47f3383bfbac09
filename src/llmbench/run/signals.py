"""Stop signals of a sweep: a handler notes them, and the sleeping loop acts on them."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_S = 1.0
"""The interval, after a stop signal, of checks whether anybody reads the output."""


class Stoppable(Protocol):
    """What may be asked to stop: `fd` becomes readable when it is, and `signal` is then a signal's number."""

    @property
    def fd(self) -> int:
        """Return a file descriptor for `select`."""

    @property
    def signal(self) -> int | None:
        """Return the signal that asked, or None."""


class Interrupt:
    """A context in which a stop signal is stored in `signal` and makes `fd` readable, and ends nothing by itself."""

    def __init__(self) -> None:
        """Make the pipe that wakes the loop."""
        self.fd, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self.signal: int | None = None

    def __enter__(self) -> Self:
        """Take over the signals, except those that our parent set to be ignored, as `nohup` does."""
        heeded = [number for number in ASKING if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heeded}
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, discard_unread_output)
        self._woken_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the signal handlers."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(self._woken_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._wake)

    @property
    def exit_code(self) -> int:
        """Return the exit code that a shell expects after a signal: 130, 143 or 129."""
        return 128 + (self.signal or 0)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number
        signal.setitimer(signal.ITIMER_REAL, LOOK_S / 1000, LOOK_S)


def discard_unread_output(*_: object) -> None:
    """Discard output that nobody reads, because a blocked write cannot be stopped."""
    for stream in (1, 2):
        with suppress(OSError, ValueError):  # the output is closed
            if not select.select([], [stream], [], 0)[1]:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)
