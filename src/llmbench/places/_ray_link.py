"""One node of a Ray cluster as a command: an actor there runs the agent, and this passes its input and output on.

Sessions are no tasks of Ray, which would run one twice. Ray says where nodes are, and notices one that dies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from llmbench import places

HOST = "LLMBENCH_HOST"


class AgentOnNode:
    """The actor: an agent as its child, whose input ends with the actor."""

    def __init__(self, command: list[str], host: str) -> None:
        """Start the agent; its GPUs are those that Ray shows the actor."""
        words = command or [sys.executable, "-P", "-m", "llmbench", "agent"]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the actor
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            env=os.environ | {HOST: host},
        )  # fmt: skip

    def write(self, data: bytes) -> None:
        """Pass bytes on to the agent; none end its input."""
        assert self.process.stdin is not None
        if not data:
            self.process.stdin.close()
            return
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read(self) -> bytes:
        """Wait for bytes from the agent; none mean that it has ended."""
        assert self.process.stdout is not None
        return os.read(self.process.stdout.fileno(), 2**20)

    def last_words(self) -> str:
        """Return how the agent ended, and the end of what it wrote to its standard error."""
        code = self.process.wait()
        self.errors.seek(max(0, os.fstat(self.errors.fileno()).st_size - 4096))
        return f"{self.errors.read().decode(errors='replace')}\nthe agent ended with code {code}"


def main() -> None:
    """Print the nodes of the cluster at the address given first, or be the link to the node given next."""
    out = os.dup(1)
    os.dup2(2, 1)  # Ray prints
    address, *node = sys.argv[1:]
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False
        )
    except Exception as error:  # noqa: BLE001 - Ray raises many kinds; the last line of standard error is shown
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if not node:
        os.write(out, json.dumps(_nodes()).encode() + b"\n")
        return
    _link(out, *node)


def _nodes() -> list[dict[str, str]]:
    return [
        {
            "id": node["NodeID"],
            "host": node["NodeManagerHostname"],
            "gpus": str(int(node["Resources"].get("GPU", 0)) or ""),
            "cpus": str(int(node["Resources"].get("CPU", 0)) or ""),
        }
        for node in ray.nodes()
        if node["Alive"]
    ]


def _link(out: int, node: str, host: str, gpus: str) -> None:
    """Start the actor on a node and pass bytes on until either end closes."""
    command = (
        places.words(os.environ[places.AGENT], places.AGENT) if places.AGENT in os.environ else []
    )
    kind: Any = ray.remote(AgentOnNode)
    actor = kind.options(
        num_cpus=0, num_gpus=int(gpus or 0), max_restarts=0, max_task_retries=0, max_concurrency=3,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
    ).remote(command, host)  # fmt: skip
    threading.Thread(target=_pass_in, args=(actor,), daemon=True).start()
    try:
        while data := ray.get(actor.read.remote()):
            view = memoryview(data)
            while view:
                view = view[os.write(out, view) :]
        sys.stderr.write(ray.get(actor.last_words.remote()))
        sys.stderr.flush()
    except ray.exceptions.RayError as error:
        sys.stderr.write(f"{type(error).__name__}: Ray lost the node or its actor\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass  # the sweep is gone, and the actor goes with this process
    os._exit(0)


def _pass_in(actor: Any) -> None:
    """Pass the sweep's bytes on to the agent; at their end, its input ends."""
    try:
        while data := os.read(0, 2**20):
            ray.get(actor.write.remote(data))
        ray.get(actor.write.remote(b""))
    except ray.exceptions.RayError:
        return  # the other direction says so


if __name__ == "__main__":
    main()
