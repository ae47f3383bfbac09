"""A line that was passed over is told by every command that reads a run: its session is missing from the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmbench.spec.sweep import Protocol
from make_records import make_cell, make_plan, make_record, make_samples, write_lines
from sweeps import asked

if TYPE_CHECKING:
    from pathlib import Path

CELL = make_cell(0, model="llama-7b")
TOLD = "records.jsonl: line 3: damaged and skipped."


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Return a run of six sessions, one of which has lost a digit."""
    samples = make_samples([1.0, 1.01, 1.02], 0.2, CELL.output_len)
    records = [make_record(CELL, session, samples) for session in range(1, 7)]
    write_lines(tmp_path / "run", [make_plan([CELL], settings=Protocol(sessions=6)), *records])
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"e2e_ns":1', b'"e2e_ns":7', 1)
    path.write_bytes(b"".join(lines))
    return tmp_path / "run"


@pytest.mark.parametrize(
    "words",
    [
        "compare {run} {run}", "cost {run} --usd-per-hour 1", "claims {run}", "claims {run} --published",
        "export {run}", "fit {run}", "calibrate {run}", "audit {run}", "table {run} --predicted",
        "table {run} --format csv",
    ],
)  # fmt: skip
def test_it_is_told_on_stderr(words: str, damaged: Path) -> None:
    done = asked(*words.format(run=damaged).split())

    assert f"{damaged}/{TOLD}" in done.err.splitlines()
    assert done.err.count(TOLD) == (2 if words.startswith("compare") else 1)
    assert TOLD not in done.out


@pytest.mark.parametrize("format", ["terminal", "markdown", "json"])
def test_a_table_tells_it_itself(format: str, damaged: Path) -> None:
    done = asked("table", damaged, "--format", format)

    assert TOLD in done.out.replace("`", "")
    assert done.err == ""
