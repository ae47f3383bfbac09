"""The engines, one file each: the file's name is the backend's name, and nothing else registers it.

A backend file declares, besides its code:

- `OPTIONS`, a literal: option name -> a tuple of choices (the first is the default), or a default value
  whose type any other value must have;
- `load(job) -> Engine`.

`declared` reads the literal from the source without importing the file: the planner knows every option
and never pays the seconds that an engine's packages take to import.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llmbench.errors import LoadFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.record import Job, Memory

HERE = Path(__file__).parent


class Engine(Protocol):
    """A loaded model that can generate, and say when each token came.

    `facts` is a flat mapping kept with every record: versions, attention implementation, `parameters`,
    `weights_bytes`, `param_devices` and `param_dtypes` (as found after loading, comma separated),
    `preallocates` (true where the engine takes the device's memory before it needs it), ...
    """

    facts: Mapping[str, Any]
    vocab_size: int
    special_ids: frozenset[int]

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without special ids; raise LoadFailed if there is no tokenizer."""

    def prepare(self, cell: Any) -> None:
        """Make ready for one cell's shape (static caches, compilation caches); never timed."""

    def generate(
        self, prompts: Sequence[Sequence[int]], output_len: int
    ) -> Sequence[Sequence[int]]:
        """Return `output_len` new token ids for each prompt, on the host, greedily. Timed as a whole."""

    def token_ns(self) -> list[list[int]]:
        """Return, for the last `generate`, nanoseconds from its start to each new token.

        One row if the batch moves in lock-step, else one row a sequence. Read after the clock has stopped.
        """

    def counters(self) -> Mapping[str, int]:
        """Return cumulative counts that must not move during a valid iteration, such as `prefix_cache_hits`."""

    def synchronize(self) -> None:
        """Wait until the device has done all work given to it."""

    def memory(self, prompts: Sequence[Sequence[int]], output_len: int) -> Memory:
        """Run one untimed iteration and return what it held. Bytes."""


@runtime_checkable
class Speaker(Protocol):
    """An engine that also says how sure it is, so that its function can be held against a reference."""

    def speak(
        self, prompts: Sequence[Sequence[int]], output_len: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return greedy new ids, and the natural log-probability that the model gave each; [batch][output_len]."""


def reference() -> Any:
    """Import what every engine's function is held to; needs torch and transformers."""
    return importlib.import_module("llmbench.backends._reference")


def known() -> list[str]:
    """Return the names of all backends: the files in this folder."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def missing(name: str) -> str | None:
    """Return the first package that a backend imports and that is not installed, without importing any."""
    packages: dict[str, None] = {}
    for node in _source(name).body:
        if isinstance(node, ast.Import):
            packages.update(dict.fromkeys(alias.name.partition(".")[0] for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages[node.module.partition(".")[0]] = None
    return next((one for one in packages if importlib.util.find_spec(one) is None), None)


def how_to_install(name: str, package: str) -> str:
    """Return what is missing for a backend, and the command that brings it."""
    return f"the {name} backend needs the package {package}: pip install 'llmbench[{name}]'."


def options(name: str) -> dict[str, object]:
    """Return a backend's declared options without importing it."""
    for node in _source(name).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "OPTIONS" for t in node.targets
        ):
            return dict(ast.literal_eval(node.value))
    raise AssertionError(f"backends/{name}.py declares no OPTIONS")


def _source(name: str) -> ast.Module:
    return ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))


def load(job: Job) -> Engine:
    """Import the job's backend and load its model: the only place where an engine's packages are imported."""
    name = job.cells[0].backend
    try:
        module = importlib.import_module(f"llmbench.backends.{name}")
    except ImportError as error:
        raise LoadFailed(how_to_install(name, str(error.name))) from error
    engine: Engine = module.load(job)
    return engine
