"""One sweep in several environments, such as two builds of an engine, in turn: each round in one after the other.

A machine that slows down then slows all of them alike, and sessions of the same round can be paired. The order is
turned around in every other round. Each environment measures with the llmbench that is installed in it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from llmbench.errors import MEASURED, RunError, SpecError
from llmbench.interpreter import SAFE
from llmbench.results import store
from llmbench.results.record import Record
from llmbench.run.signals import Interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

VERSION_WITHIN_S = 60.0
"""How long an environment may take to say which llmbench it has; a cold disk needs some seconds."""


class Build(NamedTuple):
    """An environment, and the folder of its run."""

    python: Path
    run: Path


def builds(environments: Sequence[Path], folder: Path, version: str) -> list[Build]:
    """Return the environments with a run each under a folder, named as they are.

    Args:
        environments: folders of virtual environments.
        folder: the folder of the runs; it need not exist.
        version: of this llmbench, which all of them must have.

    Raises:
        SpecError: there are fewer than two, one has no llmbench or another version of it, or two have one name.

    """
    if len(environments) < 2:
        raise SpecError("builds: one environment is given; name at least two.")
    made: dict[str, Build] = {}
    for each in environments:
        name = each.resolve().name
        if name in made:
            raise SpecError(f"builds: two environments are named {name!r}, as their runs would be.")
        made[name] = Build(_python(each, version), folder / name)
    return list(made.values())


def _python(environment: Path, version: str) -> Path:
    """Return an environment's interpreter; raise SpecError if it cannot measure with this version."""
    python = environment / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise SpecError(
            f"builds: {str(environment)!r} is not a virtual environment: it has no bin/python."
        )
    asked = [str(python), "-P", "-m", "llmbench", "--version"]
    try:
        answer = subprocess.run(
            asked, capture_output=True, text=True, timeout=VERSION_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SpecError(f"builds: {python}: cannot be run: {error}.") from error
    found = answer.stdout.strip() if answer.returncode == 0 else "no llmbench"
    if found != f"llmbench {version}":
        raise SpecError(
            f"builds: {str(environment)!r} has {found}, and this is llmbench {version}; install the same there."
        )
    return python


def measure(
    sweep: Sequence[str], made: Sequence[Build], most: int, tell: Callable[[str], None]
) -> int:
    """Measure round after round until no environment has anything left, and return an exit code.

    Args:
        sweep: the arguments of `llmbench sweep` that say what is measured.
        made: the environments; a run that exists is continued.
        most: the most sessions of a cell, so the most rounds.
        tell: what says which environment's turn it is.

    Returns:
        DONE, or the code of the environment that could not measure or was stopped.

    Raises:
        RunError: a folder holds a run that was not measured in turn with the others.

    """
    turns = _turns(made)
    with Interrupt() as interrupt:
        begun = min(map(_begun, made))
        for number in range(max(1, begun), most + 1):
            before = _sizes(made)
            for build in made if number % 2 else reversed(made):
                tell(f"Round {number} of at most {most}, {build.run.name}:")
                code = _round(sweep, build, number, turns, interrupt)
                if interrupt.signal is not None:
                    return interrupt.exit_code
                if code not in MEASURED:
                    return code
            if number > begun and _sizes(made) == before:
                break
    return 0


def _turns(made: Sequence[Build]) -> str:
    """Return what the runs' plans have in common: that of the runs that exist, else a new one."""
    begun = [build.run for build in made if (build.run / store.RECORDS).exists()]
    plans = [store.read(run).plan for run in begun]
    known = {plan.turns if plan else "" for plan in plans}
    if "" in known or len(known) > 1:
        raise RunError(
            f"{begun[0].parent}: holds runs that were not measured in turn; give another folder with --output."
        )
    return known.pop() if known else secrets.token_hex(8)


def _begun(build: Build) -> int:
    """Return the last round that an environment has a record of; 0 if it has none."""
    if not (build.run / store.RECORDS).exists():
        return 0
    return max((record.session for record in store.read(build.run).records(Record)), default=0)


def _sizes(made: Sequence[Build]) -> list[int]:
    """Return how long each run's records are, to see whether a round has added any."""
    records = [build.run / store.RECORDS for build in made]
    return [path.stat().st_size if path.exists() else 0 for path in records]


def _round(
    sweep: Sequence[str], build: Build, number: int, turns: str, interrupt: Interrupt
) -> int:
    """Measure up to this round in one environment; a signal reaches it too, and it ends as a sweep does."""
    asked = [str(build.python), "-P", "-m", "llmbench", "sweep", *sweep, "-o", str(build.run)]
    asked += ["--rounds", str(number), "--turns", turns]
    with subprocess.Popen(asked, env=os.environ | SAFE) as child:
        sent = False
        while True:
            try:
                return child.wait(timeout=None if sent else 0.2)
            except subprocess.TimeoutExpired:
                if interrupt.signal is not None:
                    child.send_signal(interrupt.signal)
                    sent = True
