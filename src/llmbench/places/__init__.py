"""The ways to other machines: each names hosts, and the command that runs an agent on one, with its pipes here.

`llmbench sweep --places ENGINE[:REST]` chooses one; a module of this folder is an engine, with the function `hosts`.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shlex
import sys
from typing import NamedTuple

from llmbench.errors import SpecError, did_you_mean

AGENT = "LLMBENCH_AGENT"
"""The environment variable with the command of an agent on the hosts, where it is not this interpreter's."""


class HostCommand(NamedTuple):
    """A machine by the name that messages use, and the command here that runs an agent there."""

    name: str
    command: tuple[str, ...]


def hosts(places: str, names: tuple[str, ...] = ()) -> list[HostCommand]:
    """Return the hosts that `ENGINE[:REST]` means.

    Args:
        places: such as `ssh:a,b`, `slurm`, `ray:auto` or `command:kubectl exec -i {host} --`.
        names: the hosts of a command's template.

    Raises:
        SpecError: no such engine, no host, one host twice, or the engine cannot be used here.

    """
    engine, _, rest = places.partition(":")
    known = engines()
    if engine not in known:
        raise SpecError(
            f"--places: {engine!r} is no way to a machine.{did_you_mean(engine, known)}"
        )
    module = importlib.import_module(f"llmbench.places.{engine}")
    found: list[HostCommand] = module.hosts(rest, names)
    if not found:
        raise SpecError(f"--places: {places!r} names no host.")
    twice = [host.name for place, host in enumerate(found) if host in found[:place]]
    if twice:
        raise SpecError(f"--places: host {twice[0]!r} is given twice; a box has one agent.")
    return found


def engines() -> list[str]:
    """Return the names of the ways."""
    return sorted(each.name for each in pkgutil.iter_modules(__path__) if each.name[0] != "_")


def agent() -> tuple[str, ...]:
    """Return the command of an agent: that of LLMBENCH_AGENT, else this interpreter's."""
    if text := os.environ.get(AGENT):
        return tuple(words(text, AGENT))
    return (sys.executable, "-P", "-m", "llmbench", "agent")


def words(text: str, where: str) -> list[str]:
    """Return a command's words as a shell splits them; raise SpecError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SpecError(f"{where}: {text!r} cannot be split into words: {error}.") from error


def listed(rest: str, engine: str) -> list[str]:
    """Return the names of a comma list; raise SpecError for one that a command could take for an option."""
    names = [name.strip() for name in rest.split(",") if name.strip()]
    for name in names:
        if name.startswith("-"):
            raise SpecError(f"--places: {engine}: {name!r} is not the name of a host.")
    return names
