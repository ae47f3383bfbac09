"""The map from what must never lose a number to the tests that show it: whole, and true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = (*range(1, 37), *range(54, 62))
"""Those between are of devices and servers, whose tests no row here names yet."""
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def rows() -> list[tuple[int, str, list[tuple[str, str]]]]:
    """Return the number of each case, what it is, and the tests named for it."""
    page = (HERE / "README.md").read_text(encoding="utf-8")
    return [(int(n), case, NAMED.findall(tests)) for n, case, tests in ROW.findall(page)]


def test_every_case_has_one_row_and_every_row_a_test() -> None:
    found = rows()

    assert [number for number, _, _ in found] == list(CASES)
    assert all(tests for _, _, tests in found)


def test_a_row_holds_nothing_but_tests() -> None:
    page = (HERE / "README.md").read_text(encoding="utf-8")

    for _, _, tests in ROW.findall(page):
        assert NAMED.sub("", tests).replace(",", "").strip() == "", tests


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> set[str]:
    """Return the tests that a default run collects: of this run, if it has all files, or by asking."""
    files = sorted({file for _, _, tests in rows() for file, _ in tests})
    here = {plain(item.nodeid) for item in request.session.items}
    if set(files) <= {name.partition("::")[0] for name in here}:
        return here
    command = (
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        *files,
    )
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)
    return set(map(plain, done.stdout.splitlines()))


def plain(name: str) -> str:
    """Return a test's name without its folder and its parameters."""
    return name.partition("[")[0].removeprefix("tests/")


def test_every_test_that_is_named_is_run_by_default(collected: set[str]) -> None:
    named = {f"{file}::{test}" for _, _, tests in rows() for file, test in tests}

    assert named - collected == set()
