"""The library of `guard.cpp`, compiled once for a version of torch and kept in the ignored folder `build/`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import zlib
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")
BUILT = Path(__file__).resolve().parents[2] / "build" / "standin_cuda"
NO_COMPILER = (
    "the stand-in of a CUDA device needs a C++ compiler: none of CXX, c++ and g++ was found"
)


def library() -> Path:
    """Return the library, compiled now if it is not there yet; raise RuntimeError without a compiler."""
    digest = zlib.crc32(SOURCE.read_bytes())
    path = BUILT / f"guard-{importlib.metadata.version('torch')}-{digest:08x}.so"
    if not path.exists():
        _compile(path)
    return path


def compiler() -> str | None:
    """Return the compiler of this machine, or None."""
    names = (os.environ.get("CXX", ""), "c++", "g++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _compile(path: Path) -> None:
    found, torch = compiler(), importlib.util.find_spec("torch")
    if found is None:
        raise RuntimeError(NO_COMPILER)
    assert torch is not None
    assert torch.submodule_search_locations is not None
    folder = torch.submodule_search_locations[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(
        f".{os.getpid()}"
    )  # two processes may compile at once; each renames a whole file
    flags = ("-shared", "-fPIC", "-std=c++20", "-O1", f"-I{folder}/include")
    subprocess.run((found, *flags, SOURCE, f"-L{folder}/lib", "-lc10", "-o", half), check=True)
    half.replace(path)
