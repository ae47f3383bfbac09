"""Command line overrides of a sweep; flags win over the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench.errors import SpecError
from llmbench.spec import grid
from llmbench.spec import sweep as spec_sweep
from llmbench.spec.sweep import Axes, Protocol, Sweep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FLAGS = {
    "iterations": "--num-iters",
    "warmup": "--num-iters-warmup",
    "sessions": "--sessions",
    "seed": "--seed",
}
"""The flag of each setting, to name in errors; a file's settings are checked when it is read."""
LENGTHS = ("batch_size", "input_len", "output_len")


def read(path: Path | None, models: list[str] | None) -> Sweep:
    """Return the file's sweep, or one with only the models named by a flag."""
    if path is not None:
        if models and not path.exists():
            raise SpecError(
                f"sweep: {str(path)!r} is not a file. If it is part of a list, separate the values by commas: "
                f"--batch-size 1,8."
            )
        return spec_sweep.read_sweep(path)
    if not models:
        raise SpecError(
            "sweep: nothing to run: give a sweep file, or --model NAME. See 'llmbench sweep --help'."
        )
    return Sweep(name="adhoc", why="Asked for on the command line.", axes=Axes(model=split(models)))


def overridden(
    sweep: Sweep, lists: Mapping[str, list[str] | None], single: Mapping[str, str]
) -> Sweep:
    """Return the sweep with axes replaced by flags; `lists` accept commas, spaces and ranges."""
    changes: dict[str, Any] = dict(single)
    for name, given in lists.items():
        if given:
            flag = "--" + name.replace("_", "-")
            changes[name] = (
                grid.integers(",".join(given), flag) if name in LENGTHS else split(given)
            )
    if isinstance(sweep.axes.backend, dict) and "backend" in changes:
        changes["backend"] = {name: sweep.axes.backend.get(name) for name in changes["backend"]}
    return msgspec.structs.replace(sweep, axes=msgspec.structs.replace(sweep.axes, **changes))


def with_protocol(sweep: Sweep, changes: Mapping[str, Any]) -> Sweep:
    """Return the sweep with changed settings; raise SpecError if they contradict each other."""
    try:
        settings: Protocol = msgspec.structs.replace(sweep.protocol, **changes)
    except ValueError as error:
        flag = FLAGS.get(str(error).partition(" ")[0], sweep.name)
        raise SpecError(f"{flag}: {error}.") from error
    return msgspec.structs.replace(sweep, protocol=settings)


def split(given: list[str]) -> list[str]:
    """Return the words of a repeatable, comma-separated flag."""
    return [word for item in given for word in item.split(",") if word]
