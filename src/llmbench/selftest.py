"""The self-test of llmbench: broken engines that must be caught, known answers, known changes.

The fake engine uses the real command, worker and file, and needs no GPU or model. A run of a real engine is split
into odd and even rounds, which differ only by chance.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmbench import compare, interpreter
from llmbench.compare import sides
from llmbench.compare.confounds import MARGIN, CompareOptions
from llmbench.errors import MEASURED, RunError
from llmbench.results import metrics, store
from llmbench.results.aggregate import DISTURBING
from llmbench.results.record import Record, Status
from llmbench.stats import effects
from llmbench.stats.effects import Verdict
from llmbench.stats.intervals import Moments, moments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llmbench.compare.sides import Side
    from llmbench.results.store import Log
    from llmbench.stats.effects import Effects

CONTROLS = {
    "early": ("implausible", "an engine that is not waited for"),
    "unit": ("implausible", "token times in another unit"),
    "tokens_short": ("token_count", "a token too few"),
    "tokens_ragged": ("token_count", "sequences of unequal length"),
    "prefix_hits": ("prefix_hit", "prompts served from a cache"),
    "placement": ("placement", "weights on another device"),
    "dtype": ("dtype", "weights in another type"),
    "clock_nan": ("clock", "a clock that says no number"),
    "clock_drift": ("clock", "two clocks that drift apart"),
}
"""Faults of the fake engine, each with the reason code that must be reported, and a description."""

BROKEN = (
    "name: audit\nwhy: To see broken engines caught.\n"
    f"axes: {{model: llama-7b@tiny, device: cpu, batch_size: 2, input_len: 8, output_len: 4,\n"
    f"  backend: {{fake: {{clock: virtual, fault: [none, {', '.join(CONTROLS)}]}}}}}}\n"
    "protocol: {sessions: 1, max_sessions: 1, min_time_s: 0, iterations: 5}\n"
)
KNOWN_NS = 8_000_000
"""The fake engine's virtual times: 5 ms to the first token and 1 ms for each of three more."""

SLEEPS = (
    "name: audit\nwhy: To see a change of 5 % found, and none where there is none.\n"
    "axes: {model: llama-7b@tiny, device: cpu, batch_size: [1, 2, 3], input_len: 8, output_len: 9,\n"
    "  backend: {fake: {ttft_ms: 2.0, tpot_ms: [4.0, 4.2], call: [5, 6]}}}\n"
    "protocol: {sessions: 5, max_sessions: 5, min_time_s: 0, iterations: 5, warmup_budget_s: 1}\n"
)
"""`call` says when a fault happens; without a fault, its two values run the same code."""
SLEEP_TTFT_S, SLEEP_WITHIN, SLEEP_WITHIN_S = 2e-3, 0.025, 50e-6

INSTANT = (
    "name: audit\nwhy: To see what the harness itself costs.\n"
    "axes: {model: llama-7b@tiny, device: cpu, input_len: 8, output_len: 1, backend: {fake: {ttft_ms: 0.0}}}\n"
    "protocol: {sessions: 1, max_sessions: 1, min_time_s: 0, iterations: 200}\n"
)
MOST_OVERHEAD_S = 50e-6

CHANGE = 1.05
"""The change that the self-test must detect on a real machine."""


QUIET = "quiet"
"""The first words of the check whose failure may explain other failures."""


class Checked(NamedTuple):
    """The result of one check, with its figures."""

    check: str
    passed: bool
    figures: str


def on_the_fake_engine(folder: Path) -> Iterator[Checked]:
    """Yield every check that needs no real engine; measures into the folder for half a minute."""
    yield from _controls(_swept(folder / "broken", BROKEN))
    sleeps = _swept(folder / "sleeps", SLEEPS)
    yield _quiet(sleeps)
    yield from _sleeps(sleeps)
    yield _differing("A/A: the same engine twice", _by(sleeps, "call"), most=0)
    yield _differing("sensitivity: a sleep 5 % longer", _by(sleeps, "tpot_ms"), least=1.0)
    spent = _median_s(_records(_swept(folder / "instant", INSTANT)))
    figures = f"{spent * 1e6:.1f} of {MOST_OVERHEAD_S * 1e6:.0f} microseconds"
    yield Checked("overhead of a timed call", spent <= MOST_OVERHEAD_S, figures)


def of_a_run(log: Log, name: str) -> Iterator[Checked]:
    """Yield the checks that are possible on a run of any engine.

    Raises:
        RunError: no cell has two sessions in odd and two in even rounds.

    """
    yield _valid(log)
    yield _quiet(log)
    for key in ("e2e_s", "ttft_s", "tpot_s"):
        side = sides.read(name, log, metrics.BY_KEY[key])
        halves = _halves(side, 1.0)
        if not len(halves.ratio):
            raise RunError(
                f"{name}: no cell has two valid sessions in odd and two in even rounds; "
                "measure with llmbench sweep --sessions 4 or more."
            )
        label = metrics.BY_KEY[key].label
        yield _differing(f"A/A: odd against even rounds, {label}", halves, most=0)
        changed = _halves(side, CHANGE)
        yield _differing(f"sensitivity: 5 % more in even rounds, {label}", changed, least=0.5)
    yield _clocks(log)


