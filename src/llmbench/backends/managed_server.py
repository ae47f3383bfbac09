"""A server's process that llmbench starts for a session: on its own cores, dying with its parent, ended whole."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import psutil

from llmbench import interpreter
from llmbench.errors import LoadFailed
from llmbench.serve import endpoint
from llmbench.spec import load as spec_load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from llmbench.results.record import Job
    from llmbench.serve.endpoint import Address

COUNTED = {
    "prefix_cache_hits": "vllm:prefix_cache_hits_total",
    "prefix_cache_queries": "vllm:prefix_cache_queries_total",
    "requests": "vllm:request_success_total",
    "preemptions": "vllm:num_preemptions_total",
    "server_ttft_sum_s": "vllm:time_to_first_token_seconds_sum",
    "server_ttft_count": "vllm:time_to_first_token_seconds_count",
}
"""Our names of the counters on a page of vLLM's metrics."""
STARTED = "process_start_time_seconds"
ERROR = re.compile(r"\b\w*Error: .+")
MOST_LOG = 2**22
"""How much of what a server said is kept, from its beginning."""
LOOK_S = 0.05
END_WITHIN_S = 10.0


class ManagedServer:
    """One process, in a group of its own."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        clients: int = 1,
    ) -> None:
        """Start a Python file with arguments; it leaves the last cores to the clients, but keeps half of all."""
        cores = sorted(os.sched_getaffinity(0))
        self._cores = cores[: -min(clients, len(cores) // 2)] if len(cores) > 1 else []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self._process = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            env={**os.environ, **interpreter.SAFE, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=self._begin,  # noqa: PLW1509 - the worker has one thread until it loads an engine
        )
        self._began = psutil.Process(self._process.pid).create_time()

    def _begin(self) -> None:
        interpreter.die_with_parent()
        if self._cores:
            os.sched_setaffinity(0, self._cores)

    @property
    def cores(self) -> str:
        """Return the cores that the server keeps to, with commas between; empty if the client has none of its own."""
        return ",".join(map(str, self._cores))

    def identity(self) -> tuple[int, float]:
        """Return the process and its start; it is another pair once it has ended."""
        return (self._process.pid, self._began) if self._process.poll() is None else (0, 0.0)

    def wait_for_file(self, path: Path, within_s: float) -> str:
        """Return a file's content as soon as it is there; raise LoadFailed if the process ends or is too slow."""
        return self._wait(
            lambda: path.read_text(encoding="ascii") if path.exists() else "", within_s
        )

    def wait_for_answer(self, address: Address, path: str, within_s: float) -> None:
        """Wait until the server answers a question; raise LoadFailed if it ends or is too slow."""

        def answers() -> str:
            try:
                endpoint.ask(address, path, timeout_s=2.0)
            except OSError:
                return ""
            return "yes"

        self._wait(answers, within_s)

    def _wait(self, ready: Callable[[], str], within_s: float) -> str:
        deadline = time.monotonic() + within_s
        while not (found := ready()):
            if (code := self._process.poll()) is not None:
                raise LoadFailed(
                    f"the server ended with code {code} before it answered: {self._last_error()}"
                )
            if time.monotonic() > deadline:
                raise LoadFailed(f"the server did not answer within {within_s:.0f} s")
            time.sleep(LOOK_S)
        return found

    def _last_error(self) -> str:
        """Return the last line of the server's log that names an error, without what stands before it."""
        self._log.seek(0)
        found = ERROR.findall(self._log.read().decode("utf-8", "replace"))
        return found[-1] if found else "it said no error"

    def _copy_log(self) -> None:
        """Write what the server said to our own log."""
        self._log.seek(0)
        sys.stderr.write(self._log.read(MOST_LOG).decode("utf-8", "replace"))
        self._log.close()

    def close(self) -> None:
        """End the process and its descendants, by force if asking takes too long."""
        self._end()
        self._copy_log()

    def _end(self) -> None:
        try:
            mine = psutil.Process(self._process.pid)
            everyone = [*mine.children(recursive=True), mine]
        except psutil.NoSuchProcess:
            self._process.wait()
            return
        self._process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(everyone, timeout=END_WITHIN_S)
        for process in alive:
            process.kill()
        self._process.wait()


def clients(job: Job) -> int:
    """Return how many client processes the loads of a job want at most."""
    return max(spec_load.shards(cell.options) for cell in job.cells)


def vllm_counters(address: Address, key: str = "") -> dict[str, float]:
    """Return what a server counts on a page of metrics as vLLM has it; empty if it has no such page."""
    try:
        page = endpoint.prometheus(endpoint.ask(address, "/metrics", key=key))
    except OSError:
        return {}
    return {ours: page[theirs] for ours, theirs in COUNTED.items() if theirs in page}
