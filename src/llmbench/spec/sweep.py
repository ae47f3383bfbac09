"""The structs of a sweep: Sweep, Axes, Protocol, and the Cells that they expand to.

A cell's id is a readable slug and a digest of everything that changes its number: the cell itself, the model's
facts, and how it is measured. Host, time and order are not in it; two machines give a cell the same id.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from llmbench.errors import SpecError, did_you_mean
from llmbench.spec import configs, load, yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

PROTOCOL = 2
"""The version of how numbers are measured. Comparisons across protocols are refused."""
NOT_OURS = 0
"""The protocol of other tools' measurements."""

LONGEST_SLUG = 96
MOST_SESSIONS = 1000
"""A limit against typing errors: no cell needs more processes."""

HEADS = {
    "batch_size": "batch",
    "input_len": "in",
    "output_len": "out",
    "load_format": "weights",
    "id": "cell",
}
"""Short column headings of axes with long names; commands accept both."""
SYNTHETIC = "synthetic"
"""Prompts of random token ids, and not of a text."""
NOT_SAID = "not said"
"""The value of a coordinate that another tool does not state."""
AXES_BEFORE = ("model", "backend")
AXES_AFTER = ("device", "dtype", "load_format", "prompts", "batch_size", "input_len", "output_len")
"""The fields of a cell that a sweep varies, in the order of columns; a backend's options stand between."""

Option: TypeAlias = str | int | float | bool


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long each phase of a worker may stay silent, in seconds."""

    start_s: float = 120.0
    load_s: float = 1800.0
    warmup_s: float = 900.0
    iteration_s: float = 600.0
    memory_s: float = 900.0
    exit_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse deadlines that are not positive."""
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to measure, the same for every cell. Times in seconds; the defaults are METHOD's."""

    sessions: int = 3
    max_sessions: int = 10
    interval_within: float = 0.015
    iterations: int = 5
    max_iterations: int = 1000
    min_time_s: float = 2.0
    warmup: int = 3
    warmup_within: float = 0.005
    warmup_budget_s: float = 30.0
    cool_down_s: float = 10.0
    seed: int = 0
    isolation: Literal["group", "cell"] = "group"
    across: Literal["unit", "kind"] = "unit"
    nursery: Literal["round", "session"] = "round"
    allow_remote_code: bool = False
    allow_pickle: bool = False
    budget_s: float | None = None
    deadlines: Deadlines = Deadlines()

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other; msgspec reports their place."""
        for name in ("sessions", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_sessions < self.sessions:
            raise ValueError(
                f"max_sessions ({self.max_sessions}) is below sessions ({self.sessions})"
            )
        if self.max_iterations < self.iterations:
            raise ValueError(
                f"max_iterations ({self.max_iterations}) is below iterations ({self.iterations})"
            )
        for name in (
            "warmup",
            "min_time_s",
            "warmup_within",
            "warmup_budget_s",
            "cool_down_s",
            "seed",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative, got {getattr(self, name)}")
        if self.max_sessions > MOST_SESSIONS:
            raise ValueError(f"max_sessions must be at most {MOST_SESSIONS}")

    def measuring(self) -> dict[str, object]:
        """Return the settings that affect a number, as opposed to its repetitions and deadlines."""
        names = (
            "iterations",
            "max_iterations",
            "min_time_s",
            "warmup",
            "warmup_within",
            "warmup_budget_s",
            "isolation",
        )
        return {name: getattr(self, name) for name in names}


class Point(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The known coordinates of a number. Lengths are in tokens; `options` has those that differ from the defaults.

    A coordinate that another tool does not state is `NOT_SAID`; a length that it does not state is None. In a batch of
    different lengths, `spread` is how they were asked for, `input_lens` those of the prompts in order, and `input_len`
    the longest. `attached_digest` identifies the weights of draft model and adapters; empty without, or if unknown.
    """

    id: str
    model: str
    model_digest: str
    backend: str
    options: dict[str, Option]
    device: str
    dtype: str
    load_format: str
    prompts: str
    batch_size: int | None
    input_len: int | None
    output_len: int | None
    spread: str = ""
    input_lens: tuple[int, ...] = ()
    attached_digest: str = ""

    @property
    def prompt_tokens(self) -> int | None:
        """Return the tokens of all prompts of the batch together; None if a size is not known."""
        if self.input_lens:
            return sum(self.input_lens)
        if self.batch_size is None or self.input_len is None:
            return None
        return self.batch_size * self.input_len

    def asked(self, name: str) -> Any:
        """Return a coordinate as it was asked for: `128-1024@uniform` for prompts of different lengths."""
        return self.spread if name == "input_len" and self.spread else getattr(self, name)


