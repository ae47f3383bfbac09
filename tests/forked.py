"""Commands in forks of a process that has imported llmbench: they need no half second of imports each."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from typing import TYPE_CHECKING

from llmbench import cli

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "llmbench.commands.sweep"])


def run(
    arguments: Sequence[str],
    out: Path,
    err: Path,
    environment: Mapping[str, str],
    beginning: Path | None,
    patience_s: float,
) -> int:
    """Run a command to its end in a process of its own, which begins with a file of code; return its exit code."""
    given = (list(arguments), out, err, dict(environment), beginning)
    process = CONTEXT.Process(target=_command, args=given)
    process.start()
    process.join(patience_s)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{arguments}: no end within {patience_s} s")
    return process.exitcode


def stop() -> None:
    """End the process that forks, and wait for it: only then do the system's times include those of its commands."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _command(
    arguments: list[str],
    out: Path,
    err: Path,
    environment: dict[str, str],
    beginning: Path | None,
) -> None:
    """Become `llmbench` with these arguments, as a shell would start it."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.orig_argv[:] = [
        sys.executable,
        "-m",
        "llmbench",
        *arguments,
    ]  # by which the code knows a command
    if beginning:
        names = {"__name__": "sitecustomize", "__file__": str(beginning)}
        exec(beginning.read_text(), names)  # noqa: S102 - a test's own code
    sys.argv = ["llmbench", *arguments]
    cli.main()
