"""The GGUF file of a job: the model itself, or one that is made once, in a child, and kept in the state folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from llmbench import interpreter
from llmbench.errors import LoadFailed, Unsupported
from llmbench.machine import state
from llmbench.models import checkpoint, gguf, resolve
from llmbench.redact import redact
from llmbench.results.record import Job  # noqa: TC001 - msgspec reads the annotations
from llmbench.spec.digest import digest_of
from llmbench.spec.grid import NONE
from llmbench.spec.sweep import slug

VERSION = 1
"""Of the way files are made; another version makes them again."""
MOST_KEPT_BYTES = 64 * 2**30
"""Files that were not used for the longest time are removed when all together take more."""
REFUSED = re.compile(r"^(LoadFailed|Unsupported): (.*)$", re.MULTILINE)
"""The line in which the child says that it cannot."""


class Made(NamedTuple):
    """A file, and the seconds that making it took; None if it was there."""

    path: Path
    made_s: float | None = None


class Order(msgspec.Struct, frozen=True):
    """What a child is asked to make: a job's weights in a scheme, at a path."""

    job: Job
    scheme: str
    path: str


def of(job: Job, scheme: str) -> Made:
    """Return the file that has the job's weights in a scheme, making it if needed.

    Raises:
        LoadFailed: it cannot be made, or there is no room for it.
        Unsupported: weights of this family, or this scheme, cannot be written here.

    """
    model = job.model
    own = checkpoint.quantisation(model.config)
    if resolve.is_gguf(model) and (own or scheme == NONE):
        return Made(Path(str(model.location)))
    if own:
        raise Unsupported(
            f"{model.name} is quantised ({own}); name the unquantised model for llama.cpp."
        )
    path = folder() / f"{slug(model.name, 60)}-{scheme}-{_digest(job, scheme)}{gguf.SUFFIX}"
    if path.exists():
        os.utime(path)
        return Made(path)
    began = time.monotonic()
    _make_room(path.parent)
    _make(job, scheme, path)
    return Made(path, time.monotonic() - began)


def folder() -> Path:
    """Return where made files are kept."""
    return state.folder() / "gguf"


def _digest(job: Job, scheme: str) -> str:
    """Return a digest of everything that the bytes of a file depend on."""
    cell, model = job.cells[0], job.model
    weights = []
    if cell.load_format != "dummy":
        place = Path(str(model.location))
        files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
        weights = [[str(each), *_stamp(each)] for each in files]
    return digest_of(
        [VERSION, model.digest, cell.dtype, cell.load_format, job.protocol.seed, scheme, weights]
    )


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _make_room(place: Path) -> None:
    """Make the folder, and remove the files that were used last longest ago."""
    place.mkdir(parents=True, exist_ok=True)
    for rest in place.glob("*.unfinished*"):
        if not psutil.pid_exists(int(rest.name.split(".unfinished")[0].rpartition(".")[2])):
            rest.unlink(missing_ok=True)  # of a worker that was killed
    kept = sorted(
        place.glob(f"*{gguf.SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    total = 0
    for path in kept:
        total += path.stat().st_size
        if total > MOST_KEPT_BYTES:
            path.unlink(missing_ok=True)


def _make(job: Job, scheme: str, path: Path) -> None:
    """Let a child write the file next to its place, and move it there once it is whole."""
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    order = msgspec.json.encode(Order(job, scheme, str(unfinished)))
    try:
        child = subprocess.run(
            interpreter.command("llmbench.backends.llamacpp.convert"),
            input=order,
            capture_output=True,
            env={**os.environ, **interpreter.SAFE, "CUDA_VISIBLE_DEVICES": ""},
            check=False,
        )
        said = (child.stdout + child.stderr).decode(errors="replace")
        if refused := REFUSED.search(said):
            raise {"LoadFailed": LoadFailed, "Unsupported": Unsupported}[refused[1]](refused[2])
        if child.returncode:
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            free = shutil.disk_usage(path.parent).free / 2**30
            raise LoadFailed(
                f"{job.model.name}: its GGUF file could not be made ({free:.1f} GiB are free): {redact(last)[:300]}"
            )
        unfinished.replace(path)
    finally:
        for rest in path.parent.glob(f"{unfinished.name}*"):
            rest.unlink(missing_ok=True)
