"""Units: the devices that cells are pinned to, each one GPU of one machine, or a machine's processors.

All sessions of a cell are measured on one unit, because two GPUs of one model differ a little.
"""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.errors import RunError
from llmbench.machine import gpus, nvidia
from llmbench.spec.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOST = "LLMBENCH_HOST"
"""The environment variable that names a machine where the system's own name does not tell it from others."""
ADDRESS = "VLLM_HOST_IP"
"""vLLM's environment variable for the address that other machines reach this one by."""
ELSEWHERE = ("8.8.8.8", 80)
"""Any address outside; vLLM chooses its own in this way."""
MACHINE_ID = Path("/etc/machine-id")


def host() -> str:
    """Return this machine's name."""
    return os.environ.get(HOST) or platform.node()


def address() -> str:
    """Return the address by which other machines reach this one: vLLM's variable, or that of the way to the network."""
    if given := os.environ.get(ADDRESS):
        return given
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)  # of a datagram: nothing is sent
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def uuids() -> list[str]:
    """Return the driver's ids of the GPUs that CUDA shows here, in its order; raise RunError if one has none."""
    found = []
    for number, handle in enumerate(gpus.handles()):
        name = gpus.ask(handle, "uuid") if handle is not None else None
        if not str(name).startswith(("GPU-", "MIG-")):
            raise RunError(
                f"{host()}: GPU {number} has no id of an NVIDIA driver, by which several GPUs are told apart; "
                "measure on one GPU, without --gpus and --places."
            )
        found.append(str(name))
    return found


def unit_of_cpu() -> str:
    """Return the id of this machine's processors."""
    return digest_of([_machine_id(), host()])


def unit_of_gpu(uuid: str) -> str:
    """Return the id of a GPU: it stays the same wherever the GPU is listed, and does not tell the driver's id."""
    return digest_of([uuid])


def visible(chosen: Sequence[str]) -> dict[str, str]:
    """Return the environment variables with which a process sees only these GPUs, given by the driver's ids."""
    return {**nvidia.ORDER, nvidia.VISIBLE: ",".join(chosen)}


def kind_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of an environment in which machines of one kind agree.

    Left out are the ids and the number of the GPUs, the choice among them, and the last GiB of the memory.
    """
    machine = dict(environment["machine"])
    cards = machine.pop("gpus", None) or []
    alike = [{key: fact for key, fact in card.items() if key != "uuid_hash"} for card in cards[:1]]
    variables = environment.get("variables", {})
    chosen = (nvidia.VISIBLE, *nvidia.ORDER)
    return {
        **environment,
        "variables": {key: value for key, value in variables.items() if key not in chosen},
        "machine": {
            **machine,
            "memory_bytes": (machine.get("memory_bytes") or 0) >> 30,
            "gpu": alike,
        },
    }


def _machine_id() -> str:
    try:
        return MACHINE_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
