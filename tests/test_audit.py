"""The audit passes where llmbench keeps its promises, and says so where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llmbench import selftest
from llmbench.errors import RunError
from llmbench.report.views import audit
from llmbench.results import store
from llmbench.results.record import Finding, Status
from make_records import make_cell, make_plan, make_record, make_samples, write_lines

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.results.record import Record


def llmbench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "llmbench", "audit", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, check=False)


def written(
    folder: Path, sessions: int, even: float = 1.0, spread: float = 0.005, **changes: Any
) -> Path:
    """Write a run whose even rounds take so many times as long."""
    rng = np.random.default_rng(0)
    cells = [make_cell(number) for number in range(12)]
    records = []
    for cell in cells:
        for session in range(1, sessions + 1):
            time = (even if session % 2 == 0 else 1.0) * float(np.exp(rng.normal(0, spread)))
            samples = make_samples([time] * 3, 0.2 * time, cell.output_len)
            records.append(make_record(cell, session, samples, **changes))
    write_lines(folder, [make_plan(cells), *records])
    return folder


def verdicts(run: Path) -> dict[str, bool]:
    return {one.check: one.passed for one in selftest.of_a_run(store.read(run), "run")}


@pytest.mark.slow
def test_the_fake_engine_is_audited_through_the_real_command() -> None:
    done = llmbench("--format", "json")

    facts = {fact["check"]: fact["verdict"] for fact in json.loads(done.stdout)}
    exact = {check for check in facts if check.startswith(("caught", "known"))}
    assert len(exact) == len(selftest.CONTROLS) + 1
    assert {facts[check] for check in exact} == {"passed"}
    assert (
        sum(check.startswith(("A/A", "sensitivity", "clock", "overhead")) for check in facts) == 4
    )
    # the timed checks are as quiet as this machine: the exit code says what the table says
    assert done.returncode == (0 if set(facts.values()) == {"passed"} else 1)


def test_a_quiet_run_passes(tmp_path: Path) -> None:
    assert all(verdicts(written(tmp_path / "run", 6)).values())


def test_rounds_that_differ_fail_the_a_a(tmp_path: Path) -> None:
    failed = [
        check
        for check, passed in verdicts(written(tmp_path / "run", 6, even=1.1)).items()
        if not passed
    ]

    assert failed == [f"A/A: odd against even rounds, {label}" for label in ("E2E", "TTFT", "TPOT")]


def test_a_noisy_run_fails_the_sensitivity(tmp_path: Path) -> None:
    failed = [
        check
        for check, passed in verdicts(written(tmp_path / "run", 4, spread=0.1)).items()
        if not passed
    ]

    assert "sensitivity: 5 % more in even rounds, E2E" in failed
    assert not any(check.startswith("A/A") for check in failed)


def test_what_failed_and_clocks_that_drift_are_said(tmp_path: Path) -> None:
    run = written(
        tmp_path / "run",
        6,
        warnings=[Finding("clock_drift", "0.5 %")],
        problems=[],
        status=Status.OK,
    )
    assert verdicts(run)["clock: wall and monotonic agree"] is False

    done = llmbench(written(tmp_path / "other", 6))
    assert done.returncode == 0, done.stdout
    assert "72 of 72" in done.stdout


def test_a_session_that_is_not_valid_fails(tmp_path: Path) -> None:
    run = written(tmp_path / "run", 6)
    cell = make_cell(0)
    with store.open_run(run) as held:
        held.append(make_record(cell, 7, status=Status.OOM, phase="load", reason="too much"))

    done = llmbench(run)

    assert done.returncode == 1
    assert "72 of 73" in done.stdout


def test_too_few_sessions_are_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--sessions 4"):
        list(selftest.of_a_run(store.read(written(tmp_path / "run", 3)), "run"))


def test_a_control_that_is_not_caught_fails(tmp_path: Path) -> None:
    records: list[Record] = []
    for number, fault in enumerate(["none", *selftest.CONTROLS]):
        cell = make_cell(number, options={"fault": fault})
        records.append(make_record(cell, 1, make_samples([1.0] * 3, 0.2, cell.output_len)))
    write_lines(tmp_path / "run", [make_plan([record.cell for record in records]), *records])

    checked = list(selftest._controls(store.read(tmp_path / "run")))

    assert not any(one.passed for one in checked)
    assert {one.figures for one in checked[:-1]} == {"not caught"}


def test_a_busy_machine_is_said(tmp_path: Path) -> None:
    run = written(tmp_path / "run", 6, warnings=[Finding("busy_machine", "others used 40 %")])

    assert verdicts(run)["quiet: nothing else on the machine"] is False


@pytest.mark.parametrize(
    ("quiet", "text"),
    [
        (True, "1 of 2 passed."),
        (False, "0 of 2 passed. Other work may be why: audit again when nothing else runs."),
    ],
)
def test_a_last_line_says_what_to_do(quiet: bool, text: str) -> None:
    checks = [
        selftest.Checked(f"{selftest.QUIET}: x", quiet, ""),
        selftest.Checked("A/A", False, ""),
    ]

    assert audit.summary(checks) == text


def test_a_sleep_that_is_measured_wrong_fails(tmp_path: Path) -> None:
    def checked(off: float) -> bool:
        cell = make_cell(0, output_len=9, options={"tpot_ms": 1.0})
        samples = make_samples([0.010 * off] * 3, 0.002, 9)
        write_lines(tmp_path / "run", [make_plan([cell]), make_record(cell, 1, samples)])
        (one,) = selftest._sleeps(store.read(tmp_path / "run"))
        return one.passed

    assert checked(1.02)
    assert not checked(1.03)
    assert not checked(0.97)
