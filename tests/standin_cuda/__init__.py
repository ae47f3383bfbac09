"""A CUDA device in software, so that `--device cuda` runs through the real command on a machine without a GPU.

`README.md` says what it is, what it is not, and how to run any command on it.
"""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
BEGIN = TESTS / "standin_cuda" / "begin"
"""The folder to put on PYTHONPATH: every Python of a command then begins with its `sitecustomize.py`."""


def beginning(code: str = "") -> str:
    """Return the code that makes a Python begin on the stand-in, followed by a test's own code."""
    return f"import sys\nsys.path.append({str(TESTS)!r})\nfrom standin_cuda import start\n{code}"
