"""A sweep with many faults that is interrupted and resumed repeatedly, and checks of the result.

`python tests/soak.py [--seed N]` does it for ten minutes (scripts/soak), a test for half a minute. The seed decides
the faults, the interruptions and the sessions after which they happen, but not the timing of processes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from llmbench.machine import leftovers, processes, state
from llmbench.results import store
from llmbench.results.record import Status
from sweeps import Bench, Done, assert_complete

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTS = (
    "oom", "cuda_error", "error", "memory_error", "segv", "kill", "exit", "hang", "hang_native", "grandchild",
    "orphan", "junk", "fake_result", "partial", "unknown", "stranger", "nested", "tokens_short", "clock_nan",
    "unsupported",
)  # fmt: skip
"""Faults of a fifth of the sessions; one cell for each, in every place and shape."""
CHANCE = 0.2
STROKES = {signal.SIGKILL: 12, signal.SIGINT: 3, signal.SIGTERM: 3, signal.SIGHUP: 2}
"""Signals that end the command, in proportion."""
CHILDREN = ("fork server", "worker", "grandchild")
CHILD_STROKES = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGHUP, signal.SIGINT)
FIND_S = 5.0
"""How long to wait for a process of some kind to interrupt."""
HANG_S = 1.0
"""The deadline of each phase."""

END = b'"kind":"end"'
PLENTY_S = 1800.0

ROOM_BYTES = 8 * 2**20
MORE_FILES = 6
"""How much the parent's memory may grow after the first tenth: it keeps 3 kB per cell."""


class Scale(NamedTuple):
    """The size of a soak: cells are FAULTS x places x shapes; `strokes` end the command, `child_strokes` a child."""

    places: tuple[str, ...]
    batch_sizes: int
    input_lens: int
    sessions: int
    strokes: int
    child_strokes: int

    @property
    def cells(self) -> int:
        """Return the cells of the sweep."""
        return len(FAULTS) * len(self.places) * self.batch_sizes * self.input_lens


WHOLE = Scale(
    ("call", "load", "prepare", "memory", "exit"), 5, 4, sessions=5, strokes=50, child_strokes=160
)
SHORT = Scale(("call",), 3, 1, sessions=2, strokes=5, child_strokes=6)


class Level(NamedTuple):
    """The parent's memory and files after a number of sessions."""

    ended: int
    rss_bytes: int
    files: int


class Soak:
    """One sweep with interruptions."""

    def __init__(self, bench: Bench, scale: Scale, seed: int) -> None:
        """Write the sweep; nothing runs yet."""
        self.bench, self.scale, self.dice = bench, scale, random.Random(seed)  # noqa: S311 - strokes, not secrets
        self.scratch = bench.folder / "scratch"
        self.scratch.mkdir()
        self.levels: list[list[Level]] = []
        self.blows: Counter[str] = Counter()
        self.innocent = Innocent(bench.folder)
        self.acknowledged = b""
        self.read, self.count = 0, 0
        phases = ("load_s", "warmup_s", "iteration_s", "memory_s", "exit_s")
        bench.write(
            fault=list(FAULTS),
            at=list(scale.places),
            chance=CHANCE,
            axes={
                "batch_size": list(range(1, scale.batch_sizes + 1)),
                "input_len": [8 * n for n in range(1, scale.input_lens + 1)],
            },
            protocol={
                "sessions": scale.sessions,
                "max_sessions": scale.sessions,
                "seed": seed,
                "deadlines": dict.fromkeys(phases, HANG_S),
            },
        )

    def run(self) -> Done:
        """Interrupt the command repeatedly, resume it after each time, and let it finish."""
        process = None
        for session, blow in self._planned_blows():
            process = process or self._started()
            self._follow(process, session)
            if blow is None:
                self._strike_a_child(process)
            else:
                self._strike(process, blow)
                process = None
        process = process or self._started()
        self._follow(process, sys.maxsize)
        self._assert_kept()
        return self.bench.ended(process)

    def _planned_blows(self) -> Iterator[tuple[int, signal.Signals | None]]:
        """Yield after how many ended sessions what happens: a signal to the command, or None to a child."""
        ending = self.dice.choices([*STROKES], [*STROKES.values()], k=self.scale.strokes)
        blows: list[signal.Signals | None] = [*ending, *[None] * self.scale.child_strokes]
        self.dice.shuffle(blows)
        most = round(0.95 * self.scale.cells * self.scale.sessions)
        return zip(sorted(self.dice.choices(range(most), k=len(blows))), blows, strict=True)

    def _started(self) -> subprocess.Popen[str]:
        self.levels.append([])
        return self.bench.start("--run-anyway", environment={"TMPDIR": str(self.scratch)})

    def _follow(self, process: subprocess.Popen[str], session: int) -> None:
        """Wait until this many sessions have ended, or the command."""
        if self._ended() >= session:
            time.sleep(self.dice.uniform(0, 1.5))  # at any point of its start
        give_up = time.monotonic() + PLENTY_S
        while process.poll() is None and (ended := self._ended()) < session:
            assert time.monotonic() < give_up, f"{ended} sessions, and no more"
            self._note_level(process, ended)
            time.sleep(0.02)

    def _ended(self) -> int:
        """Return how many records there are, by what was written since it was last asked."""
        if self.bench.rows.exists():
            with self.bench.rows.open("rb") as rows:
                rows.seek(self.read)
                new = rows.read()
            whole = new[: new.rfind(b"\n") + 1]
            self.read, self.count = self.read + len(whole), self.count + whole.count(END)
        return self.count

    def _assert_kept(self) -> None:
        """Assert that every row which was there at the last stroke is there as it was."""
        raw = self.bench.raw()
        assert raw.startswith(self.acknowledged), "a row that was written has changed"
        self.acknowledged = raw[: raw.rfind(b"\n") + 1]

    def _note_level(self, process: subprocess.Popen[str], ended: int) -> None:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(process.pid)
            level = Level(ended, parent.memory_info().rss, parent.num_fds())
            if not self.levels[-1] or ended > self.levels[-1][-1].ended:
                self.levels[-1].append(level)

    def _strike_a_child(self, process: subprocess.Popen[str]) -> None:
        """Send a signal to a process of some kind, as soon as there is one."""
        kind, blow = self.dice.choice(CHILDREN), self.dice.choice(CHILD_STROKES)
        give_up = time.monotonic() + FIND_S
        while process.poll() is None and time.monotonic() < give_up:
            with contextlib.suppress(psutil.Error):
                if found := [one for one in _descendants(process) if _kind(one, process) == kind]:
                    found[0].send_signal(blow)
                    self.blows[f"a {kind}"] += 1
                    return
        self.blows[f"no {kind}"] += 1

    def _strike(self, process: subprocess.Popen[str], blow: signal.Signals) -> None:
        self._assert_kept()
        process.send_signal(blow)
        done = self.bench.ended(process)
        self.blows[blow.name] += 1
        by_itself = (0, 3)
        assert done.code in (-blow, 128 + blow, *by_itself), f"{blow.name}: exit {done.code}"
        assert done.err == "", done.err
        self._assert_kept()


