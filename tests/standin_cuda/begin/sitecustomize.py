"""Puts a Python, and all that it starts, on the stand-in of a CUDA device; for PYTHONPATH."""

import sys
from pathlib import Path

sys.path.append(
    str(Path(__file__).resolve().parents[2])
)  # last, so that nothing there hides a package

from standin_cuda import start  # noqa: E402, F401 - importing it is all
