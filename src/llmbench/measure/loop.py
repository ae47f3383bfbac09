"""The measuring loop for one cell on one loaded engine: warm-up, timed iterations, memory.

Only the engine's own work happens between the two clock reads: garbage collection is off, prompts are made before,
and counting, telemetry and messages come after.
"""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from typing import TYPE_CHECKING

from llmbench.measure import warmup
from llmbench.measure.clock import REAL
from llmbench.measure.engine import Speculator
from llmbench.measure.telemetry import CpuWindow
from llmbench.results.record import Outcome, Sample
from llmbench.spec import speculation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from llmbench.measure.clock import Clock
    from llmbench.measure.engine import Engine
    from llmbench.measure.prompts import Phase, Prompts, Workload
    from llmbench.measure.telemetry import Counters
    from llmbench.results.record import Memory
    from llmbench.spec.sweep import Cell, Protocol

MOST_RETRIES = 5
"""The number of throttled iterations discarded before a cell is given up."""


COOLED_S = 1.0
"""After a wait of this length a device has lowered its clocks, and is warmed up again."""


class Measurement:
    """The measurements of one cell up to now, which survive an exception that ends it."""

    def __init__(self, cell: Cell) -> None:
        """Begin without samples."""
        self.cell = cell
        self.phase: Phase | None = None
        self.warmup_ns: list[int | None] = []
        self.warmup_converged: bool | None = None
        self.samples: list[Sample] = []
        self.returned: Counter[str] = Counter()
        self.counters: dict[str, int] = {}
        self.telemetry: dict[str, Any] = {}
        self.memory: Memory | None = None

    def outcome(self, **more: Any) -> Outcome:
        """Return the measurements as an outcome."""
        return Outcome(
            cell=self.cell.id,
            phase=self.phase,
            warmup_ns=self.warmup_ns,
            warmup_converged=self.warmup_converged,
            samples=self.samples,
            returned=dict(self.returned),
            counters=self.counters,
            telemetry=self.telemetry,
            memory=self.memory,
            **more,
        )


