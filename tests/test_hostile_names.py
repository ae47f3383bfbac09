"""Names that would act where they are shown: stored exactly, shown escaped, safe as files (FAULTS 23)."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from llmbench.backends.fake.faults import HOSTILE as HOSTILE_ERROR
from llmbench.report.csv import FORMULA
from llmbench.results.record import Status
from sweeps import LLMBENCH, Bench, asked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HOSTILE = (
    "=cmd()|' /C calc'!A0/../" + "x" * 250 + "/" + "y" * 60 + "/[/bold]</script><script>owned()</script>"
    "<img src=x onerror=owned()>\n| a | b |\r\x1b[31mred\x9b2J\u202egnp.exe\u200b🚀`${7*7}` {{x}} \"'&amp;"
)  # fmt: skip
"""A path, as long as 480 characters; what begins it, a spreadsheet would run."""

SAFE = re.compile(r"[A-Za-z0-9@=._-]+")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Return a folder, a run in it in which all that can be named has the hostile name, and what the sweep printed."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / HOSTILE).mkdir(
        parents=True, exist_ok=True
    )  # the folder that .. leaves is there by then
    (folder / HOSTILE / "config.json").write_text('{"model_type": "llama", "vocab_size": 32000}')
    (folder / HOSTILE / "prompts").write_text("word " * 1000)
    bench = Bench(folder)
    bench.write(
        axes={"model": HOSTILE, "prompts": f"{HOSTILE}/prompts", "batch_size": [1, 2]},
        fault=["none", "hostile"], when="batch_size=2", protocol={"sessions": 2},
    )  # fmt: skip
    sweep = json.loads(bench.file.read_text())
    text = json.dumps({**sweep, "name": HOSTILE, "why": HOSTILE})
    bench.file.write_text(
        text.replace(r"\ud83d\ude80", "🚀"), encoding="utf-8"
    )  # YAML has no pairs

    done = subprocess.run(
        (*LLMBENCH, "sweep", bench.file),
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )

    assert (done.returncode, done.stderr) == (3, "")
    (run,) = (folder / "results").iterdir()
    return folder, run, done.stdout


def acting(text: str) -> set[str]:
    """Return the characters of a text that do something where it is shown."""
    return {char for char in text if not char.isprintable() and char != "\n"}


def test_a_name_is_stored_exactly(measured: tuple[Path, Path, str]) -> None:
    _, run, _ = measured
    bench = Bench(run.parent)
    bench.run = run

    plan = bench.plan()

    assert (plan.name, plan.why) == (HOSTILE, HOSTILE)
    assert {cell.model for cell in plan.cells} == {HOSTILE}
    assert {record.cell.prompts for record in bench.records()} == {f"{HOSTILE}/prompts"}
    assert len(bench.records()) == 8
    (told,) = {record.reason for record in bench.records() if record.status is Status.CRASH}
    assert told == "ValueError: " + " ".join(HOSTILE_ERROR.replace("\udcff", r"\udcff").split())


def test_every_file_of_a_run_has_a_safe_name(measured: tuple[Path, Path, str]) -> None:
    _, run, _ = measured

    names = [path.name for path in (run, *run.rglob("*"))]

    assert all(SAFE.fullmatch(name) for name in names)
    assert max(map(len, names)) < 200


def test_a_sweep_shows_nothing_that_acts(measured: tuple[Path, Path, str]) -> None:
    _, _, out = measured

    assert acting(out) == set()
    assert r"[/bold]</script>" in out
    assert r"\x1b[31m" in out
    assert "\n| a | b |" not in out


CARE = "Take these numbers with care: 2 sessions failed; 1 of 4 cells without a number.\n"
"""On standard error where CSV has no place for it."""
COMPARE = ("compare", "RUN", "--by", "batch_size", "--fail-on", "none")
SHOWN = [
    *(("table", "RUN", "--format", form) for form in ("terminal", "markdown")),
    *((*COMPARE, "--format", form) for form in ("terminal", "markdown")),
    *(("cost", "RUN", "--usd-per-hour", "1", "--format", form) for form in ("terminal", "markdown")),
    *(("fit", "RUN", "--format", form) for form in ("terminal", "markdown")),
    *(("claims", "RUN", "--format", form) for form in ("terminal", "markdown")),
    *(("report", "RUN", "--format", form) for form in ("terminal", "markdown")),
    *(("table", "RUN", "--predicted", "--format", form) for form in ("terminal", "markdown")),
]  # fmt: skip
CSV = [
    ("table", "RUN"),
    ("cost", "RUN", "--usd-per-hour", "1"),
    ("fit", "RUN"),
    ("report", "RUN"),
    COMPARE,
]
JSON = [*CSV, ("claims", "RUN")]
PAGES = [*JSON, ("table", "RUN", "--predicted")]


@pytest.fixture(scope="module")
def told(measured: tuple[Path, Path, str]) -> dict[tuple[str, ...], str]:
    """Return what every command prints of the run."""
    folder, run, _ = measured
    commands = [
        *SHOWN,
        *((*command, "--format", "csv") for command in CSV),
        *((*command, "--format", "json") for command in JSON),
        ("export", "RUN"),
        *((*command, "--format", "html", "-o", "PAGE") for command in PAGES),
    ]
    paths = {"RUN": run, "PAGE": folder / "page.html"}
    printed: dict[tuple[str, ...], str] = {}
    for command in commands:
        done = asked(*(paths.get(word, word) for word in command))
        assert (done.code, done.err) in ((0, ""), (0, CARE)), command
        page = "PAGE" in command
        printed[command] = paths["PAGE"].read_text(encoding="utf-8") if page else done.out
    return printed


@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
def test_what_people_are_shown_does_nothing(
    told: dict[tuple[str, ...], str], command: tuple[str, ...]
) -> None:
    text = told[command]

    assert acting(text) == set()
    assert "\n| a | b |" not in text
    if "markdown" in command:
        assert "<script>" not in re.sub(r"(`+).*?\1", "", text)


@pytest.mark.parametrize("command", CSV, ids=" ".join)
def test_a_spreadsheet_finds_no_formula(
    told: dict[tuple[str, ...], str], command: tuple[str, ...]
) -> None:
    text = told[*command, "--format", "csv"]

    rows = list(csv.reader(io.StringIO(text)))
    assert acting(text) == set()
    assert len({len(row) for row in rows}) == 1
    assert any("=cmd()" in value for row in rows for value in row)
    assert not [value for row in rows for value in row if value.startswith(FORMULA)]


PROGRAMS = [*((*command, "--format", "json") for command in JSON), ("export", "RUN")]


def strings(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("command", PROGRAMS, ids=" ".join)
def test_a_program_is_given_the_name_itself(
    told: dict[tuple[str, ...], str], command: tuple[str, ...]
) -> None:
    found = json.loads(told[command])

    if command[0] not in {"claims", "compare"}:
        assert HOSTILE in strings(found)


@pytest.mark.parametrize("command", PAGES, ids=" ".join)
def test_a_page_holds_no_element_of_a_name(
    told: dict[tuple[str, ...], str], command: tuple[str, ...]
) -> None:
    page = told[*command, "--format", "html", "-o", "PAGE"]

    assert page.startswith("<!doctype html>")
    assert "<script>owned" not in page
    assert "<img src=x" not in page
    assert acting(page.replace("\t", " ")) == set()
