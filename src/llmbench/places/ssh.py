"""Machines that OpenSSH reaches without a question: `ssh:a,b`."""

from __future__ import annotations

import shlex

from llmbench import places

SSH = (
    "ssh",
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ServerAliveInterval=10",
    "-o",
    "ServerAliveCountMax=2",
)
"""Asks nothing, and notices within 30 s a machine that no longer answers."""


def hosts(rest: str, names: tuple[str, ...]) -> list[places.HostCommand]:
    """Return the hosts of a comma list, each as `ssh` takes it."""
    wanted = [*places.listed(rest, "ssh"), *names]
    command = f"exec {shlex.join(places.agent())}"
    return [places.HostCommand(name, (*SSH, "--", name, command)) for name in wanted]
