"""The GPUs that torch shows here as `cuda`, of either vendor, and the questions that their drivers answer.

In its order, which is not the driver's own: variables choose among them.
"""

from __future__ import annotations

from typing import Any

from llmbench.machine import amd, nvidia

LEVELS = ("sm_mhz", "mem_mhz", "temperature_c", "power_w", "hot", "power_capped")
"""Clocks in MHz, temperature in C, power in W, and 1 while heat or a power cap holds the clocks down, else 0."""
FACTS = (
    "name", "memory_bytes", "driver", "cuda_driver", "power_limit_w", "max_sm_mhz", "max_mem_mhz", "ecc", "mig",
    "persistence", "uuid",
)  # fmt: skip
"""What does not change while a sweep runs: size in bytes, limits in W and MHz, settings, and the driver's id."""


def handles() -> list[Any]:
    """Return a handle for each GPU; None for a lost one, empty if there is none or no driver answers."""
    return nvidia.handles() or amd.handles()


def handle(index: int) -> Any:
    """Return the handle of one of them, or None."""
    return dict(enumerate(handles())).get(index)


def present() -> bool:
    """Return whether there is a GPU to try, even if its driver does not answer."""
    return nvidia.present() or amd.present()


def trouble() -> str | None:
    """Return why a GPU that is in this machine cannot be seen or used; None if all can, or there is none."""
    return amd.trouble() if amd.present() else nvidia.trouble()


def ask(gpu: Any, question: str) -> Any:
    """Return a GPU's answer; None if its vendor's driver has no such question. Raises what the driver raises.

    Besides LEVELS and FACTS: `used_bytes` by all processes, `processes` as bytes by process id, `slowdowns` that are
    in force now, and since the driver's start `energy_mj`, and `capped_ns` and `hot_ns` for which power and heat held
    the clocks down.
    """
    known = amd.QUESTIONS if isinstance(gpu, amd.Card) else nvidia.QUESTIONS
    return known[question](gpu) if question in known else None
