"""The nodes of a Ray cluster: `ray` for the one that this machine belongs to, `ray:ADDRESS` for another."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections import Counter

from llmbench import interpreter, places
from llmbench.errors import SpecError

NODES_WITHIN_S = 60.0
"""How long a cluster may take to name its nodes; importing Ray takes seconds on a cold disk."""


def hosts(rest: str, names: tuple[str, ...]) -> list[places.HostCommand]:
    """Return the living nodes with GPUs, or all if none has any; a head without resources is left out."""
    if names:
        raise SpecError("--places: ray takes the nodes of its cluster, and no names.")
    if importlib.util.find_spec("ray") is None:
        raise SpecError("--places: ray: Ray is not installed; install llmbench[ray].")
    address = rest or "auto"
    nodes = _nodes(address)
    with_gpus = [node for node in nodes if node["gpus"]]
    chosen = with_gpus or [node for node in nodes if node["cpus"]]
    alike = Counter(node["host"] for node in chosen)
    found = []
    for node in chosen:
        name = node["host"] if alike[node["host"]] == 1 else f"{node['host']}-{node['id'][:6]}"
        words = (address, node["id"], name, node["gpus"])
        found.append(
            places.HostCommand(
                name, tuple(interpreter.command("llmbench.places._ray_link", *words))
            )
        )
    return found


def _nodes(address: str) -> list[dict[str, str]]:
    """Return id, host, GPUs and CPUs of each living node; a child asks, because Ray starts threads."""
    asked = interpreter.command("llmbench.places._ray_link", address)
    try:
        answer = subprocess.run(
            asked, capture_output=True, text=True, timeout=NODES_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SpecError(
            f"--places: ray: no answer from {address!r} in {NODES_WITHIN_S:.0f} s."
        ) from error
    if answer.returncode:
        lines = [line for line in answer.stderr.splitlines() if line.strip()]
        why = lines[-1].strip() if lines else f"code {answer.returncode}"
        raise SpecError(f"--places: ray: no cluster at {address!r}: {why}")
    nodes: list[dict[str, str]] = json.loads(answer.stdout.splitlines()[-1])
    return nodes
