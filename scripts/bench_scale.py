"""Checks of sweeps on several boxes, each as a figure with its limit; the boxes are agents on this machine.

`dispatch` is what a session on a box costs over a session without one; `boxes` the wall time on four boxes against a
quarter of one; `agent` the CPU that a box's own processes use while a clock runs; `death` how soon a dead box is
noticed and what a killed sweep leaves; `thousand` runs 1,000 cells on eight boxes of eight GPUs; `pinned` compares
equal cells on boxes that differ by 8 %. The last two need no quiet machine.

    scripts/bench-scale [dispatch boxes agent death thousand pinned]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parents[1]
sys.path.insert(0, str(HERE / "tests"))

from boxes import boxes, one_of, slower  # noqa: E402 - after the path that has it
from llmbench.results import store  # noqa: E402
from llmbench.results.record import Begin, Record  # noqa: E402
from sweeps import VALID, Bench, asked  # noqa: E402

ONCE = {"sessions": 1, "max_sessions": 1, "warmup_budget_s": 0.0, "isolation": "cell"}
LENGTHS = [8, 16, 24, 32, 40, 48, 56, 64]
REPEATS = 5
BOXES = 4
OWN_S = 10.0
"""Over how long the CPU of a box's own processes is counted."""
LEFT_AFTER_S = 10.0
FACTOR = 1.08
"""How much two boxes of one kind may differ."""
MOST_S = 1800.0
"""The longest sweep here; the limit is against a hang."""


class Figure(NamedTuple):
    """A measured figure, its unit, and the most that it may be."""

    name: str
    value: float
    unit: str
    most: float


def session_s(bench: Bench, arguments: tuple[str, ...]) -> float:
    """Return the seconds that a session takes in a sweep in which nothing takes time."""
    bench.write(axes={"input_len": LENGTHS}, protocol=ONCE)
    done = bench.sweep(*arguments, patience_s=MOST_S)
    assert len(done.records) == 3 * len(LENGTHS), done.err
    return wall_of(bench) / len(done.records)


def wall_of(bench: Bench) -> float:
    """Return the seconds from the first begin to the last end of a run, by the times in its records."""
    lines = list(store.read(bench.run))
    begins = [datetime.fromisoformat(line.at) for line in lines if isinstance(line, Begin)]
    ends = [datetime.fromisoformat(line.ended) for line in lines if isinstance(line, Record)]
    return (max(ends) - min(begins)).total_seconds()


def dispatch(folder: Path) -> Iterator[Figure]:
    """Yield what a session on a box costs over one without."""
    extra = []
    for repeat in range(REPEATS):
        alone = Bench(fresh(folder, f"alone{repeat}"))
        box = Bench(fresh(folder, f"box{repeat}"))
        plain_s = session_s(alone, ())
        extra.append(session_s(box, boxes(box, "b1", gpus=0)) - plain_s)
    yield Figure(
        "dispatch of a session, over one without a box", statistics.median(extra) * 1e3, "ms", 30
    )


def slept(bench: Bench, names: list[str]) -> float:
    """Return the wall time of 16 groups that sleep for two seconds each, on these boxes."""
    sleeps = {"clock": "real", "ttft_ms": 250.0, "tpot_ms": 1.0}
    bench.write(axes={"batch_size": 1, "input_len": list(range(8, 24))}, protocol=ONCE, **sleeps)
    done = bench.sweep(*boxes(bench, *names, gpus=0), patience_s=MOST_S)
    assert len(done.records) == 16, done.err
    return wall_of(bench)


def walls(folder: Path) -> Iterator[Figure]:
    """Yield the wall time on several boxes, as a multiple of one box's over their number."""
    one_s = slept(Bench(fresh(folder, "one")), ["b1"])
    several_s = slept(Bench(fresh(folder, "several")), [f"b{n}" for n in range(BOXES)])
    yield Figure(
        f"wall on {BOXES} boxes, of a {BOXES}th of one's", several_s * BOXES / one_s, "x", 1.1
    )


def own_cpu(folder: Path) -> Iterator[Figure]:
    """Yield the CPU of a box's agent and slot while a clock runs."""
    bench = Bench(fresh(folder, "cpu"))
    bench.write(
        axes={"batch_size": 1, "device": "auto"},
        protocol={**ONCE, "warmup": 0, "min_time_s": 2 * OWN_S},
        clock="real", ttft_ms=1000.0,
    )  # fmt: skip
    sweep = bench.start("--gpus", "all", *boxes(bench, "b1", gpus=1))
    bench.wait_for('"kind":"begin"', sweep)
    time.sleep(2.0)  # the worker has loaded, and its clock runs
    own = [one_of(bench, "agent", "b1"), one_of(bench, "llmbench.run.slot", "b1")]
    before = [sum(process.cpu_times()[:2]) for process in own]
    time.sleep(OWN_S)
    used = [sum(p.cpu_times()[:2]) - start for p, start in zip(own, before, strict=True)]
    bench.ended(sweep)
    yield Figure("CPU of an agent while a clock runs", used[0] / OWN_S * 1e3, "ms a second", 1)
    yield Figure(
        "CPU of a slot, with a monitor of its GPU", used[1] / OWN_S * 1e3, "ms a second", 20
    )


