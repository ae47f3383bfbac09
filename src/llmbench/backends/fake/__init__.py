"""The simulated engine: it sleeps or moves a virtual clock instead of generating, and fails on request.

It runs in the same worker as every other backend. It demonstrates the tool in five seconds, tests every fault
without a GPU, and checks the measuring loop against a known answer.
"""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbench.backends.fake import ranks
from llmbench.backends.fake.faults import FAULTS, AcceleratorError
from llmbench.measure.clock import REAL, Clock
from llmbench.results.record import Memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.results.record import Job
    from llmbench.spec.sweep import Cell

OPTIONS = {
    "ttft_ms": 5.0,
    "tpot_ms": 1.0,
    "jitter": 0.0,
    "session_spread": 0.0,
    "drift": 0.0,
    "warming": 0.0,
    "load_ms": 0.0,
    "tensor_parallel_size": 1,
    "nnodes": 1,
    "clock": ("real", "virtual"),
    "fault": (
        "none", "oom", "cuda_error", "error", "memory_error", "segv", "kill", "exit", "hang",
        "hang_native", "grandchild", "orphan", "junk", "flood", "fake_result", "partial", "chatter", "oversized",
        "unknown", "stranger", "nested", "tokens_short", "tokens_long", "tokens_ragged", "early", "unit", "prefix_hits",
        "placement", "dtype", "clock_zero", "clock_negative", "clock_nan", "clock_infinite",
        "clock_drift", "wall_jump", "trend", "two_modes", "spike", "unsupported", "oom_reworded", "oom_by_text",
        "cuda_misleading", "hostile", "leak", "leak_hang", "orphan_hang",
    ),
    "at": ("call", "load", "prepare", "memory", "exit"),
    "call": 5,
    "when": "",
    "chance": 1.0,
}  # fmt: skip
MEANINGS = {
    "ttft_ms": "milliseconds to the first token",
    "tpot_ms": "milliseconds for each further token",
    "jitter": "standard deviation of the logarithm of a call's time, within a session",
    "session_spread": "standard deviation of the logarithm of a session's time; the median stays true",
    "drift": "share by which each session is slower than the one before",
    "warming": "call k of a cell is slower by warming x exp(-k / 30)",
    "load_ms": "milliseconds that loading takes",
    "tensor_parallel_size": "GPUs that it takes, and leaves idle",
    "nnodes": "boxes that the engine is on; it waits for a connection from each, and ends with any of them",
    "clock": "really sleep, or move a clock of its own",
    "fault": "what goes wrong",
    "at": "where the fault happens",
    "call": "the call in which it happens, counted from 1 with the warm-up",
    "when": "only in such cells, sessions or attempts: batch_size=4,session=1 or batch_size>=4",
    "chance": "only in this share of them, drawn from the seed",
}
MIXES_LENGTHS = True
WARMING_CALLS = 30

VOCABULARY = 32_000


def load(job: Job) -> FakeEngine:
    """Return the engine that the job's first cell describes."""
    return FakeEngine(job)


def hold_rank(job: Job) -> None:
    """Stay connected to the first box until that ends."""
    ranks.hold(job)


