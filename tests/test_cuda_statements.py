"""Which statements count as CUDA-only, on a source in which each of them is marked."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
SOURCE = '''
import torch

def load(device):
    """Load."""
    if device.type == "cuda":
        torch.cuda.synchronize()  # only
        for _ in range(3):  # only
            warm()  # only
    else:
        rest()
    clock = Events() if device.type == "cuda" else Stamps()
    if device == "cpu":
        return rest()
    return clock  # only

def warm():
    return helper()  # only

def helper():
    return 1  # only

def rest():
    return 2

class Events:
    name = "events"

    def mark(self):
        return self.name  # only

class Stamps:
    def mark(self):
        return 3

def gpu_of(cells):
    if not cells:  # only
        return None  # only
    return cells  # only

PLACES = {"cpu": rest, "cuda": probe}

def probe():
    return 4  # only
'''


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script, reading this source."""
    monkeypatch.syspath_prepend(SCRIPTS)
    found = importlib.import_module("cuda_statements")
    (tmp_path / "engine.py").write_text(SOURCE)
    monkeypatch.setattr(found, "SOURCE", tmp_path)
    return found


def test_a_statement_that_only_cuda_reaches_is_listed_and_no_other(script: Any) -> None:
    marked = {number for number, line in enumerate(SOURCE.split("\n"), 1) if "# only" in line}

    assert {statement.line for statement in script.cuda_only()} == marked


def test_a_statement_is_named_by_its_function(script: Any) -> None:
    names = {statement.function for statement in script.cuda_only()}

    assert names == {"load", "warm", "helper", "Events.mark", "gpu_of", "probe"}
