"""This machine, through an agent as any other: what `--gpus` uses without `--places`."""

from __future__ import annotations

from llmbench import interpreter, places
from llmbench.errors import SpecError
from llmbench.machine import units


def hosts(rest: str, names: tuple[str, ...]) -> list[places.HostCommand]:
    """Return this machine."""
    if rest or names:
        raise SpecError("--places: local is this machine, and takes no names.")
    return [places.HostCommand(units.host(), tuple(interpreter.command("llmbench.run.agent")))]
