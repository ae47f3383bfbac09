"""Secrets in the environment, in arguments, in errors and in prints are in no file of a run (FAULTS 33)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from llmbench.results.record import Status
from sweeps import ONLY_IN_THE_FORK_SERVER, Bench, asked, assert_complete

if TYPE_CHECKING:
    from pathlib import Path

    from sweeps import Done

SECRETS = {
    "HF_TOKEN": "hf_WmXqLrTzPdKvBnYcHgFs",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLE",
    "DB_PASSWORD": 'it\'s \\ "quoted" & spaced/ü',
    "SSH_PRIVATE_KEY": "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\n-----END KEY-----",
    "MY_CREDENTIALS": "correct-horse-battery-staple",
    "X_AUTH": "Basic dXNlcjpwYXNzd29yZA==",
}
NAMED_OTHERWISE = {"PROXY": "http://someone:pr0xy-pa55@proxy.example:3128"}
"""What only its form betrays."""

MARKED = {
    "GITHUB_PAT": "ghp_SEKRITabcdefghijklmnopqrstuvwxyz01",
    "DB_PWD": "S3KR",
    "SESSION_COOKIE": "SEKRITc3xyz",
    "SLACK_WEBHOOK": "https://hooks.slack.com/services/T0/B0/SEKRITd4",
    "STORE_URL": "postgres://me:SEK@RIT/x@db.example/x",
    "CLIENT_PEM": "-----BEGIN PRIVATE KEY-----\nSEKRITabcdefghijk\n-----END PRIVATE KEY-----",
}
MARKS = ("SEKRIT", "S3KR", "SEK@", "RIT/x")


LEAST = 8
"""A piece of a secret as long as this is as good as half of it."""


def spellings(secret: str) -> set[str]:
    return {secret, quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]}


def pieces() -> set[str]:
    """Return every secret in every spelling, whole, and the beginning and end of each."""
    whole = {spelled for value in SECRETS.values() for spelled in spellings(value)}
    whole |= {"pr0xy-pa55", "MIIEpAIBAAKCAQEA", "WmXqLrTzPdKvBnYcHgFs"}
    return whole | {text[:LEAST] for text in whole if text[:LEAST] not in "-----BEGIN"} - {
        "Basic dX"
    }


def leaks(folder: Path) -> set[tuple[str, str]]:
    """Return which file holds which secret, names of files included."""
    return {
        (path.name, piece)
        for path in (folder, *folder.rglob("*"))
        for piece in pieces()
        if piece in path.name or (path.is_file() and piece.encode() in path.read_bytes())
    }


def test_the_search_finds_a_secret(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"login with {SECRETS['DB_PASSWORD']!r}")
    (tmp_path / "wJalrXUt").touch()

    assert {name for name, _ in leaks(tmp_path)} == {"log", "wJalrXUt"}


def test_no_secret_is_in_any_file_of_a_run(bench: Bench) -> None:
    bench.file = bench.folder / f"{SECRETS['HF_TOKEN']}.yaml"  # an argument of the command
    bench.write(
        fault=["none", "leak"], at=["load", "call"], when="session=1", axes={"batch_size": 2}
    )
    printing = ONLY_IN_THE_FORK_SERVER + "import os; print(dict(os.environ), *os.environ.values())"
    environment = {**SECRETS, **NAMED_OTHERWISE, **bench.beginning_with(printing)}

    done = bench.sweep(environment=environment)

    assert done.code == 3
    assert "<redacted>.yaml" in bench.plan().command
    failed = [record for record in done.records if record.status is not Status.OK]
    assert {record.status for record in failed} == {
        Status.CRASH,
        Status.LOAD_FAILED,
        Status.SKIPPED,
    }
    assert any("<redacted>" in (record.outcome.trace or "") for record in failed)
    logs = [path.read_text() for path in (bench.run / "logs").iterdir()]
    assert sum("<redacted>" in log for log in logs) >= 3
    assert leaks(bench.run) == set()


def test_what_a_killed_invocation_left_in_its_logs_is_taken_out_by_the_next(bench: Bench) -> None:
    bench.write(fault="leak_hang", axes={"batch_size": 2}, when="attempt=1,session=1")
    process = bench.start(environment=SECRETS)
    while not any("hanging" in path.read_text() for path in bench.run.glob("logs/*-s*.log")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    bench.ended(process)
    assert leaks(bench.run)

    done = bench.sweep(environment=SECRETS)

    assert_complete(done)
    assert leaks(bench.run) == set()


def marks(done: Done) -> set[str]:
    """Return which marks of secrets are in the run, its names included, and on the screen."""
    files = [path for path in done.bench.run.rglob("*") if path.is_file()]
    texts = [*(path.read_text() for path in files), *map(str, files), done.out, done.err]
    return {mark for mark in MARKS for text in texts if mark in text}


def test_no_secret_of_any_name_is_in_a_run_or_on_the_screen(bench: Bench) -> None:
    bench.write(fault="leak", axes={"batch_size": 1})

    done = bench.sweep("--prompts", "synthetic", environment=MARKED)

    assert done.code == 3
    assert "<redacted>" in "".join(done.out.split())  # a long line may break within it
    assert marks(done) == set()


def test_a_models_path_is_written_down_without_its_secret_and_read_with_it(bench: Bench) -> None:
    folder = bench.folder / "token=SEKRIT12345abcdefg"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "llama", "vocab_size": 32000, "api_key": "SEKRITx"}'
    )
    bench.write(axes={"batch_size": 1, "model": str(folder)})

    done = bench.sweep()

    assert done.code == 0
    assert bench.plan().models[0].name.endswith("token=<redacted>")
    assert marks(done) == set()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_secret_that_every_record_would_hold_is_refused(bench: Bench, dry: tuple[str]) -> None:
    bench.write(axes={"batch_size": 1}, when="password=SEKRIT")

    done = bench.sweep(*dry)

    assert done.code == 2
    assert "fake: when: contains a secret" in done.err
    assert marks(done) == set()


def test_an_error_line_shows_no_secret() -> None:
    answer = asked("table", "https://me:SEKRIT@host.example/run")

    assert answer.code == 2
    assert "https:/<redacted>@host.example" in answer.err


def test_a_trace_that_nobody_caught_shows_no_secret() -> None:
    code = (
        "from llmbench import cli\n"
        "def fail(_): raise RuntimeError('password=SEKRIT')\n"
        "cli.outcome = fail; cli.main()"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "RuntimeError: password=<redacted>" in done.stderr
    assert "SEKRIT" not in done.stderr
