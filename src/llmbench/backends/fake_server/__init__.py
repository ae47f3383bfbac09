"""A simulated server: it answers by a script at known times, and fails on request; for tests and `audit --client`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.backends import managed_server
from llmbench.serve import endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.results.record import Job

SERVES = True
OPTIONS = {
    "ttft_ms": 20.0,
    "itl_ms": 5.0,
    "jitter": 0.0,
    "slower": 1.0,
    "capacity": 0,
    "tokens_per_event": 1,
    "besides": 3,
    "prefix_cache": (False, True),
    "ids": (True, False),
    "fault": (
        "none", "html", "500", "refuse", "hang", "error_event", "empty", "die", "short", "cut", "comments",
        "prompt_short", "cached", "prefix_hits", "no_usage", "closes", "strict",
        "long", "repeat", "restarted",
    ),
    "every": 1,
}  # fmt: skip
MEANINGS = {
    "ttft_ms": "milliseconds to the first token",
    "itl_ms": "milliseconds between tokens",
    "jitter": "standard deviation of each of these, as a share of it",
    "slower": "factor over all times",
    "capacity": "requests at once from which the first token comes later; 0: any number",
    "tokens_per_event": "tokens that one event holds",
    "besides": "tokens that it counts in a text besides its words",
    "prefix_cache": "keep prompts in blocks of 16 tokens, and say how much of a new one was known",
    "ids": "whether the new ids are given where they are asked for",
    "fault": "what goes wrong",
    "every": "only in every so many requests",
}
DEFAULTS = {name: v[0] if isinstance(v, tuple) else v for name, v in OPTIONS.items()}
VOCABULARY = 32_000


def load(job: Job) -> FakeServer:
    """Start the server that the job's first cell describes."""
    return FakeServer(job)


def started(
    folder: Path, script: Mapping[str, Any], clients: int = 1
) -> tuple[managed_server.ManagedServer, endpoint.Address]:
    """Start a server that plays a script and keeps its log in a folder, as `log`; return it and where it listens."""
    file = Path(__file__).with_name("server.py")
    written = json.dumps({"seed": 0, **DEFAULTS, **script})
    arguments = ["--port-file", f"{folder}/port", "--log", f"{folder}/log", "--script", written]
    server = managed_server.ManagedServer([str(file), *arguments], clients=clients)
    return server, endpoint.Address("127.0.0.1", int(server.wait_for_file(folder / "port", 10.0)))


class FakeServer:
    """One process that plays a script."""

    vocab_size = VOCABULARY
    special_ids = frozenset({0, 1, 2})
    key = ""
    served_name = "fake"
    ignore_eos = True

    def __init__(self, job: Job) -> None:
        """Start the process and wait until it listens."""
        self._folder = tempfile.TemporaryDirectory()
        script = {**job.cells[0].options, "seed": job.session}
        self._server, self.address = started(
            Path(self._folder.name), script, managed_server.clients(job)
        )
        self.facts: Mapping[str, Any] = {
            "server": "fake",
            "version": "fake",
            "fresh": True,
            "cores": self._server.cores,
            "preallocates": False,
        }

    def counters(self) -> Mapping[str, float]:
        """Return what the server counts of itself."""
        return managed_server.vllm_counters(self.address)

    def process(self) -> tuple[int, float] | None:
        """Return the server's process, and when it began by its own account."""
        return self._server.identity()

    def close(self) -> None:
        """End the process."""
        self._server.close()
        self._folder.cleanup()
