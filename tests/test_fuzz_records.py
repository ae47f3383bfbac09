"""Records that are damaged, or that strangers wrote: what is whole is read, the rest is named, nothing falls over."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llmbench import cli
from llmbench.importers import convert
from llmbench.results import lines as results_lines
from llmbench.results import store
from make_records import lines, make_cell, make_record, make_samples, write_lines
from mutations import as_json, changed, damaged

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
APPENDED = make_record(make_cell(99), 1, make_samples([1.0, 1.1, 1.2], ttft_s=0.2, tokens=4))

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def whole_lines(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the records of small runs: of an older version, made here, measured, and read from other tools."""
    folder = tmp_path_factory.mktemp("runs")
    write_lines(folder / "made", lines(18))
    files = sorted((HERE / "importers").glob("*.json*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)  # the same examples again
        convert.write(
            files, {}, None, folder / "imported", "llmbench import", "2026-01-01T00:00:00"
        )
    measured = next(RESULTS.glob("*-quickstart"))
    kept = {
        "golden": HERE / "golden" / "format-1",
        "made": folder / "made",
        "imported": folder / "imported",
        "measured": measured,
    }
    found = {name: whole_lines((run / store.RECORDS).read_bytes()) for name, run in kept.items()}
    return {name: b"".join(rows[:30]) for name, rows in found.items()}


@pytest.fixture
def a_run(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a way to make a run of these bytes, each in a folder of its own."""
    number = itertools.count()

    def make(data: bytes) -> Path:
        folder = tmp_path / f"run{next(number)}"
        folder.mkdir()
        (folder / store.RECORDS).write_bytes(data)
        return folder

    return make


# -- damage ------------------------------------------------------------------------------------------


@fuzz
@given(data=st.data())
def test_what_damage_spares_is_read_and_all_else_is_named(
    runs: dict[str, bytes], a_run: Callable[[bytes], Path], data: st.DataObject
) -> None:
    before = runs[data.draw(st.sampled_from(sorted(runs)))]
    after = data.draw(damaged(before))
    folder = a_run(after)

    bad: list[int] = []
    read = list(results_lines.scan(folder / store.RECORDS, len(after), bad.append))

    ended = after[: after.rfind(b"\n") + 1]
    spared = [line for line in whole_lines(before) if line[:-1] in ended]
    assert set(read) == set(spared)
    assert bad == [
        n for n, line in enumerate(whole_lines(ended), 1) if not results_lines.intact(line)
    ]


@fuzz
@given(data=st.data())
def test_after_any_damage_a_run_is_mended_and_goes_on(
    runs: dict[str, bytes], a_run: Callable[[bytes], Path], data: st.DataObject
) -> None:
    after = data.draw(damaged(runs["made"]))
    folder = a_run(after)
    before = list(store.read(folder))

    with store.open_run(folder) as run:
        run.append(APPENDED)

    log = store.read(folder)
    assert list(log) == [*before, APPENDED]
    assert (folder / store.RECORDS).read_bytes().startswith(after[: after.rfind(b"\n") + 1])
    assert after[after.rfind(b"\n") + 1 :] in (aside(folder) or after)
    assert not (folder / store.LOCK).exists()
    damaged_lines = any(
        not results_lines.intact(line) for line in whole_lines(after[: after.rfind(b"\n") + 1])
    )
    assert any("damaged and skipped" in notice for notice in log.notices) == damaged_lines


def aside(folder: Path) -> bytes:
    path = folder / store.TORN
    return path.read_bytes() if path.exists() else b""


# -- strangers ---------------------------------------------------------------------------------------

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("table", "RUN"),
    ("table", "RUN", "--format", "json", "--metric", "all"),
    ("table", "RUN", "--format", "csv"),
    ("table", "RUN", "--format", "markdown"),
    ("table", "RUN", "--predicted"),
    ("compare", "RUN", "OTHER"),
    ("compare", "OTHER", "RUN", "--format", "json", "--metric", "output_tok_s", "--cross-machine"),
    ("compare", "RUN", "--by", "model", "--format", "markdown"),
    ("cost", "RUN", "--usd-per-hour", "2", "--tpot-under", "50ms"),
    ("cost", "RUN", "--price", "aws", "--format", "csv", "--charge", "split"),
    ("claims", "RUN", "--usd-per-hour", "2"),
    ("claims", "RUN", "--published", "--format", "json"),
    ("export", "RUN"),
    ("fit", "RUN"),
    ("report", "RUN", "OTHER", "-o", "PAGE", "--force"),
)
"""Every command that reads a run."""

ACTING = {chr(n) for n in (*range(9), *range(11, 32), *range(0x7F, 0xA0))} | set(
    "\u202a\u202b\u202d\u202e\u2066\u2067"
)
"""What moves a cursor, and what turns the direction of reading."""


@fuzz
@given(data=st.data())
def test_a_strangers_record_is_read_or_refused_in_one_line_by_every_command(
    runs: dict[str, bytes],
    a_run: Callable[[bytes], Path],
    capsys: pytest.CaptureFixture[str],
    data: st.DataObject,
) -> None:
    before = runs[data.draw(st.sampled_from(sorted(runs)))]
    command = data.draw(st.sampled_from(COMMANDS))
    places = {"RUN": a_run(altered(data, before)), "OTHER": a_run(before)}
    places["PAGE"] = places["OTHER"] / "page.html"

    capsys.readouterr()  # what hypothesis says of its draws goes there too
    code = cli.run([str(places.get(word, word)) for word in command])

    out, err = capsys.readouterr()
    assert code in (0, 1, 2, 3, 5)
    assert ACTING.isdisjoint(out)
    assert "\r" not in out
    *beside, last = err.splitlines() or [""]
    if code in (2, 5):
        assert last.startswith("llmbench: ")
        assert all(f"/{store.RECORDS}: " in line for line in beside)  # what was passed over


@fuzz
@given(data=st.data())
def test_a_strangers_record_changes_no_other_cells_numbers(
    runs: dict[str, bytes],
    a_run: Callable[[bytes], Path],
    capsys: pytest.CaptureFixture[str],
    data: st.DataObject,
) -> None:
    before = runs["made"]
    rows = whole_lines(before)
    ends = [number for number, row in enumerate(rows) if row.startswith(b'{"kind":"end"')]
    number = data.draw(st.sampled_from(ends))
    cell = json.loads(rows[number])["id"]

    first = numbers(a_run(before), capsys)
    then = numbers(a_run(altered(data, before, number)), capsys)

    for name, values in first.items():
        if name != cell:
            assert then[name] == values
    for values in then.values():
        assert all(math.isfinite(value) and value > 0 for value in values.values())


def numbers(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, float]]:
    """Return every cell's metrics, as the table tells them to a program."""
    capsys.readouterr()  # what hypothesis says of its draws goes there too
    assert cli.run(["table", str(run), "--format", "json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    return {
        cell["id"]: {key: value["value"] for key, value in cell["values"].items()}
        for cell in cells
        if cell["sessions"]["valid"] == 3 or cell["values"]
    }


def altered(data: st.DataObject, before: bytes, number: int | None = None) -> bytes:
    """Return the records with a value changed in one line, which is sealed again: a checksum is no signature."""
    rows = whole_lines(before)
    at = data.draw(st.integers(0, len(rows) - 1)) if number is None else number
    members = json.loads(rows[at])
    members.pop("crc32")
    told, where = data.draw(changed(members))
    assume(where != ("format",))  # a newer one is refused whole, and has tests of its own
    return b"".join([*rows[:at], results_lines.seal(as_json(told)), *rows[at + 1 :]])