def _swept(folder: Path, text: str) -> Log:
    """Measure a sweep through the real command."""
    sweep = folder.with_suffix(".yaml")
    sweep.write_text(text, encoding="utf-8")
    command = interpreter.command("llmbench.__main__", "sweep", sweep, "-o", folder)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | interpreter.SAFE
    )
    if done.returncode not in MEASURED:
        raise RunError(
            f"audit: a sweep of the fake engine ended with {done.returncode}: {done.stderr.strip()}"
        )
    return store.read(folder)


def _records(log: Log) -> list[Record]:
    return [line for line in log if isinstance(line, Record)]


def _controls(log: Log) -> Iterator[Checked]:
    by_fault = {record.cell.options.get("fault", "none"): record for record in _records(log)}
    for fault, (code, words) in CONTROLS.items():
        record = by_fault.get(fault)
        codes = sorted({problem.code for problem in record.problems}) if record else []
        outcome = f"{record.status}: {', '.join(codes)}" if record and codes else "not caught"
        yield Checked(f"caught: {words}", code in codes, outcome)
    whole = by_fault.get("none")
    times = {sample.e2e_ns for sample in whole.outcome.samples} if whole else set()
    exact = whole is not None and whole.status is Status.OK and times == {KNOWN_NS}
    outcome = ", ".join(map(str, sorted(time for time in times if time))) or "no time"
    yield Checked("known answer: a virtual clock, exactly", exact, f"{outcome} of {KNOWN_NS} ns")


def _sleeps(log: Log) -> Iterator[Checked]:
    shares = []
    for record in _records(log):
        step_s = float(record.cell.options["tpot_ms"]) / 1e3
        asked_s = SLEEP_TTFT_S + step_s * (record.cell.output_len - 1)
        off_s = abs(_median_s([record]) - asked_s)
        shares.append((off_s / max(SLEEP_WITHIN * asked_s, SLEEP_WITHIN_S), off_s, asked_s))
    share, off_s, asked_s = max(shares, default=(np.inf, np.inf, 0.0))
    figures = f"at worst {off_s * 1e6:.0f} microseconds off {asked_s * 1e3:.1f} ms"
    yield Checked("clock: a real sleep within 2.5 %", share <= 1, figures)


def _by(log: Log, factor: str) -> Effects:
    """Return the effects of a factor of one run, paired by round."""
    tpot = metrics.BY_KEY["tpot_s"]
    made = compare.within(sides.read("audit", log, tpot), CompareOptions(tpot, factor=factor))
    return made.contrasts[0].effects


def _differing(
    check: str, seen: Effects, *, most: int | None = None, least: float = 0.0
) -> Checked:
    """Check how many cells were called slower or faster: at most `most`, or at least the share `least` slower."""
    slower = int((seen.verdict == Verdict.WORSE).sum())
    faster = int((seen.verdict == Verdict.BETTER).sum())
    count = len(seen.verdict)
    passed = slower + faster <= most if most is not None else slower >= least * count
    return Checked(
        check, bool(passed and count), f"{slower} slower, {faster} faster of {count} cells"
    )


def _halves(side: Side, change: float) -> Effects:
    """Compare the even rounds, with multiplied values, with the odd ones, for cells with two of each."""
    even = side.rounds % 2 == 0
    count = len(side.cells)
    left, right = (
        moments(side.values[half] * factor, side.owners[half], count)
        for half, factor in ((~even, 1.0), (even, change))
    )
    enough = (left.n > 1) & (right.n > 1)
    odd, even_ones = (
        Moments(of.n[enough], of.mean[enough], of.squares[enough]) for of in (left, right)
    )
    return effects.effects(effects.unpaired(odd, even_ones), MARGIN, lower_is_better=True)


def _valid(log: Log) -> Checked:
    records = [record for record in _records(log) if record.final]
    valid = sum(record.status is Status.OK for record in records)
    return Checked(
        "every session is valid", valid == len(records) > 0, f"{valid} of {len(records)}"
    )


def _quiet(log: Log) -> Checked:
    """Check that no other process was busy, which could make later checks fail."""
    records = _records(log)
    beside = sum(any(f.code in DISTURBING for f in record.warnings) for record in records)
    figures = f"{beside} of {len(records)} sessions ran while other processes were busy"
    return Checked(f"{QUIET}: nothing else on the machine", 2 * beside <= len(records), figures)


def _clocks(log: Log) -> Checked:
    drifted = sum(
        any(finding.code.startswith("clock") for finding in (*record.problems, *record.warnings))
        for record in _records(log)
    )
    return Checked(
        "clock: wall and monotonic agree", not drifted, f"{drifted} sessions where they disagree"
    )


def _median_s(records: list[Record]) -> float:
    """Return the median time of all iterations; infinite for none."""
    times = [
        sample.e2e_ns for record in records for sample in record.outcome.samples if sample.e2e_ns
    ]
    return statistics.median(times) / 1e9 if times else float("inf")
