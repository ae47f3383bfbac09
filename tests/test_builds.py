"""One sweep in two environments in turn: rounds alternate, pairs cancel drift, and a stop leaves both to continue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmbench.results import store
from llmbench.results.record import Begin, Record
from sweeps import LLMBENCH, PATIENCE_S, Done, asked

if TYPE_CHECKING:
    from sweeps import Bench

SLOWER = """
from llmbench.backends import fake
def slower(self, was=fake.FakeEngine._milliseconds):
    return tuple(1.2 * each for each in was(self))
fake.FakeEngine._milliseconds = slower
"""
"""What a build whose engine takes a fifth more time does on the fake one."""


def environment(folder: Path, begin: str = "") -> Path:
    """Return an environment whose interpreter is this one, with code that runs when it begins."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(begin)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder}:$PYTHONPATH exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder


def test_a_slower_build_is_found_though_the_machine_drifts_more(bench: Bench) -> None:
    bench.write(drift=0.5, jitter=0.001)
    old = environment(bench.folder / "old")
    new = environment(bench.folder / "new", SLOWER)
    runs = bench.folder / "runs"

    done = asked("builds", bench.file, old, new, "-o", runs)

    assert (done.code, "3 cells: 3 slower." in done.out) == (1, True)
    assert "measured in turn, round by round; sessions of the same round are paired" in done.out
    begun = [
        (line.at, name, line.session)
        for name in ("old", "new")
        for line in store.read(runs / name)
        if isinstance(line, Begin)
    ]
    turns = list(dict.fromkeys((name, session) for _, name, session in sorted(begun)))
    assert turns == [("old", 1), ("new", 1), ("new", 2), ("old", 2)]

    (compared,) = json.loads(asked("compare", runs / "old", runs / "new", "--format", "json").out)[
        "candidates"
    ]
    assert compared["cells"]
    assert {round(cell["ratio"], 2) for cell in compared["cells"]} == {1.2}


def test_runs_made_one_after_the_other_are_not_continued_in_turn(bench: Bench) -> None:
    bench.write()
    old, new = (environment(bench.folder / name) for name in ("old", "new"))
    bench.run = bench.folder / "runs" / "old"
    bench.sweep()

    done = asked("builds", bench.file, old, new, "-o", bench.folder / "runs")

    assert (done.code, "holds runs that were not measured in turn" in done.err) == (2, True)


def test_what_stopped_between_two_rounds_goes_on(bench: Bench) -> None:
    bench.write()
    old, new = (environment(bench.folder / name) for name in ("old", "new"))
    runs = bench.folder / "runs"
    for name in ("old", "new"):
        asked("sweep", bench.file, "-o", runs / name, "--rounds", "1", "--turns", "together")

    asked("builds", bench.file, old, new, "-o", runs)

    for name in ("old", "new"):
        sessions = {record.session for record in store.read(runs / name).records(Record)}
        assert sessions == {1, 2}


@pytest.mark.slow
def test_a_stop_reaches_the_environment_and_the_same_command_continues(bench: Bench) -> None:
    bench.write(clock="real", ttft_ms=40.0)
    old, new = (environment(bench.folder / name) for name in ("old", "new"))
    runs = bench.folder / "runs"
    command = [*LLMBENCH, "builds", str(bench.file), str(old), str(new), "-o", str(runs)]
    with subprocess.Popen(
        [*command, "--allow-missing"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("[1/"):
                os.kill(child.pid, signal.SIGTERM)
                break
        rest, _ = child.communicate(timeout=PATIENCE_S)

    assert child.returncode == 128 + signal.SIGTERM
    assert f"The same command with -o {runs} continues." in rest
    measured = [record.id for record in store.read(runs / "old").records(Record)]
    assert 1 <= len(measured) < 6
    assert not (runs / "new").exists()

    subprocess.run(command, timeout=PATIENCE_S, check=False, capture_output=True)

    for name in ("old", "new"):
        records = [record for record in store.read(runs / name).records(Record) if record.final]
        assert len(records) == len({(record.id, record.session) for record in records}) == 6


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["old"], "one environment is given; name at least two"),
        (["old", "none"], "is not a virtual environment: it has no bin/python"),
        (["old", "old"], "two environments are named 'old'"),
        (["old", "bare"], "has no llmbench, and this is llmbench"),
    ],
)
def test_a_mistake_gets_one_line(bench: Bench, names: list[str], words: str) -> None:
    bench.write()
    environment(bench.folder / "old")
    python = environment(bench.folder / "bare") / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 1\n")

    done = asked("builds", bench.file, *(bench.folder / name for name in names))

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err
    assert not (Path("results") / "builds").exists()


def test_a_sweep_can_end_after_some_rounds_and_go_on(bench: Bench) -> None:
    bench.write()

    first = bench.sweep("--rounds", "1")
    assert (first.code, {record.session for record in first.records}) == (0, {1})

    second: Done = bench.sweep()
    assert (second.code, len(second.records)) == (0, 6)
