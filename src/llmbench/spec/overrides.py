"""Command line overrides of a sweep; flags win over the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench.errors import SpecError, did_you_mean
from llmbench.spec import grid
from llmbench.spec import sweep as spec_sweep
from llmbench.spec.sweep import Axes, Protocol, Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

FLAGS = {
    "iterations": "--num-iters",
    "warmup": "--num-iters-warmup",
    "sessions": "--sessions",
    "seed": "--seed",
}
"""The flag of each setting, to name in errors; a file's settings are checked when it is read."""
READ: Mapping[str, Callable[[list[str], str], list[Any]]] = {
    "batch_size": lambda texts, flag: grid.integers(",".join(texts), flag),
    "input_len": lambda texts, flag: grid.input_lengths([*texts], flag),
    "output_len": lambda texts, flag: grid.integers(",".join(texts), flag),
}
"""How the values of an axis are read that are not words."""


def read(path: Path | None, models: list[str] | None) -> Sweep:
    """Return the file's sweep, or one with only the models named by a flag."""
    if path is not None:
        if models and not path.exists() and str(path) not in spec_sweep.shipped():
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
    sweep: Sweep, lists: Mapping[str, list[str] | None], single: Mapping[str, object]
) -> Sweep:
    """Return the sweep with axes replaced by flags; `lists` accept commas, spaces and ranges."""
    changes: dict[str, Any] = dict(single)
    for name, given in lists.items():
        if given:
            flag = "--" + name.replace("_", "-")
            changes[name] = READ[name](given, flag) if name in READ else split(given)
    if isinstance(sweep.axes.backend, dict) and "backend" in changes:
        changes["backend"] = {name: sweep.axes.backend.get(name) for name in changes["backend"]}
    return msgspec.structs.replace(sweep, axes=msgspec.structs.replace(sweep.axes, **changes))


def with_options(
    sweep: Sweep, given: Sequence[str], declared: Mapping[str, Mapping[str, object]]
) -> Sweep:
    """Return the sweep with engine options set, each `KEY=VALUE` or `KEY=VALUE,VALUE`, for every backend that has it.

    Args:
        sweep: the sweep without them.
        given: the options; several of one key are several values of an axis.
        declared: the options of every backend, as `backends.options` returns them.

    Raises:
        SpecError: an option is not of that form, or no backend of the sweep has it.

    """
    if not given:
        return sweep
    asked = sweep.axes.backend
    chosen = asked if isinstance(asked, dict) else dict.fromkeys(grid.words(asked))
    backend: dict[str, dict[str, Any] | None] = {
        name: dict(options or {}) for name, options in chosen.items()
    }
    values: dict[tuple[str, str], list[Any]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"--option: {text!r} is not of the form KEY=VALUE.")
        having = [name for name in backend if key in declared.get(name, {})]
        if not having:
            known = [each for name in backend for each in declared.get(name, {})]
            raise SpecError(
                f"--option: {' and '.join(backend)} has no option {key!r}.{did_you_mean(key, known)} "
                f"'llmbench backends' lists them."
            )
        for name in having:
            values.setdefault((name, key), []).extend(_typed(value, declared[name][key]))
    for (name, key), each in values.items():
        backend[name] = {**(backend[name] or {}), key: each}
    return msgspec.structs.replace(sweep, axes=msgspec.structs.replace(sweep.axes, backend=backend))


def _typed(text: str, declared: object) -> list[Any]:
    """Return the values that a text names, of the declared type where it can be read so; free text is one value."""
    if isinstance(declared, str):
        return [text]
    return [_of_type(part, declared) for part in text.split(",")]


def _of_type(text: str, declared: object) -> Any:
    if isinstance(declared, tuple):
        return next((value for value in declared if str(value).lower() == text.lower()), text)
    try:
        return int(text) if isinstance(declared, int) else float(text)
    except ValueError:
        return text  # refused, with what would be right, when the grid is expanded


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
