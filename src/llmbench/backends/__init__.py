"""The engines, a folder each: the folder's name is the backend's name, and nothing else registers it.

A backend's `__init__.py` declares, besides its code:

- `OPTIONS`, a literal: option name -> a tuple of choices (the first is the default), or a default value
  whose type any other value must have;
- `MIXES_LENGTHS = True`, if the prompts of a batch may have different lengths, without padding;
- `SERVES = True`, if it is a server, which has the options of a load besides its own;
- `ATTACHED = True`, if somebody else started it, so that its device, dtype and weights are not known;
- `MEANINGS`, a literal: option name -> what it does, in a few words;
- `PACKAGES`, a literal, if its option `quantization` needs more packages: method -> package;
- `load(job) -> Engine`;
- `hold_rank(job)`, if it has the option `nnodes`: take part in the engine that `load` starts on another box.

`declared` reads the literal from the source without importing the file: the planner knows every option and never
spends the seconds that importing an engine's packages takes.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.errors import LoadFailed
from llmbench.spec import load as spec_load

if TYPE_CHECKING:
    from llmbench.measure.engine import Engine
    from llmbench.results.record import Job

HERE = Path(__file__).parent


def reference() -> Any:
    """Import the reference that every engine is checked against; needs torch and transformers."""
    return importlib.import_module("llmbench.backends.reference_model")


def known() -> list[str]:
    """Return the names of all backends: the folders in this folder."""
    return sorted(path.parent.name for path in HERE.glob("*/__init__.py"))


def missing(name: str, quantization: str = "none") -> str | None:
    """Return what a backend, or its way to quantise, needs and is not installed, and the command that installs it."""
    packages: dict[str, None] = {}
    for node in _source(name).body:
        if isinstance(node, ast.Import):
            packages.update(dict.fromkeys(alias.name.partition(".")[0] for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages[node.module.partition(".")[0]] = None
    if package := next((one for one in packages if importlib.util.find_spec(one) is None), None):
        return how_to_install(name, package)
    needed = (_literal(name, "PACKAGES") or {}).get(quantization.partition("-")[0])
    if needed is None or importlib.util.find_spec(str(needed)) is not None:
        return None
    return f"quantization={quantization} needs the package {needed}: pip install {needed}."


def how_to_install(name: str, package: str) -> str:
    """Return a message that names a backend's missing package and the command that installs it."""
    return f"the {name} backend needs the package {package}: pip install 'llmbench[{name.partition('_')[0]}]'."


def options(name: str) -> dict[str, object]:
    """Return a backend's declared options without importing it."""
    declared = _literal(name, "OPTIONS")
    assert declared is not None, f"backends/{name} declares no OPTIONS"
    return {**spec_load.OPTIONS, **declared} if _literal(name, "SERVES") else dict(declared)


@functools.cache
def mixes_lengths(name: str) -> bool:
    """Return whether a backend runs prompts of different lengths in one batch, without importing it."""
    return bool(_literal(name, "MIXES_LENGTHS"))


def meanings(name: str) -> dict[str, object]:
    """Return what each option of a backend does, where it says so, without importing it."""
    declared = _literal(name, "MEANINGS") or {}
    return {**spec_load.MEANINGS, **declared} if _literal(name, "SERVES") else dict(declared)


def attached(name: str) -> bool:
    """Return whether a backend is a server that somebody else started."""
    return bool(_literal(name, "ATTACHED"))


def about(name: str) -> str:
    """Return the first sentence of a backend's source."""
    return (ast.get_docstring(_source(name)) or "").partition("\n")[0]


def _literal(name: str, constant: str) -> Any:
    """Return what a backend's source assigns to a constant; None if there is none."""
    for node in _source(name).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == constant for t in node.targets
        ):
            return ast.literal_eval(node.value)
    return None


@functools.cache
def _source(name: str) -> ast.Module:
    return ast.parse((HERE / name / "__init__.py").read_text(encoding="utf-8"))


def load(job: Job) -> Engine:
    """Import the job's backend and load its model: the only place where an engine's packages are imported."""
    engine: Engine = _module(job).load(job)
    return engine


def hold_rank(job: Job) -> None:
    """Take part in an engine whose first rank is on another box, until it ends."""
    _module(job).hold_rank(job)


def _module(job: Job) -> Any:
    name = job.cells[0].backend
    try:
        return importlib.import_module(f"llmbench.backends.{name}")
    except ImportError as error:
        raise LoadFailed(how_to_install(name, str(error.name))) from error
