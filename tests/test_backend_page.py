"""The page on adding a backend: its example, put where the page says, is swept by the real command."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.measure.engine import Engine
from sweeps import VALID

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding-a-backend.md").read_text(encoding="utf-8")


def example(language: str) -> str:
    """Return the page's only block of a language."""
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(block)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the source with the page's two files in it."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "src/llmbench/backends/bigram").mkdir()
    (tmp_path / "src/llmbench/backends/bigram/__init__.py").write_text(example("python"))
    (tmp_path / "bigram.yaml").write_text(example("yaml"))
    return tmp_path


def llmbench(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(
        (sys.executable, "-m", "llmbench", *arguments), cwd=checkout, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(checkout / "src")},
    )  # fmt: skip
    assert done.returncode in VALID, done.stdout + done.stderr
    return done.stdout


def test_the_example_is_swept_to_a_valid_table(checkout: Path) -> None:
    llmbench(checkout, "sweep", "bigram.yaml", "-o", "run")

    table = json.loads(llmbench(checkout, "table", "run", "--format", "json"))
    progress = table["progress"]
    assert progress["valid"] + progress["warned"] == progress["planned"] == 4
    for cell in table["cells"]:
        assert (cell["backend"], cell["options"]) == ("bigram", {"width": 64})
        assert {"ttft_s", "tpot_s", "output_tok_s", "host_peak_rss_bytes"} <= cell["values"].keys()


def test_the_example_is_held_to_the_source_s_own_checks(checkout: Path) -> None:
    file = checkout / "src/llmbench/backends/bigram/__init__.py"
    config = str(ROOT / "pyproject.toml")

    for command in (("ruff", "check"), ("ruff", "format", "--check")):
        done = subprocess.run(
            (sys.executable, "-m", *command, "--config", config, file),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


def test_the_example_has_all_that_an_engine_has() -> None:
    wanted = {name for name in (*Engine.__annotations__, *vars(Engine)) if not name.startswith("_")}

    assert wanted >= {"facts", "generate", "memory"}
    for name in wanted:
        assert re.search(
            rf"^    (def )?{name}\b|self\.{name}\b", example("python"), re.MULTILINE
        ), name
