"""What the README shows is what the program prints, and what it names exists."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "readme.py"))
rebuilt, MARKED = SCRIPT["rebuilt"], SCRIPT["MARKED"]


def test_every_marked_table_is_what_its_command_prints() -> None:
    assert rebuilt(TEXT) == TEXT


def test_a_table_that_was_edited_is_seen() -> None:
    first = MARKED.search(TEXT)
    assert first is not None
    edited = TEXT.replace(first[2], first[2] + "| 1 |\n", 1)

    assert rebuilt(edited) != edited


@pytest.mark.parametrize("command", re.findall(r"^\$ (.+)$", TEXT, re.MULTILINE))
def test_a_shown_command_names_files_that_exist(command: str) -> None:
    paths = [word for word in shlex.split(command) if "/" in word]

    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("path", re.findall(r"`((?:configs|scripts|src|tests)/[\w./-]+)`", TEXT))
def test_a_path_in_prose_exists(path: str) -> None:
    assert (ROOT / path).exists() or "NAME" in path