def _descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return children


def _kind(child: psutil.Process, process: subprocess.Popen[str]) -> str:
    if child.ppid() == process.pid:
        return "fork server"
    return "worker" if "llmbench.run.forkserver" in child.cmdline() else "grandchild"


class Innocent:
    """A process and a file in shared memory that look as if they belonged to the run, but do not."""

    def __init__(self, folder: Path) -> None:
        """Make them."""
        mark = processes.Mark.of_run("0" * 32, folder)
        environment = {**os.environ, processes.RUN_VARIABLE: str(mark)}
        self.process = subprocess.Popen(("sleep", "7200"), env=environment)
        self.file = leftovers.SHARED / f"psm_{secrets.token_hex(4)}"
        self.file.write_bytes(b"mine")

    def assert_untouched(self) -> None:
        """Assert that both are unchanged, and remove them."""
        assert self.process.poll() is None, "an innocent process was ended"
        assert self.file.read_bytes() == b"mine"
        self.clear()

    def clear(self) -> None:
        """End the process and remove the file."""
        self.process.kill()
        self.process.wait()
        self.file.unlink(missing_ok=True)


def check(soak: Soak, done: Done) -> None:
    """Assert what must be true of a soak that has finished."""
    soak.innocent.assert_untouched()
    assert done.code == 3, done.err
    assert done.err == ""
    assert_complete(done)
    assert len(done.bench.plan().cells) == soak.scale.cells
    ends = {(record.id, record.session): record.status for record in done.records}
    assert Status.INTERRUPTED not in ends.values()
    assert list(soak.scratch.iterdir()) == []
    left = {path.name for path in done.bench.run.iterdir()} - {store.TORN}
    assert left == {"logs", store.RECORDS, store.DESCRIPTION}
    assert all(path.stat().st_size for path in (done.bench.run / "logs").iterdir())
    assert_level(soak.levels)


def assert_level(invocations: list[list[Level]]) -> None:
    """Assert that no invocation's memory and files grew steadily."""
    for levels in invocations:
        early, late = levels[len(levels) // 10 :][:5], levels[-5:]
        if len(levels) < 50:
            continue
        rss = [statistics.median(level.rss_bytes for level in part) for part in (early, late)]
        files = [statistics.median(level.files for level in part) for part in (early, late)]
        assert rss[1] <= rss[0] + ROOM_BYTES, f"memory: {rss[0]:,} to {rss[1]:,} bytes"
        assert files[1] <= files[0] + MORE_FILES, f"open files: {files[0]} to {files[1]}"


def main() -> int:
    """Soak for ten minutes, print what happened, and return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Soak for ten minutes.")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 - no secret
    seed = parser.parse_args().seed
    folder = Path(tempfile.mkdtemp(prefix="llmbench-soak-"))
    os.environ[state.STATE] = str(folder / "state")
    bench, began = Bench(folder), time.monotonic()
    soak = Soak(bench, WHOLE, seed)
    print(
        f"seed {seed}: {WHOLE.cells:,} cells, {WHOLE.sessions} sessions each, in {folder}",
        flush=True,
    )
    try:
        check(soak, done := soak.run())
    except AssertionError as broken:
        print(
            f"BROKEN after {time.monotonic() - began:.0f} s: {broken}\nAgain: scripts/soak --seed {seed}"
        )
        return 1
    finally:
        soak.innocent.clear()
        bench.clear()
    statuses = Counter(str(record.status) for record in done.records)
    for told in (soak.blows, statuses):
        print(", ".join(f"{count:,} {name}" for name, count in told.most_common()))
    levels = max(soak.levels, key=len)
    early, late = (level.rss_bytes >> 20 for level in (levels[len(levels) // 10], levels[-1]))
    print(f"the longest parent held {early} MiB a tenth of its way, {late} MiB at its end")
    shutil.rmtree(folder)
    print(f"every session once, nothing left, memory level; {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
