"""Exports of served runs: a row for each request, and copies without names that have the requests too."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from llmbench.results import requests_file, served_requests, store
from llmbench.results.record import Result, Served
from sweeps import asked

RESULTS = Path(__file__).parents[1] / "results"
SERVED = next(RESULTS.glob("*-served"))


def sessions(run: Path) -> list[tuple[Result, Served]]:
    """Return the served sessions of a run."""
    lines = [line for line in store.read(run) if isinstance(line, Result)]
    return [(line, line.outcome.served) for line in lines if line.outcome.served]


def test_every_request_is_a_row_that_agrees_with_the_record(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")

    done = asked("export", SERVED, "--format", "parquet", "--per-request", "-o", tmp_path / "x")

    assert done.code == 0, done.err
    rows = parquet.read_table(tmp_path / "x").to_pylist()
    records = sessions(SERVED)
    assert len(rows) == sum(served.requests["requests"] for _, served in records)
    for record, served in records:
        mine = [row for row in rows if (row["cell"], row["session"]) == (record.id, record.session)]
        assert sum(row["in_window"] for row in mine) == served.due
        assert all(row["ttft_s"] == row["token_s"][0] - row["due_s"] for row in mine)


def test_a_copy_without_names_has_the_requests_with_anonymous_texts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(SERVED, run)
    for path in (run / store.REQUESTS).iterdir():
        data = path.read_bytes()
        path.write_bytes(
            requests_file.with_texts(data, lambda _: "cut at http://box.example:8000/x")
        )

    done = asked("export", run, "--anonymous", "-o", tmp_path / "copy")

    assert done.code == 0, done.err
    for _, served in sessions(tmp_path / "copy"):
        copied = served_requests.path_of(tmp_path / "copy", served.requests)
        assert copied is not None
        assert hashlib.sha256(copied.read_bytes()).hexdigest() == served.requests["sha256"]
        read = requests_file.load(copied)
        assert len(read.number) == served.requests["requests"]
        assert set(read.trouble) == {"cut at <address>"}


def test_a_copy_of_a_run_whose_requests_are_lost_names_none(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(SERVED, run)
    shutil.rmtree(run / store.REQUESTS)

    assert asked("export", run, "--anonymous", "-o", tmp_path / "copy").code == 0
    text = (tmp_path / "copy" / store.RECORDS).read_text()
    ends = [json.loads(line) for line in text.splitlines() if json.loads(line)["kind"] == "end"]
    assert not any("requests" in end["outcome"]["served"] for end in ends)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--per-request",), "--per-request: only works with --format parquet"),
        (
            ("--per-request", "--per-session", "--format", "parquet", "-o", "x"),
            "a row is one or the other",
        ),
    ],
)
def test_a_mistake_gets_one_line(flags: tuple[str, ...], words: str) -> None:
    done = asked("export", SERVED, *flags)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err


def test_a_run_without_servers_has_no_requests(tmp_path: Path) -> None:
    run = RESULTS / "2026-11-30-xeon-2cpu-quickstart"

    done = asked("export", run, "--format", "parquet", "--per-request", "-o", tmp_path / "x")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "no session has a file of raw requests" in done.err


def test_a_missing_file_of_requests_loses_no_rows_in_silence(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(SERVED, run)
    gone = next((run / store.REQUESTS).iterdir())
    gone.unlink()

    done = asked("export", run, "--format", "parquet", "--per-request", "-o", tmp_path / "x")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"1 file of raw requests is missing, such as {gone.name}" in done.err
