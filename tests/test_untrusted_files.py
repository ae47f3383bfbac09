"""Folders and files from strangers: they name nothing outside the run, run nothing, and take no age to read."""

from __future__ import annotations

import csv
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from llmbench import cli
from llmbench.errors import SpecError
from llmbench.machine import processes
from llmbench.results import lines, store
from llmbench.results.record import Finding, Status
from llmbench.run import messages
from llmbench.spec import sweep
from make_records import make_cell, make_plan, make_record, make_samples, write_lines
from sweeps import LLMBENCH, Bench, assert_complete

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CELL = make_cell()
SAMPLES = make_samples([1.0, 1.1, 1.2], ttft_s=0.2, tokens=4)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of one cell and two sessions."""
    folder = tmp_path / "run"
    write_lines(folder, [make_plan([CELL]), *(make_record(CELL, n, SAMPLES) for n in (1, 2))])
    return folder


def appended(run: Path, line: bytes) -> Path:
    with (run / store.RECORDS).open("ab") as stream:
        stream.write(line)
    return run


def sessions(run: Path) -> list[int]:
    return [line.session for line in store.read(run).records(type(make_record(CELL, 1)))]


# -- nothing outside the run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [store.RECORDS, store.TORN, store.DESCRIPTION, store.DESCRIPTION_NEW, store.LOCK, store.LOGS],
)
def test_a_link_inside_a_run_is_not_followed(name: str, bench: Bench) -> None:
    bench.write(axes={"batch_size": 1})
    victim = bench.folder / "victim"
    victim.write_text("mine")
    bench.run.mkdir()
    bench.rows.write_bytes(b'{"kind":"end","torn')
    (bench.run / name).unlink(missing_ok=True)
    (bench.run / name).symlink_to(victim)

    done = bench.sweep()

    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "is a symbolic link" in done.err or "cannot be written: Too many levels" in done.err
    assert victim.read_text() == "mine"


def test_a_link_in_the_place_of_a_log_is_not_followed(bench: Bench) -> None:
    bench.write(axes={"batch_size": 1}, fault="junk")
    victim = bench.folder / "victim"
    victim.write_text("mine, and hf_abcdefghijklmnop too")
    (bench.run / store.LOGS).mkdir(parents=True)
    (bench.run / store.LOGS / "forkserver-fake.log").symlink_to(victim)

    done = bench.sweep()

    assert done.code == 2
    assert done.err.startswith(
        f"llmbench: {bench.run / store.LOGS / 'forkserver-fake.log'}: is a symbolic link"
    )
    assert victim.read_text() == "mine, and hf_abcdefghijklmnop too"


def test_a_file_in_the_place_of_the_logs_is_said_before_anything_runs(bench: Bench) -> None:
    bench.write(axes={"batch_size": 1})
    bench.run.mkdir()
    (bench.run / store.LOGS).write_text("")

    done = bench.sweep()

    assert (done.code, done.out) == (2, "")
    assert (
        done.err
        == f"llmbench: {bench.run / store.LOGS}: is not a folder; a run needs regular files of its own.\n"
    )


@pytest.mark.parametrize("anonymous", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("logs/app.log", "password=correct-horse of my own program"),
        ("logs/empty.log", ""),
        ("run.json", '{"mine": 1}'),
        ("records.jsonl", "one\ntwo\nthree, without a newline"),
        ("records.jsonl.torn", "mine"),
    ],
)
def test_somebodys_own_files_in_a_folder_without_a_run_are_left_as_they_are(
    bench: Bench, name: str, content: str, *, anonymous: bool
) -> None:
    bench.write(axes={"batch_size": 1})
    mine = bench.run / name
    mine.parent.mkdir(parents=True)
    mine.write_text(content)

    done = bench.sweep(*(["--anonymous"] if anonymous else []))

    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"llmbench: {mine}: is not of a run, and a run would write there. Use another --output.\n"
    )
    assert mine.read_text() == content
    assert [path for path in bench.run.rglob("*") if path.is_file()] == [mine]


WORD = f"/bin/{secrets.token_hex(16)}"
"""Stands for a value that many environments hold; were a real one in its place, a mistake would end them all."""


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that has to do with no run."""
    process = subprocess.Popen(
        (sys.executable, "-c", "import time; time.sleep(600)"), env={"SHELL": WORD}
    )
    while psutil.Process(process.pid).environ().get("SHELL") != WORD:  # until it is that program
        assert process.poll() is None
    yield process
    process.kill()
    process.wait()


