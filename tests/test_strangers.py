"""Folders and files from strangers: they name nothing outside the run, run nothing, and take no age to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmbench import cli, journal, messages, store
from make_records import make_cell, make_plan, make_record, make_samples, write_lines

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
    "a version that is no number": b'{"kind":"end","format":"1"}',
    "nothing": b"{}",
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_line_of_nonsense_costs_itself_only(
    name: str, sealed: bool, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = NONSENSE[name]
    appended(run, journal.seal(line + b"}") if sealed else line + b"\n")

    for command in (("table", str(run)), ("export", str(run)), ("claims", str(run))):
        assert cli.run([*command]) == 0
    with store.open_run(run) as opened:
        opened.append(make_record(CELL, 3, SAMPLES))

    assert sessions(run) == [1, 2, 3]
    assert list(store.read(run))
    assert sealed or "damaged and passed over" in capsys.readouterr().out


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
    rows = [journal.seal(json.dumps(one).encode()) for one in (record, msgspec.to_builtins(others))]
    (run / store.RECORDS).write_bytes(b"".join([rows[0], *lines_of(run), rows[1]]))

    assert cli.run(["table", str(run), "--format", "json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert [cell["sessions"]["valid"] for cell in told["cells"]] == [2, 1]
    assert "a line was not understood and passed over" in told["notices"][0]


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
    appended(run, line + b"\n" + journal.seal(journal.encode(make_record(CELL, 3, SAMPLES))))

    assert sessions(run) == [1, 2, 3]


def test_a_line_without_end_is_read_in_pieces_and_named_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = journal.seal(journal.encode(make_record(CELL, 3, SAMPLES)))
    appended(run, bytes(100_000) + b"\n" + last)
    monkeypatch.setattr(journal, "LONGEST_LINE", 10_000)

    assert sessions(run) == [1, 2, 3]
    assert store.read(run).notices == ["records.jsonl: line 4: damaged and passed over."]


def test_no_record_of_ours_is_too_long_to_be_read() -> None:
    assert journal.LONGEST_LINE >= 2 * messages.LONGEST
