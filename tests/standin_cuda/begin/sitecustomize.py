"""Puts a Python, and all that it starts, on the stand-in of a CUDA device; for PYTHONPATH."""

import sys
from pathlib import Path

# Last, so that nothing there hides a package.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from standin_cuda import start  # noqa: F401 - importing it is all