def death(folder: Path) -> Iterator[Figure]:
    """Yield how soon a dead box is noticed, and what a killed sweep leaves."""
    bench = Bench(fresh(folder, "death"))
    bench.write(axes={"input_len": LENGTHS}, protocol=ONCE, clock="real", ttft_ms=200.0)
    sweep = bench.start(*boxes(bench, "b1", "b2", gpus=0))
    bench.wait_for('"kind":"end"', sweep)
    one_of(bench, "agent", "b2").kill()
    began = time.monotonic()
    while "Box b2 is gone" not in bench.out.read_text():
        time.sleep(0.01)
        assert time.monotonic() - began < MOST_S
    yield Figure("a dead box is noticed after", time.monotonic() - began, "s", 5)
    sweep.kill()
    sweep.wait()
    began = time.monotonic()
    while bench.alive() and time.monotonic() - began < LEFT_AFTER_S:
        time.sleep(0.05)
    yield Figure(
        f"processes left {LEFT_AFTER_S:.0f} s after a sweep died", len(bench.alive()), "", 0
    )
    yield Figure("the last of them ended after", time.monotonic() - began, "s", LEFT_AFTER_S)


def thousand(folder: Path) -> Iterator[Figure]:
    """Yield what is missing or doubled of 1,000 cells on eight boxes of eight GPUs."""
    bench = Bench(fresh(folder, "thousand"))
    axes: dict[str, Any] = {
        "model": "llama-7b@tiny", "device": "auto", "batch_size": list(range(1, 41)),
        "input_len": list(range(8, 33)),
    }  # fmt: skip
    bench.write(axes=axes, protocol={**ONCE, "isolation": "group"})
    names = [f"b{number}" for number in range(8)]
    began = time.monotonic()
    done = bench.sweep("--gpus", "all", *boxes(bench, *names, gpus=8), patience_s=MOST_S)
    took_s = time.monotonic() - began
    final = Counter((record.id, record.session) for record in done.records if record.final)
    units = {record.worker["unit"] for record in done.records}
    yield Figure("of 1,000 cells without a final record", 1000 - len(final), "", 0)
    yield Figure("with two", sum(count > 1 for count in final.values()), "", 0)
    yield Figure("GPUs of 64 that measured none", 64 - len(units), "", 0)
    yield Figure("wall", took_s, "s", MOST_S)


def pinned(folder: Path) -> Iterator[Figure]:
    """Yield how many of 120 equal cells are called different, on two boxes of which one is 8 % slower.

    The last figure shows that the cells would be called so if pins did not keep those that are compared together.
    """
    for across in ("unit", "kind"):
        bench = Bench(fresh(folder, across))
        equal(bench, [5, 6], across)
        swept(bench, *boxes(bench, "b1", "b2", gpus=0, more=slower(bench, "b2", FACTOR)))
        counts = verdicts(bench.run, "--by", "call")
        yield Figure(
            f"across: {across}: cells of {sum(counts.values())} called slower",
            counts["slower"],
            "",
            0,
        )
        yield Figure(f"across: {across}: called faster", counts["faster"], "", 0)
    apart = [Bench(fresh(folder, name)) for name in ("b1", "b2")]
    for bench in apart:
        equal(bench, [5], "unit")
        swept(bench, *boxes(bench, bench.folder.name, gpus=0, more=slower(bench, "b2", FACTOR)))
    counts = verdicts(apart[0].run, apart[1].run)
    yield Figure(
        f"a box each, cells of {sum(counts.values())} not called slower",
        sum(counts.values()) - counts["slower"],
        "",
        6,
    )


def equal(bench: Bench, calls: list[int], across: str) -> None:
    """Write a sweep of 120 cells for each value of `call`, an option that changes nothing without a fault."""
    axes = {
        "model": ["llama-7b@tiny", "gpt2@tiny"],
        "batch_size": list(range(1, 13)),
        "input_len": list(range(8, 13)),
    }
    sessions = {"sessions": 4, "max_sessions": 4, "warmup_budget_s": 0.0, "across": across}
    bench.write(axes=axes, protocol=sessions, session_spread=0.01, jitter=0.002, call=calls)


def swept(bench: Bench, *arguments: str) -> None:
    """Measure a sweep whole."""
    done = bench.sweep(*arguments, patience_s=MOST_S)
    assert done.code in VALID, done.err


def verdicts(*arguments: object) -> dict[str, int]:
    """Return how many cells a comparison calls what."""
    done = asked("compare", *arguments, "--metric", "e2e_s", "--format", "json")
    found: dict[str, int] = json.loads(done.out)["candidates"][0]["verdicts"]
    return found


def fresh(folder: Path, name: str) -> Path:
    """Return a new folder."""
    (folder / name).mkdir()
    return folder / name


PARTS: dict[str, Callable[[Path], Iterator[Figure]]] = {
    "dispatch": dispatch,
    "boxes": walls,
    "agent": own_cpu,
    "death": death,
    "thousand": thousand,
    "pinned": pinned,
}


def main() -> int:
    """Print each figure; return 1 if one is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=PARTS)
    missed = 0
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
        for part in parser.parse_args().parts:
            for figure in PARTS[part](Path(folder)):
                holds = figure.value <= figure.most
                missed += not holds
                value = f"{figure.value:.3g}{figure.unit and ' '}{figure.unit}"
                print(
                    f"{'ok ' if holds else 'NO '} {figure.name}: {value} (at most {figure.most:g})",
                    flush=True,
                )
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