def values_of(cells: Sequence[Point], names: Sequence[str]) -> dict[str, dict[object, None]]:
    """Return the values of these fields, and of every option, as they were asked for and in their order."""
    values: dict[str, dict[object, None]] = {}
    for cell in cells:
        for name, value in (*((name, cell.asked(name)) for name in names), *cell.options.items()):
            values.setdefault(name, {})[value] = None
    return values


SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` that use all GPUs."""
PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size")
"""vLLM's options whose product is the number of GPUs it uses."""

BOXES = "nnodes"
"""vLLM's option of how many boxes share these GPUs."""


def gpus_of(options: Mapping[str, Option], present: int) -> int:
    """Return how many GPUs these options use, of those present and, with several boxes, of all of these together."""
    if options.get("device_map") in SPREADING:
        return max(1, present)
    return math.prod(int(options.get(name, 1)) for name in PARALLEL)


def boxes_of(options: Mapping[str, Option]) -> int:
    """Return on how many boxes an engine with these options runs."""
    return int(options.get(BOXES, 1))


class Cell(Point, frozen=True, kw_only=True):
    """One point of the grid, with everything needed to measure it."""

    batch_size: int
    input_len: int
    output_len: int

    @property
    def prompts_by_length(self) -> Mapping[int, int]:
        """Return how many prompts of the batch have each length."""
        return Counter(self.input_lens) or {self.input_len: self.batch_size}

    def group(self, isolation: str = "group") -> tuple[str, ...]:
        """Return the key of the cells that one loaded engine can serve."""
        alone = (self.id,) if isolation == "cell" else ()
        kept = {key: value for key, value in self.options.items() if key not in load.OPTIONS}
        options = msgspec.json.encode(kept, order="sorted").decode()
        return (
            self.model,
            self.model_digest,
            self.backend,
            options,
            self.device,
            self.dtype,
            self.load_format,
            *alone,
        )

    def where(self) -> str:
        """Return the cell's coordinates in words, for messages."""
        options = "".join(f", {key}={value}" for key, value in self.options.items())
        return (
            f"model={self.model}, backend={self.backend}, dtype={self.dtype}, batch_size={self.batch_size}, "
            f"input_len={self.asked('input_len')}, output_len={self.output_len}{options}"
        )


class Axes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Named lists whose product is the grid. A single value means a list of one."""

    model: str | list[str]
    backend: str | list[str] | dict[str, dict[str, Option | list[Option]] | None] = "transformers"
    dtype: str | list[str] = "auto"
    device: str | list[str] = "auto"
    load_format: str | list[str] = "auto"
    prompts: str | list[str] = SYNTHETIC
    batch_size: int | str | list[int] = 1
    input_len: int | str | list[int | str] = 128
    output_len: int | str | list[int] = 128
    load: int | str | list[int | str] | None = None
    shared_prefix: float | list[float] | None = None


class Sweep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of one sweep file; `why`, if given, is shown above the table."""

    name: str
    axes: Axes
    why: str = ""
    protocol: Protocol = Protocol()
    places: str = ""
    hosts: str | list[str] = ""
    gpus: str | int | list[int] = ""


def shipped() -> dict[str, Path]:
    """Return the files of the sweeps that come with llmbench, by name."""
    return {path.stem: path for path in sorted(configs.folder("sweeps").glob("*.yaml"))}


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file strictly, or a sweep that comes with llmbench by its name.

    Raises:
        SpecError: with the file, the line or key, and a suggestion.

    """
    if path.name == str(path) and not path.suffix and not os.path.lexists(path):
        known = shipped()
        models = [entry.stem for entry in configs.folder("models").glob("*.yaml")]
        if str(path) not in known:
            raise SpecError(
                f"sweep: {str(path)!r} is neither a file or folder, nor a sweep or model that llmbench knows."
                f"{did_you_mean(str(path), [*known, *models])} 'llmbench sweeps' and 'llmbench models' list them."
            )
        path = known[str(path)]
    return yaml.read(path, Sweep)


def slug(text: str, longest: int = LONGEST_SLUG) -> str:
    """Return text that is safe in file names on any system; different texts may give the same one."""
    safe = re.sub(r"[^A-Za-z0-9@=.]+", "-", text).strip("-.")
    return safe[:longest].rstrip("-.") or "x"


def groups(cells: Iterable[Cell], isolation: str) -> list[list[Cell]]:
    """Return the cells grouped by the loaded engine that they share, in order of first appearance."""
    by_key: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        by_key.setdefault(cell.group(isolation), []).append(cell)
    return list(by_key.values())