class FakeEngine:
    """An engine with a script instead of a model."""

    vocab_size = VOCABULARY
    special_ids = frozenset({0, 1, 2})

    def __init__(self, job: Job) -> None:
        """Read the script from the cells' options, and spend the scripted time loading."""
        first = job.cells[0]
        self.job, self.cell, self.calls, self.slower = job, first, 0, 1.0
        self.script: dict[str, Any] = {
            key: value[0] if isinstance(value, tuple) else value for key, value in OPTIONS.items()
        }
        self.script |= first.options
        self.rng = np.random.default_rng([job.protocol.seed, job.session])
        self.virtual_ns = 1_000_000_000
        self.wall_ns = 1_700_000_000_000_000_000
        self.clock = Clock(self._now, self._wall) if self.script["clock"] == "virtual" else REAL
        self.times: list[int] = []
        self.hits: int = 0
        self.broken = False
        self.others = ranks.others(job)
        self._pass(self.script["load_ms"])
        self._fail_at("load")
        fault = self.script["fault"] if self._applies() else "none"
        self.facts: Mapping[str, Any] = {
            "engine": "fake",
            "param_devices": "meta" if fault == "placement" else first.device,
            "param_dtypes": "float64" if fault == "dtype" else first.dtype,
            "parameters": 0,
        }

    def tokenize(self, text: str) -> list[int]:
        """Return one id per word."""
        return [3 + sum(word.encode()) % (VOCABULARY - 3) for word in text.split()]

    def prepare(self, cell: Cell) -> None:
        """Begin a cell."""
        self.cell, self.calls, self.slower = cell, 0, self._slower()
        self._fail_at("prepare")

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[list[int]]:
        """Let the scripted time pass and return made-up ids."""
        self.calls += 1
        ranks.check(self.others)
        self._fail_at("call")
        start = self.clock.now()
        self.times = []
        first_ms, step_ms = self._milliseconds()
        for token in range(output_len):
            self._pass(
                first_ms if token == 0 else step_ms,
                until=start + (first_ms + token * step_ms) * 1e6,
            )
            elapsed = self.clock.now() - start
            self.times.append(int(elapsed) if np.isfinite(elapsed) else 0)
        return self._tokens(prompts, output_len)

    def token_ns(self) -> list[list[int]]:
        """Return the times of the tokens; the fault `early` triples them, `unit` returns microseconds."""
        factor = 3 if self._fault_is("early") else 1e-3 if self._fault_is("unit") else 1
        return [[round(time_ns * factor) for time_ns in self.times]]

    def counters(self) -> dict[str, int]:
        """Return the cache hits, which only the fault `prefix_hits` causes."""
        return {"prefix_cache_hits": self.hits}

    def synchronize(self) -> None:
        """Wait for nothing."""

    def memory(self, prompts: Sequence[Sequence[int]], output_len: int) -> Memory:
        """Return made-up sizes: 1024 bytes per token."""
        self._fail_at("memory")
        return Memory(kv_cache_bytes=1024 * sum(len(prompt) + output_len for prompt in prompts))

    def close(self) -> None:
        """End, or fail if the script says so."""
        self._fail_at("exit")

    def _slower(self) -> float:
        """Return how many times slower this session of the cell is than the script says."""
        spread = self.script["session_spread"] * self._of_session().gauss(0, 1)
        return math.exp(spread + (self.job.session - 1) * math.log1p(self.script["drift"]))

    def _milliseconds(self) -> tuple[float, float]:
        """Return this call's time to the first token and between tokens."""
        script = self.script
        factor = self.slower * math.exp(script["jitter"] * float(self.rng.standard_normal()))
        factor *= 1 + script["warming"] * math.exp(-(self.calls - 1) / WARMING_CALLS)
        if self._fault_is("trend"):
            factor *= 1 + 0.05 * self.calls
        if self._fault_is("two_modes"):
            factor *= 1 + 0.3 * (self.calls % 2)
        if self._fault_is("spike") and self.calls == self.script["call"]:
            factor *= 10
        return self.script["ttft_ms"] * factor, self.script["tpot_ms"] * factor

    def _tokens(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[list[int]]:
        lengths = [output_len] * len(prompts)
        if self._fault_is("tokens_short"):
            lengths = [output_len - 1] * len(prompts)
        elif self._fault_is("tokens_long"):
            lengths = [output_len + 1] * len(prompts)
        elif self._fault_is("tokens_ragged"):
            lengths = (
                [output_len - number % 2 for number in range(len(prompts))]
                if len(prompts) > 1
                else []
            )
        return [[7] * length for length in lengths]

    def _pass(self, milliseconds: float, until: float | None = None) -> None:
        """Advance the script's clock; a real sleep ends at an absolute time to keep errors from adding up."""
        self.virtual_ns += round(milliseconds * 1e6)
        self.wall_ns += round(milliseconds * 1e6)
        if self.script["clock"] == "real" and milliseconds > 0:
            end = REAL.now() + milliseconds * 1e6 if until is None else until
            while (left := end - REAL.now()) > 0:
                time.sleep(left / 1e9)

    def _now(self) -> float:
        """Return the virtual monotonic clock, or the value of a broken one."""
        broken = {"clock_zero": 0, "clock_nan": float("nan"), "clock_infinite": float("inf")}
        if self._fault_is("clock_negative"):
            return -self.virtual_ns
        return next(
            (value for fault, value in broken.items() if self._fault_is(fault)), self.virtual_ns
        )

    def _wall(self) -> float:
        """Return the virtual wall clock, which may drift or jump."""
        if self._fault_is("clock_drift"):
            return round(self.wall_ns + 0.05 * self.virtual_ns)
        jumped = self._fault_is("wall_jump") and self.calls >= self.script["call"]
        return self.wall_ns + (3_600_000_000_000 if jumped else 0)

    def _fault_is(self, name: str) -> bool:
        return bool(self.script["fault"] == name) and self._applies()

    def _applies(self) -> bool:
        """Return whether `when` and `chance` hold for this cell, session and attempt."""
        known = {
            "batch_size": self.cell.batch_size, "input_len": self.cell.input_len, "output_len": self.cell.output_len,
            "session": self.job.session, "attempt": self.job.attempt,
        }  # fmt: skip
        pairs = [pair.split("=") for pair in self.script["when"].split(",") if pair]
        return self._of_session().random() < self.script["chance"] and all(
            known[name.strip(" >")] >= int(value) if ">" in name
            else known[name.strip()] == int(value)
            for name, value in pairs
        )  # fmt: skip

    def _of_session(self) -> random.Random:
        """Return a generator that draws the same for each call of this attempt at this cell."""
        job = self.job
        seed_text = f"{job.protocol.seed} {self.cell.id} {job.session} {job.attempt}"
        return random.Random(seed_text)  # noqa: S311 - a simulation, not a secret

    def _fail_at(self, place: str) -> None:
        """Fail here, if the script says so."""
        if place == "call" and self.broken:
            raise AcceleratorError("CUDA error: an illegal memory access was encountered")
        due = self.calls == self.script["call"] or place != "call"
        if self.script["at"] == place and due and self._applies():
            act = FAULTS.get(self.script["fault"])
            if act:
                act(self)
