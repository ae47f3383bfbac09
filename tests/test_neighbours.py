"""Whether other GPUs of a box may be measured at the same time: the rule, and the command that measures it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

import forked
from boxes import write
from llmbench.machine import calibration, info
from llmbench.run import neighbours
from llmbench.run.slots import Slot
from llmbench.stats.effects import Verdict, effects, paired
from llmbench.stats.intervals import Moments
from sweeps import MARK, SINGLE, Bench, asked

PAIRS, TABLES = 10, 100
SPREAD = 0.005
"""The standard deviation of a session's logarithm."""


def allowed(true: float) -> int:
    """Return in how many of TABLES simulated measurements neighbours are said to change nothing."""
    rng = np.random.default_rng(19)
    pairs = true + rng.normal(0, SPREAD * np.sqrt(2), size=(TABLES, PAIRS))
    squares = ((pairs - pairs.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    count = 0
    for mean, square in zip(pairs.mean(axis=1), squares, strict=True):
        of = Moments(np.array([PAIRS]), np.array([mean]), np.array([square]))
        made = effects(paired(of), neighbours.MARGIN, lower_is_better=True)
        count += made.verdict[0] == Verdict.SAME
    return count


def test_neighbours_that_change_a_number_are_never_allowed_and_others_nearly_always() -> None:
    assert allowed(0.02) == 0
    assert allowed(-0.02) == 0
    assert allowed(0.0) >= 90


def test_only_as_many_neighbours_as_were_measured_are_harmless() -> None:
    nobody: object = SimpleNamespace(name="b")
    slot = Slot(nobody, [0], ["u"])  # type: ignore[arg-type]
    slot.harmless = 2

    seen = []
    for slot.neighbours in (0, 2, 3):
        seen.append(slot.seen())

    assert seen == [{}, {"neighbours": 2, "neighbours_harmless": True}, {"neighbours": 3}]


def test_what_was_measured_holds_for_machines_of_the_same_kind() -> None:
    gpu = {"name": "NVIDIA H200", "memory_bytes": 141 * 2**30}
    machine = {**info.machine(), "gpus": [{**gpu, "uuid_hash": "a"}, {**gpu, "uuid_hash": "b"}]}
    kept = calibration.Neighbours(
        machine=calibration.kind_digest(machine), at="2026-11-30", others=1, pairs=10, same=True
    )

    calibration.NEIGHBOURS.keep(kept)
    another = {**machine, "gpus": [{**gpu, "uuid_hash": "c"}, {**gpu, "uuid_hash": "d"}]}

    assert calibration.most_harmless(another) == 1
    assert calibration.most_harmless({**machine, "cpu": "another"}) == 0
    calibration.NEIGHBOURS.keep(msgspec.structs.replace(kept, same=False))
    assert calibration.most_harmless(another) == 0


def test_without_a_second_gpu_there_are_no_neighbours(bench: Bench) -> None:
    bench.write()

    done = asked("calibrate", "--per-box", bench.file)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--per-box: needs two GPUs or more in this machine, which has 0." in done.err


@pytest.mark.slow
def test_pairs_are_measured_in_turn_and_company_is_not_recorded(bench: Bench) -> None:
    bench.write(axes={"device": "cuda", "batch_size": [1, 2]}, protocol=SINGLE, load_ms=20.0)
    write(bench.folder, gpus=3)
    begin = bench.folder / "box"
    own = {
        "PYTHONPATH": str(begin), "STANDIN_GPUS": "3", "STANDIN_STATE": str(bench.folder / "gpu"),
        MARK: bench.mark,
    }  # fmt: skip

    command = ("calibrate", "--per-box", "--pairs", "3", str(bench.file))
    code = forked.run(
        command, bench.out, bench.err, {**os.environ, **own}, begin / "sitecustomize.py", 150
    )

    out = bench.out.read_text()
    assert code in {0, 1}, bench.err.read_text()
    order = [line.split(", ")[1] for line in out.splitlines() if line.startswith("Pair ")]
    assert order == ["alone:", "together:", "together:", "alone:", "alone:", "together:"]
    assert "ttft_s: 1.0000 times, the same within 1% in 2 of 2 cells" in out
    assert "2 other GPUs at the same time change nothing" in out