def test_a_runs_own_word_for_it_marks_no_innocent_process(
    bystander: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    strays = processes.kill_left_over(processes.Mark.of_run(WORD, tmp_path))

    assert strays == []
    assert bystander.poll() is None


# -- lines that take an age, or the interpreter down -----------------------------------------------------

DEEP = b'{"a":' * 100_000

NONSENSE = {
    "deep in what an engine says": b'{"kind":"end","format":1,"outcome":{"engine":' + DEEP,
    "deep in what nobody reads": b'{"kind":"end","format":1,"more":' + DEEP,
    "deep from the first": DEEP,
    "deep in a verdict": b'{"kind":"parity","format":1,"options":' + DEEP,
    "deep in a plan": b'{"kind":"sweep","format":1,"machine":' + DEEP,
    "no json": b"hello",
    "a list": b"[]",
    "a kind that is no text": b'{"kind":5}',
    "a version without end": b'{"kind":"end","format":' + b"9" * 5000 + b"}",
    "nothing": b"{}",
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_line_of_nonsense_costs_itself_only(
    name: str, sealed: bool, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = NONSENSE[name]
    appended(run, lines.seal(line + b"}") if sealed else line + b"\n")

    for command in (("table", str(run)), ("export", str(run)), ("claims", str(run))):
        assert cli.run([*command]) == 0
    with store.open_run(run) as opened:
        opened.append(make_record(CELL, 3, SAMPLES))

    assert sessions(run) == [1, 2, 3]
    assert list(store.read(run))
    assert sealed or "damaged and skipped" in capsys.readouterr().out


SENSELESS: dict[str, dict[str, Any]] = {
    "no cell": {"cell": {}},
    "another cell": {"cell": {**msgspec.to_builtins(CELL), "id": "another"}},
    "a time that no column holds": {
        "outcome": {"cell": CELL.id, "samples": [{"e2e_ns": 10**30, "wall_ns": 1, "token_ns": []}]}
    },
    "a session that is no number": {"session": "1"},
}


@pytest.mark.parametrize("name", SENSELESS)
def test_a_record_that_makes_no_sense_is_named_and_the_others_stay(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {**msgspec.to_builtins(make_record(CELL, 3, SAMPLES)), **SENSELESS[name]}
    others = make_record(make_cell(1), 1, SAMPLES)
    rows = [lines.seal(json.dumps(one).encode()) for one in (record, msgspec.to_builtins(others))]
    (run / store.RECORDS).write_bytes(b"".join([rows[0], *lines_of(run), rows[1]]))

    assert cli.run(["table", str(run), "--format", "json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert [cell["sessions"]["valid"] for cell in told["cells"]] == [2, 1]
    assert "a line was not understood and was skipped" in told["notices"][0]


def lines_of(run: Path) -> list[bytes]:
    return (run / store.RECORDS).read_bytes().splitlines(keepends=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "line",
    [
        b'{"kind":"' * 500_000,
        b'{"kind":"' * 500_000 + b',"crc32":"00000000"}',
        b'{"kind":"parity",' * 300_000,
        b'{"kind":"parity",' * 300_000 + b"\n" + b"{" * 10,
        b',"crc32":"00000000"}' * 200_000,
    ],
    ids=["beginnings", "beginnings and an end", "verdicts", "verdicts, ended", "ends"],
)
def test_a_line_made_to_be_searched_for_ever_is_not(line: bytes, run: Path) -> None:
    appended(run, line + b"\n" + lines.seal(lines.encode(make_record(CELL, 3, SAMPLES))))

    assert sessions(run) == [1, 2, 3]


def test_a_line_without_end_is_read_in_pieces_and_named_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = lines.seal(lines.encode(make_record(CELL, 3, SAMPLES)))
    appended(run, bytes(100_000) + b"\n" + last)
    monkeypatch.setattr(lines, "LONGEST_LINE", 10_000)

    assert sessions(run) == [1, 2, 3]
    assert store.read(run).notices == ["records.jsonl: line 4: damaged and skipped."]


MEASURED = (
    "import json, resource, subprocess, sys\n"
    "done = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
    "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
    "print(json.dumps([done.returncode, done.stdout, done.stderr, peak]))\n"
)
"""Runs a command from a small process: a fork counts what its parent held as its own."""


def a_gigabyte_in_one_line(rows: Path) -> None:
    with rows.open("ab") as stream:
        stream.truncate(2**30)
        stream.seek(0, os.SEEK_END)
        stream.write(b"\n")


def a_gigabyte_without_an_end(rows: Path) -> None:
    with rows.open("ab") as stream:
        stream.truncate(2**30)


def a_format_of_a_hundred_megabytes(rows: Path) -> None:
    with rows.open("ab") as stream:
        stream.write(b'{"kind":"end","format":[%s[]]}\n' % (b"[]," * (2**25)))


def ten_million_lines(rows: Path) -> None:
    with rows.open("ab") as stream:
        for _ in range(100):
            stream.write(b"junk\n" * 100_000)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (a_gigabyte_in_one_line, 0),
        pytest.param(a_gigabyte_without_an_end, 0, marks=pytest.mark.slow),
        (a_format_of_a_hundred_megabytes, 0),
        (ten_million_lines, 2),
    ],
)
def test_a_monstrous_file_takes_little_memory_and_time(
    spoil: Callable[[Path], None], code: int, run: Path
) -> None:
    spoil(run / store.RECORDS)

    done = subprocess.run(
        (sys.executable, "-c", MEASURED, *LLMBENCH, "table", run),
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    ended, out, err, kilobytes = json.loads(done.stdout)
    assert ended == code, err
    assert ("damaged" in err) if code else (CELL.model in out)
    assert kilobytes < 300 * 2**10


def test_of_a_million_notices_a_few_are_shown(run: Path) -> None:
    for number in range(50):
        strange = b'{"kind":"end","format":1,"status":"%d%s"}' % (number, b"x" * 9999)
        appended(run, lines.seal(strange) + b"junk\n")

    log = store.read(run)
    list(log)

    assert len(log.notices) <= store.MOST_NOTICES + 2
    assert max(map(len, log.notices)) < 400
    assert any("more lines" in notice for notice in log.notices)
    assert any(notice.endswith("30 more: damaged and skipped.") for notice in log.notices)


def test_no_record_of_ours_is_too_long_to_be_read() -> None:
    assert lines.LONGEST_LINE >= 2 * messages.LONGEST


# -- sweeps ------------------------------------------------------------------------------------------

BOMB = "\n".join(
    ["name: x", "why: &a0 [a, a, a, a, a, a, a, a, a]"]
    + [f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "name: x\nwhy: y\naxes: {model: &a [*a]}",
        "name: &a x\nwhy: *a\naxes: {model: llama-7b}",
    ],
    ids=["a bomb", "itself", "a copy"],
)
def test_an_alias_is_refused_where_it_stands(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)

    with pytest.raises(
        SpecError, match=r"sweep\.yaml:\d+: found alias 'a0?', .*write the value out"
    ):
        sweep.read_sweep(path)


def test_a_grid_that_nobody_can_mean_is_refused_before_it_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "name: x\nwhy: y\naxes: {model: llama-7b, backend: fake, device: cpu, batch_size: 1-9999,"
        " input_len: 1-9999, output_len: 1-9999}\n"
    )

    code = cli.run(["sweep", str(path), "--dry-run"])

    assert code == 2
    assert (
        "x: 999,700,029,999 cells exceed the limit of 100,000; shorten an axis."
        in capsys.readouterr().err
    )


# -- what acts where it is shown ---------------------------------------------------------------------

HOSTILE = (
    "org/\x1b[2J\x1b]0;title\x07model",
    "\x9b2Jmodel",
    "abc\u202egnp.exe",
    "=cmd|' /C calc'!A0",
    "[bold red]x[/bold]",
    "</script><img src=x onerror=alert(1)>",
    "a\nb\rc",
    "../../../../tmp/x",
)
LLAMA = '{"model_type": "llama", "max_position_embeddings": 64}'
ACTING = {chr(n) for n in (*range(9), *range(11, 32), *range(0x7F, 0xA0))} | {"\u202e"}

READERS = (
    *(("table", "RUN", "--format", form) for form in ("terminal", "markdown", "csv", "json")),
    *(("compare", "RUN", "OTHER", "--format", form) for form in ("terminal", "markdown", "json")),
    *(("compare", "RUN", "--by", "model", "--format", form) for form in ("terminal", "markdown", "json")),
    *(("cost", "RUN", "--usd-per-hour", "2", "--format", form) for form in ("terminal", "markdown", "csv", "json")),
    *(("claims", "RUN", "--format", form) for form in ("terminal", "markdown", "json")),
    *(("claims", "RUN", "--published", "--format", form) for form in ("terminal", "markdown", "json")),
    *(("fit", "RUN", "--format", form) for form in ("terminal", "markdown", "csv", "json")),
    ("export", "RUN"),
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in which every text that can come from anywhere is hostile."""
    cells = [
        make_cell(number, model=name, backend=name, device="cpu", options={name: name})
        for number, name in enumerate(HOSTILE)
    ]
    warned = [Finding(HOSTILE[0], HOSTILE[1])]
    ends = [make_record(cell, n, SAMPLES, warnings=warned) for cell in cells for n in (1, 2)]
    lost = [
        make_record(cells[0], 3, status=Status.CRASH, phase=name, reason=name) for name in HOSTILE
    ]
    facts = {"name": HOSTILE[0], "why": HOSTILE[1], "command": HOSTILE[2], "warnings": [*HOSTILE]}
    machine = {"cpu": HOSTILE[0], "name": HOSTILE[1], "cores": 2}
    folder = tmp_path_factory.mktemp("hostile") / "run\x1b[2J=1"
    write_lines(folder, [make_plan(cells, machine=machine, **facts), *ends, *lost])
    return folder


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_no_command_shows_what_could_act(
    command: tuple[str, ...], hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": hostile, "OTHER": hostile}

    code = cli.run([str(places.get(word, word)) for word in command])

    out, err = capsys.readouterr()
    assert code in (0, 1, 3), err
    assert ACTING.isdisjoint(out)
    if command[-1] == "csv":
        cells = [cell for row in csv.reader(out.splitlines()) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "@", "|"))]


def test_a_hostile_run_that_cannot_be_read_is_named_without_acting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["table", str(tmp_path / HOSTILE[0])]) == 2

    assert ACTING.isdisjoint(capsys.readouterr().err)


def test_a_hostile_name_of_a_model_stays_inside_the_run(bench: Bench) -> None:
    models = [bench.folder / "models" / name.replace("/", "_") for name in HOSTILE]
    for model in models:
        model.mkdir(parents=True)
        (model / "config.json").write_text(LLAMA)
    bench.write(
        axes={"model": [*map(str, models)], "batch_size": 1},
        fault="junk",
        protocol={"sessions": 1, "max_sessions": 1},
    )
    before = everything(bench.folder)

    done = bench.sweep()

    assert done.code == 0, done.err
    assert_complete(done)
    assert ACTING.isdisjoint(done.out + done.err)
    new = everything(bench.folder) - before
    ours = {bench.run, bench.out, bench.err}
    assert all(ours & {path, *path.parents} for path in new)
    assert all(path.name.isascii() and path.name.isprintable() for path in new)


def everything(folder: Path) -> set[Path]:
    return {
        Path(at) / name for at, folders, files in os.walk(folder) for name in (*folders, *files)
    }


# -- whose machine it is -------------------------------------------------------------------------------


def test_nobodys_home_is_in_a_run(bench: Bench) -> None:
    home = bench.folder / "home-of-somebody"
    model = home / "models" / "mine"
    model.mkdir(parents=True)
    (model / "config.json").write_text(LLAMA)
    bench.write(axes={"model": str(model), "batch_size": 1}, fault="error", when="session=2")
    bench.run = home / "run"
    bench.rows = bench.run / store.RECORDS

    done = bench.sweep(environment={"HOME": str(home)})

    assert done.code == 3, done.err
    assert {record.cell.model for record in done.records} == {"~/models/mine"}
    for path in everything(bench.run):
        assert path.is_dir() or b"home-of-somebody" not in path.read_bytes(), path
