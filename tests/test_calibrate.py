"""A machine's own spread: found again where it is known, kept with the machine, used where a session is alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from llmbench.compare import calibrate
from llmbench.errors import RunError
from llmbench.machine import calibration, info
from llmbench.machine.calibration import Calibration, Varying
from llmbench.results import store
from llmbench.stats.sample_size import sessions_for
from make_records import make_cell, make_plan, make_record, make_samples, write_lines
from sweeps import asked

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.spec.sweep import Cell

MACHINE = {"name": "bench-2cpu", "cpu": "a CPU", "cpu_count": 2}
BETWEEN, WITHIN = 0.02, 0.005


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_STATE", str(tmp_path / "state"))


def write_run(
    folder: Path, cells: list[Cell], sessions: int, scale: float = 1.0, seed: int = 0, **plan: Any
) -> Path:
    """Write a run whose sessions vary by 2 % and their iterations by 0.5 %."""
    rng = np.random.default_rng(seed)
    lines = []
    for cell in cells:
        for session in range(1, sessions + 1):
            pace = scale * np.exp(rng.normal(0, BETWEEN))
            times = pace * np.exp(rng.normal(0, WITHIN, 9))
            samples = [make_samples([t], 0.2 * t, cell.output_len)[0] for t in times]
            lines.append(make_record(cell, session, samples))
    facts = {"run": folder.name, "machine": MACHINE, "cells": cells, **plan}
    write_lines(folder, [make_plan(**facts), *lines])
    return folder


def grid(count: int) -> list[Cell]:
    return [make_cell(number, batch_size=1 + number) for number in range(count)]


def llmbench(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own, as a sweep needs it."""
    command = (sys.executable, "-m", "llmbench", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_spread_within_and_between_is_found_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", grid(12), 40)

    found = calibrate.calibrate(store.read(run), "run")

    for key in ("e2e_s", "ttft_s", "tpot_s", "output_tok_s"):
        shapes = found.metrics[key].shapes
        assert len(shapes) == 12
        # the median of nine iterations varies too: 0.5 % x 1.25 / 3 = 0.2 %, nothing beside 2 %
        assert np.mean([s.between for s in shapes]) == pytest.approx(BETWEEN, rel=0.1)
        assert np.mean([s.within or 0 for s in shapes]) == pytest.approx(WITHIN, rel=0.1)
        assert found.metrics[key].other == pytest.approx(BETWEEN, rel=0.1)


def test_of_few_shapes_the_noisiest_speaks_for_all_others(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", grid(3), 4)

    varying = calibrate.calibrate(store.read(run), "run").metrics["e2e_s"]

    assert varying.other == max(spread.between for spread in varying.shapes)


@pytest.mark.parametrize("sessions", [0, 1])
def test_one_session_is_no_calibration(tmp_path: Path, sessions: int) -> None:
    run = write_run(tmp_path / "run", grid(2), sessions)

    with pytest.raises(RunError, match="no cell has 2 valid sessions"):
        calibrate.calibrate(store.read(run), "run")


def made(metrics: dict[str, Varying], **changes: Any) -> Calibration:
    facts: dict[str, Any] = {
        "machine": info.identity_digest(MACHINE), "name": "x", "at": "2026-11-26T00:00:00Z",
        "run": "0", "sessions": 50, "cells": 10, "metrics": metrics,
    }  # fmt: skip
    return Calibration(**{**facts, **changes})


def test_a_calibration_is_kept_with_its_machine() -> None:
    known = made({"e2e_s": Varying(shapes=[], other=0.01, other_dof=8.0)})

    calibration.SHELF.keep(known)

    assert calibration.kept_calibration(MACHINE).calibration == known
    assert calibration.kept_calibration({**MACHINE, "load_1m": 3.0}).calibration == known
    assert calibration.kept_calibration(
        {**MACHINE, "name": "another"}
    ) == calibration.KeptCalibration(None)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 99}', b"\xff"])
def test_a_spoiled_file_costs_a_sentence(content: bytes) -> None:
    path = calibration.SHELF.keep(made({}))
    path.write_bytes(content)

    kept = calibration.kept_calibration(MACHINE)

    assert kept.calibration is None
    assert "was ignored" in str(kept.notice)


@pytest.mark.parametrize("figure", [-1.0, 1e300, 30.0])
def test_a_spread_that_no_machine_has_costs_a_sentence(figure: float) -> None:
    usual = calibration.SHELF.keep(made({"e2e_s": Varying(shapes=[], other=0.125, other_dof=8.0)}))
    usual.write_bytes(usual.read_bytes().replace(b"0.125", str(figure).encode()))

    kept = calibration.kept_calibration(MACHINE)

    assert kept.calibration is None
    assert "is not a standard deviation" in str(kept.notice)


def test_a_newer_file_and_another_machines_are_not_used() -> None:
    for wrong in (made({}, format=99), made({}, machine="0" * 10)):
        path = calibration.SHELF.keep(made({}))
        path.write_bytes(msgspec.json.encode(wrong))

        assert calibration.kept_calibration(MACHINE).calibration is None


def test_the_sessions_told_reach_the_interval_as_often_as_not() -> None:
    n = sessions_for(0.02, 0.015)
    assert n is not None
    rng = np.random.default_rng(0)

    widths = [
        np.expm1(2.262 * rng.normal(0, 0.02, n).std(ddof=1) / np.sqrt(n)) for _ in range(2000)
    ]

    assert n == 10  # t(0.975, 9) = 2.262; 2.262 x 2 % / sqrt(10) = 1.43 %
    assert 0.4 < np.mean(np.array(widths) <= 0.015) < 0.7


def test_sessions_beyond_a_hundred_are_not_counted() -> None:
    assert sessions_for(0.5, 0.01) is None
    assert "over 100" in made({"e2e_s": Varying(shapes=[], other=0.5, other_dof=8.0)}).forecast(
        grid(1), 0.01
    )


def test_single_sessions_are_judged_by_the_calibration_and_say_so(tmp_path: Path) -> None:
    cells = grid(12)
    old = write_run(tmp_path / "old", cells, 1)
    slow = write_run(tmp_path / "slow", cells, 1, scale=1.3, seed=1)
    again = write_run(tmp_path / "again", cells, 1, seed=2)

    before = asked("compare", old, slow)
    kept = asked("calibrate", write_run(tmp_path / "calibration", cells, 10, seed=3))
    after, same = (asked("compare", old, run, "--format", "json") for run in (slow, again))

    assert "12 unclear" in before.out
    assert kept.code == 0, kept.err
    candidate = json.loads(after.out)["candidates"][0]
    assert {cell["variance"] for cell in candidate["cells"]} == {"calibrated"}
    assert candidate["verdicts"]["slower"] == 12
    assert any(n.startswith("calibrated:") for n in json.loads(after.out)["notices"])
    assert json.loads(same.out)["candidates"][0]["verdicts"]["slower"] == 0


def test_calibrate_shows_what_it_found(tmp_path: Path) -> None:
    done = asked("calibrate", write_run(tmp_path / "run", grid(2), 5))

    assert done.code == 0, done.err
    assert "bench-2cpu, 2025-06-01: 10 sessions of 2 cells" in done.out
    assert done.out.count("TTFT") == 2
    assert "Kept in" in done.out


def test_a_sweep_is_measured_and_kept(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "name: spread\nwhy: To see how much sessions vary.\n"
        "axes: {model: llama-7b@tiny, device: cpu, backend: {fake: {jitter: 0.05, clock: virtual}},\n"
        "  input_len: 8, output_len: 4}\nprotocol: {min_time_s: 0, sessions: 1, max_sessions: 1}\n"
    )

    done = llmbench("calibrate", sweep, "--sessions", 3)

    assert done.returncode == 0, done.stderr
    assert "3 sessions of 1 cell" in done.stdout
    assert calibration.kept_calibration(info.machine()).calibration is not None
    told = asked("sweep", sweep, "--dry-run").out
    assert "by the calibration of" in told


def test_a_folder_that_is_no_run_gets_one_line(tmp_path: Path) -> None:
    done = asked("calibrate", tmp_path)

    assert done.code == 2
    assert done.err.count("\n") == 1
