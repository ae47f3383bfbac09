"""Machines that a command of the user's reaches: `command:kubectl exec -i {host} --`, with --hosts."""

from __future__ import annotations

import shlex

from llmbench import places
from llmbench.errors import SpecError

TEMPLATE = "command:kubectl exec -i {host} --"


def hosts(rest: str, names: tuple[str, ...]) -> list[places.HostCommand]:
    """Return a host for each name, with the template's command; `{agent}`, if absent, is appended."""
    words = places.words(rest, "--places")
    if not words:
        raise SpecError(f"--places: command: needs a template, such as '{TEMPLATE}'.")
    if not names:
        raise SpecError("--places: command: needs --hosts, the names that replace {host}.")
    if len(names) > 1 and "{host}" not in rest:
        raise SpecError("--places: command: the template has no {host}, and there are several.")
    return [places.HostCommand(name, _filled(words, name)) for name in names]


def _filled(words: list[str], host: str) -> tuple[str, ...]:
    """Return the command for a host; `{agent}` inside a word becomes text for a shell, as a word the agent's words."""
    agent = places.agent()
    text = shlex.join(agent)
    filled: list[str] = []
    for word in words if any("{agent}" in word for word in words) else [*words, "{agent}"]:
        named = word.replace("{host}", host)
        filled += agent if word == "{agent}" else [named.replace("{agent}", text)]
    return tuple(filled)
