"""Records of another format, and records that were damaged, as the commands meet them (FAULTS 14, 17)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmbench.results import lines as results_lines
from sweeps import Bench, asked

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent / "golden"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- formats ---------------------------------------------------------------------------------------


def test_an_older_file_is_read_and_stays_as_it_is() -> None:
    """As its first version wrote it: no predictions, no time in the worker, no numbers of other tools."""
    before = contents(GOLDEN / "format-1")

    done = asked("table", GOLDEN / "format-1", "--format", "json")

    assert (done.code, done.err) == (0, "")
    shown = json.loads(done.out)
    assert shown["notices"] == []
    assert shown["progress"]["valid"] + shown["progress"]["warned"] == 2
    assert contents(GOLDEN / "format-1") == before


def test_an_older_run_is_continued_behind_its_own_lines(bench: Bench) -> None:
    bench.copy(GOLDEN / "format-1")
    before = bench.raw()
    bench.write(axes={"batch_size": 1})

    done = bench.sweep("--new-environment", "--add")

    assert done.code == 0
    assert bench.raw().startswith(before)
    assert [record.session for record in done.records if record.cell.backend == "fake"] == [1, 2]


def test_a_newer_file_is_shown_with_a_warning_and_nothing_is_added(bench: Bench) -> None:
    bench.copy(GOLDEN / "format-2")
    before = contents(bench.run)
    bench.write()

    shown, swept = asked("table", bench.run), asked("sweep", bench.file, "-o", bench.run)

    told = "is of format 2, and this llmbench knows formats up to 1. Read it with the version that wrote it"
    assert (shown.code, shown.err) == (0, "")
    assert told in " ".join(shown.out.split())
    assert "The output may be wrong." in " ".join(shown.out.split())
    assert "llama-7b@tiny" in shown.out
    assert (swept.code, swept.out) == (2, "")
    assert told in swept.err
    assert swept.err.count("\n") == 1
    assert contents(bench.run) == before


CONCLUDING = (
    ("compare", "--by", "model"),
    ("cost", "--usd-per-hour", "1"),
    ("claims",),
    ("export",),
    ("fit",),
    ("table", "--format", "csv"),
)


@pytest.mark.parametrize("command", CONCLUDING, ids=" ".join)
def test_nothing_is_concluded_from_a_newer_file(command: tuple[str, ...]) -> None:
    done = asked(command[0], GOLDEN / "format-2", *command[1:])

    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("'llmbench table' shows the part that it can read.\n")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("format", ['"two"', "0", "[1]"])
def test_an_unknown_format_is_refused(bench: Bench, format: str) -> None:
    bench.run.mkdir()
    line = b'{"kind":"end","format":%s,"id":"x"}' % format.encode()
    bench.rows.write_bytes(results_lines.seal(line))
    before = contents(bench.run)
    bench.write()

    shown, swept = asked("table", bench.run), asked("sweep", bench.file, "-o", bench.run)

    for code, out, err in (shown, swept):
        assert (code, out) == (2, "")
        assert err.startswith(f"llmbench: {bench.rows}: is of format ")
        assert err.endswith(", which no llmbench writes.\n")
    assert contents(bench.run) == before


# -- damage ----------------------------------------------------------------------------------------


def with_a_nul_block(rows: Path) -> str:
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join([*lines[:3], bytes(512), b"\n", *lines[3:]]))
    return "line 4: damaged and skipped"


def with_lines_of_another_program(rows: Path) -> str:
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join([*lines[:3], b'{"format":null}\n', b'{"format":0}\n', *lines[3:]]))
    return "lines 4-5: damaged and skipped"


def truncated_to_nothing(rows: Path) -> str:
    rows.write_bytes(b"")
    return "the plan is missing; run.json still has it"


def vanished(rows: Path) -> str:
    rows.unlink()
    return "the plan is missing; run.json still has it"


@pytest.mark.parametrize(
    "damage", [with_a_nul_block, with_lines_of_another_program, truncated_to_nothing, vanished]
)
def test_a_damaged_run_says_so_and_goes_on(
    bench: Bench, measured: Path, damage: Callable[[Path], str]
) -> None:
    bench.copy(measured)
    bench.write()
    told = damage(bench.rows)
    left = [line for line in bench.raw().splitlines(keepends=True) if results_lines.intact(line)]

    done = bench.sweep()

    assert done.code == 0
    assert told in done.out
    assert len(done.records) == 6
    assert all(line in bench.raw() for line in left)


def as_a_folder(rows: Path) -> str:
    rows.unlink()
    rows.mkdir()
    return "is a folder; a run needs regular files of its own."


def as_a_link(rows: Path) -> str:
    rows.rename(rows.with_name("elsewhere"))
    rows.symlink_to("elsewhere")
    return "is a symbolic link; a run needs regular files of its own."


@pytest.mark.parametrize("damage", [as_a_folder, as_a_link])
def test_what_is_no_file_of_records_is_refused(
    bench: Bench, measured: Path, damage: Callable[[Path], str]
) -> None:
    bench.copy(measured)
    bench.write()
    told = damage(bench.rows)

    done = asked("sweep", bench.file, "-o", bench.run)

    assert done == (2, "", f"llmbench: {bench.rows}: {told}\n")