class Loop:
    """One cell, one engine, one protocol; `run` does the whole measurement."""

    def __init__(
        self,
        engine: Engine,
        protocol: Protocol,
        workload: Workload,
        taken: Measurement,
        device: Counters,
        say: Callable[[Phase, int], None],
        await_quiet: Callable[[], None] | None = None,
    ) -> None:
        """Store the parts without running anything; `await_quiet` returns when this cell's clock may run."""
        self.engine, self.protocol, self.workload, self.taken = engine, protocol, workload, taken
        self.device, self.say, self.await_quiet = device, say, await_quiet
        self._last: tuple[Prompts, Sequence[Sequence[int]]] = [], []
        self.clock: Clock = getattr(engine, "clock", REAL)

    def run(self) -> None:
        """Prepare, warm up, time and read memory; results go into `taken` as they come."""
        self._enter("warmup")
        self.engine.prepare(self.taken.cell)
        gc.collect()
        gc.disable()
        try:
            self._warm_up()
            self._wait()
            self._measure()
        finally:
            gc.enable()
        self._prove_greedy()
        self._enter("memory")
        self.taken.memory = self.engine.memory(
            self.workload("memory", 0), self.taken.cell.output_len
        )
        self.taken.phase = None

    def _enter(self, phase: Phase) -> None:
        self.taken.phase = phase
        self.say(phase, 0)

    def _warm_up(self) -> None:
        """Run this exact shape until its time has no trend or the budget ends."""
        times, protocol = self.taken.warmup_ns, self.protocol
        spent_ns = 0
        while len(times) < protocol.warmup or not warmup.settled(times, protocol.warmup_within):
            spent = (
                spent_ns >= protocol.warmup_budget_s * 1e9 or len(times) >= protocol.max_iterations
            )
            if len(times) >= protocol.warmup and spent:
                break
            self.say("warmup", len(times) + 1)
            times.append(self._once(self.workload("warmup", len(times)))[0].e2e_ns)
            spent_ns += max(times[-1] or 0, 0)
        self.taken.warmup_converged = warmup.converged(times, protocol.warmup_within)

    def _wait(self) -> None:
        """Wait until the clock may run; after a longer wait make the fewest warm-up calls again."""
        if self.await_quiet is None:
            return
        began = time.monotonic()
        self.await_quiet()
        if time.monotonic() - began > COOLED_S:
            times = self.taken.warmup_ns
            for _ in range(self.protocol.warmup):
                self.say("warmup", len(times) + 1)
                times.append(self._once(self.workload("warmup", len(times)))[0].e2e_ns)

    def _measure(self) -> None:
        """Time iterations until their number and total time are large enough."""
        self.taken.phase = "iteration"
        self.taken.counters = before = dict(self.engine.counters())
        ranks = int(str(self.engine.facts.get("workers", 1)))
        window = CpuWindow(sweep=self.await_quiet is not None or ranks > 1)
        kept, timed_ns, discarded = 0, 0, 0
        while not self._enough(kept, timed_ns) and discarded <= MOST_RETRIES:
            number = len(self.taken.samples)
            self.say("iteration", number + 1)
            sample, lengths = self._once(self.workload("iteration", number))
            self.taken.samples.append(sample)
            self.taken.returned.update(lengths)
            if sample.discarded:
                discarded += 1
                self._cool_down(discarded)
                continue
            kept += 1
            timed_ns += max(sample.e2e_ns or 0, 0)
        self.taken.telemetry = {**window.read(), **self.device.summary()}
        self.taken.counters = {
            key: value - before.get(key, 0) for key, value in self.engine.counters().items()
        }

    def _prove_greedy(self) -> None:
        """Where tokens were drafted, count those of the last timed call that the model would not choose itself."""
        if not speculation.used(self.taken.cell.options):
            return
        assert isinstance(self.engine, Speculator), "an engine that speculates can be checked"
        within = speculation.NEAR_TIE_NATS[self.taken.cell.dtype]
        gaps = [gap for row in self.engine.below_likeliest(*self._last) for gap in row]
        self.taken.counters |= {
            speculation.NOT_GREEDY: sum(not gap <= within for gap in gaps),  # negated to count NaN
            speculation.NEAR_TIES: sum(0 < gap <= within for gap in gaps),
        }

    def _cool_down(self, discarded: int) -> None:
        """Pause after a throttled iteration, unless the cell is given up."""
        if discarded <= MOST_RETRIES:
            time.sleep(self.protocol.cool_down_s)

    def _enough(self, kept: int, timed_ns: int) -> bool:
        if kept >= self.protocol.max_iterations:
            return True
        return kept >= self.protocol.iterations and timed_ns >= self.protocol.min_time_s * 1e9

    def _once(self, prompts: list[list[int]]) -> tuple[Sample, list[str]]:
        """Time one call; return the sample and the length of every sequence that came back."""
        engine, now, wall, output_len = (
            self.engine,
            self.clock.now,
            self.clock.wall,
            self.taken.cell.output_len,
        )
        before = self.device.read()
        engine.synchronize()
        wall_start, start = wall(), now()
        tokens = engine.generate(prompts, output_len)
        engine.synchronize()
        end, wall_end = now(), wall()
        spent = self.device.since(before)
        self._last = prompts, tokens
        sample = Sample(
            e2e_ns=whole(end - start),
            wall_ns=whole(wall_end - wall_start),
            token_ns=engine.token_ns(),
            energy_mj=spent.energy_mj,
            discarded=spent.throttled,
        )
        return sample, lengths_of(tokens, len(prompts))


def lengths_of(tokens: Sequence[Sequence[int]], batch_size: int) -> list[str]:
    """Return the length of every sequence; one that was not returned has length `missing`."""
    return [str(len(row)) for row in tokens] + ["missing"] * (batch_size - len(tokens))


def whole(ns: float) -> int | None:
    """Return whole nanoseconds, or None for an invalid number."""
    return int(ns) if math.isfinite(ns) else None
