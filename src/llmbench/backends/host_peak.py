"""Peak resident memory of this process, by the kernel, in bytes; no engine is needed for it."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

PROC = Path("/proc/self")


class HostPeak:
    """Peak resident memory of one phase, from the kernel's high-water mark, which is reset if the kernel allows it."""

    def __init__(self) -> None:
        self._exact = _reset_high_water()

    def of_phase_bytes(self) -> int | None:
        """Return the peak since this object was created; None if the mark could not be reset."""
        return _high_water_bytes() if self._exact else None


def whole_life_peak_bytes() -> int:
    """Return the peak of the whole process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _reset_high_water() -> bool:
    with contextlib.suppress(OSError):
        (PROC / "clear_refs").write_text("5", encoding="ascii")
        return _high_water_bytes() is not None
    return False


def _high_water_bytes() -> int | None:
    with contextlib.suppress(OSError):
        for line in (PROC / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024  # the kernel's kB are KiB
    return None
