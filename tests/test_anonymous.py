"""Runs for the public: nothing of the host, the user, the folders, the command or the processes is in them."""

from __future__ import annotations

import getpass
import json
import platform
import socket
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmbench.results import anonymous, store
from llmbench.results.record import Place, Plan, Record, Status
from sweeps import ONLY_IN_THE_FORK_SERVER, Bench, asked, assert_complete

if TYPE_CHECKING:
    from pathlib import Path

    from sweeps import Done


def traces(folder: Path, done: Done) -> set[str]:
    """Return what tells who measured, and is in a file of the folder or in the name of one."""
    tell = {
        socket.gethostname(), platform.release(), platform.version(), "private-folder", str(done.bench.folder),
        " python", "secret-host", "Traceback", "sweep.yaml", "--anonymous", '"pid":' + "1",
    }  # fmt: skip
    tell |= {getpass.getuser()} - {"root"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    texts = [
        *(path.read_text() for path in files),
        *(str(path.relative_to(folder)) for path in files),
    ]
    return {word for word in tell for text in texts if word in text}


@pytest.fixture
def telling(bench: Bench) -> Bench:
    """Return a sweep whose model lies in a folder, whose engine tells much, and which leaves a process behind."""
    folder = bench.folder / "private-folder" / "weights"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "vocab_size": 32000, "_name_or_path": str(folder)})
    )
    (bench.folder / "words.txt").write_text("some words to cut prompts from " * 99)
    bench.write(
        axes={"model": str(folder), "prompts": str(bench.folder / "words.txt")},
        fault=["leak", "orphan"], when="batch_size=1",
    )  # fmt: skip
    return bench


def swept(bench: Bench, *arguments: str) -> Done:
    printing = ONLY_IN_THE_FORK_SERVER + "print('private-folder')"
    host = {"SOME_HOST": "http://secret-host.example/x", **bench.beginning_with(printing)}
    return bench.sweep(*arguments, environment=host)


def test_an_anonymous_sweep_writes_nothing_that_tells_who_measured(telling: Bench) -> None:
    done = swept(telling, "--anonymous")

    assert done.code == 3
    assert traces(telling.run, done) == set()
    crashed = next(record for record in done.records if record.status is Status.CRASH)
    assert (crashed.reason, crashed.cell.model) == ("ConnectionError", "weights")
    assert any(finding.code == "strays" for record in done.records for finding in record.warnings)


def test_what_a_table_needs_stays(telling: Bench) -> None:
    done = swept(telling, "--anonymous")

    plan = telling.plan()
    assert plan.machine["cpu"]
    assert plan.environment["packages"]
    assert plan.environment["python"] == platform.python_version()
    assert all(record.outcome.samples for record in done.records if record.status is Status.OK)


def test_an_anonymous_run_is_continued_as_one_without_being_told(telling: Bench) -> None:
    first = len(swept(telling, "--anonymous", "--sessions", "1").records)

    again = swept(telling)

    assert len(again.records) > first
    assert "sweep has changed since this run was planned: axes" not in again.out
    assert traces(telling.run, again) == set()


def test_a_run_that_was_not_begun_so_is_not_continued_so(bench: Bench) -> None:
    bench.write()
    assert_complete(bench.sweep())

    done = bench.sweep("--anonymous")

    assert done.code == 2
    assert "llmbench export --anonymous" in done.err


def test_a_copy_tells_as_little_and_reads_as_the_run_does(telling: Bench) -> None:
    done = swept(telling)
    assert traces(telling.run, done)
    copy = telling.folder / "copy"

    answer = asked("export", telling.run, "--anonymous", "-o", copy)

    assert answer.code == 0
    assert traces(copy, done) == set()
    log = store.read(copy)
    assert (log.notices, isinstance(log.plan, Plan)) == ([], True)
    told = [line for line in log if isinstance(line, Record)]
    assert [(one.id, one.status, one.outcome.samples) for one in told] == [
        (one.id, one.status, one.outcome.samples) for one in done.records
    ]
    assert asked("table", copy).code == 0


def test_a_copy_needs_a_new_folder(bench: Bench) -> None:
    bench.write()
    bench.sweep()

    assert asked("export", bench.run, "--anonymous").code == 2
    assert (
        "already exists and is not empty"
        in asked("export", bench.run, "--anonymous", "-o", bench.run).err
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("in /home/ann/x.py, line 3", "in <path>, line 3"),
        ("File '~/models/llama'", "File '<path>'"),
        ("models/ann/llama is no model", "<path> is no model"),
        ("at http://node7.lab.example:80/x?a=1 now", "at <address> now"),
        ("from 10.0.0.7 by ann@lab.example", "from <address> by <address>"),
        ("org/model at 12.5 tokens/s, 2/3 done", "org/model at 12.5 tokens/s, 2/3 done"),
        ("C:\\Users\\ann\\x failed", "<path> failed"),
    ],
)
def test_folders_and_addresses_are_left_out_of_texts(text: str, told: str) -> None:
    assert anonymous.text(text) == told


def test_a_copy_names_no_box() -> None:
    place = Place(
        at="2026-11-30T12:00:00.000Z", name="secret-host", units=["0123456789"], machine={"gpus": []},
        environment={"system": "Linux 6.1-secret"}, environment_digest="d",
    )  # fmt: skip

    copied = msgspec.json.encode(anonymous.line(place)).decode()

    assert "secret" not in copied
    assert "0123456789" not in copied
