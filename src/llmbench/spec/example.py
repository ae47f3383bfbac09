"""The keys of a sweep file with their meanings, and a file that has all of them at their defaults."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import msgspec

from llmbench.spec import load
from llmbench.spec.load import LOAD, SHARED_PREFIX
from llmbench.spec.sweep import Axes, Deadlines, Protocol, Sweep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MEANINGS = {
    "name": "the name of the sweep; the run's folder is named after it",
    "why": "one sentence that says why you measure this; printed with every table",
    "axes": "what to measure; each value may be a list, and the grid is the product of all",
    "protocol": "how to measure",
    "model": "a name of the catalogue (llmbench models), NAME@tiny or NAME@small for a scaled-down copy, which is not "
    "that model, a local folder, or a hub id",
    "backend": "names of engines (llmbench backends), or a mapping from each name to its options",
    "dtype": "float32, bfloat16, float16 (or fp32, bf16, fp16), or auto: the dtype that the checkpoint or the "
    "catalogue states, with float16 for bfloat16 on a GPU without it, and bfloat16 for float16 on a CPU",
    "device": "cpu, cuda, or auto, which takes the GPU if there is one",
    "load_format": "dummy for random weights, safetensors for real ones, or auto: safetensors for a folder or a hub "
    "id, else dummy",
    "prompts": "synthetic draws random token ids; a file name cuts prompts from that text",
    "batch_size": "sequences at once",
    "input_len": "tokens of each prompt; 128-1024@uniform or lengths FILE for prompts of different lengths in a batch",
    "output_len": "new tokens of each sequence",
    LOAD: f"of servers: {load.MEANINGS[LOAD]}",
    SHARED_PREFIX: f"of servers: {load.MEANINGS[SHARED_PREFIX]}",
    "sessions": "the minimum number of fresh processes for each cell",
    "max_sessions": "the maximum",
    "interval_within": "the half-width of the 95 % interval of E2E for which the number of sessions is planned",
    "iterations": "the minimum number of timed iterations in a session",
    "max_iterations": "the maximum",
    "min_time_s": "the minimum time that the iterations of a session take together",
    "warmup": "the minimum number of warm-up calls; fewer than three show no trend (warning warmup_too_short)",
    "warmup_within": "the warm-up ends when its later calls are faster than its earlier ones by at most this "
    "share, or by no more than noise explains",
    "warmup_budget_s": "the time after which it ends in any case; if the calls clearly still got faster, the record "
    "has the warning warmup_not_converged",
    "cool_down_s": "the pause after an iteration that heat or power slowed down",
    "seed": "the seed of prompts, random weights and the order of cells",
    "isolation": "group serves all cells of one loaded engine in one process; cell gives each cell its own process",
    "across": "where several GPUs or boxes measure: unit measures all sessions of a cell on one GPU; kind spreads them "
    "over boxes of one kind, the same number each",
    "nursery": "how long the fork server lives, which imports the engine once and forks the workers: for a round, or "
    "for a single session",
    "allow_remote_code": "run code that comes with a checkpoint (flag --trust-remote-code)",
    "allow_pickle": "load .bin weights, which can run code (flag --allow-pickle)",
    "budget_s": "after this time cells get only their minimum number of sessions",
    "deadlines": "how long each phase may be silent before the worker is killed and the session recorded as timeout",
    "start_s": "start of the worker",
    "load_s": "loading the model",
    "warmup_s": "each warm-up call",
    "iteration_s": "each timed iteration",
    "memory_s": "the iteration that measures memory",
    "exit_s": "the end of the worker",
    "places": "other machines to measure on, as --places takes them",
    "hosts": "their names, as --hosts takes them, or a list",
    "gpus": "the GPUs of each machine to measure on at once, as --gpus takes them, or a list",
}
"""The meaning of every key, in a few words."""

PARTS: dict[str, type[msgspec.Struct]] = {
    "axes": Axes,
    "protocol": Protocol,
    "deadlines": Deadlines,
}
"""The keys that hold other keys."""
GIVEN = {"name": "example", "why": "Show every key of a sweep file.", "model": "llama-7b@tiny"}
"""Values of the example where a key has no default, or an empty one."""
MOST_OTHERS = 8
"""Other values of an option that are listed; of more, 'llmbench backends NAME' has all."""
PLAIN = re.compile(r"(?!(?:true|false|null)$)[A-Za-z][\w@.-]*")
"""Text that YAML reads as text without quotes."""
HEAD = """\
# Every key of a sweep file at its default. Only name and axes.model are required.
# Lengths and batch sizes take 1, [1, 8, 64], or a range: 1-64*2 doubles, 128-1024+128 adds.
# 'llmbench sweep FILE' measures it, and with --dry-run shows its cells first."""


def defaults(kind: type[msgspec.Struct]) -> dict[str, object]:
    """Return the keys of a part of a sweep file with their defaults; NODEFAULT for a required one."""
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


def example(
    declared: Mapping[str, Mapping[str, object]], meanings: Mapping[str, Mapping[str, object]]
) -> str:
    """Return a sweep file with every key, its default and its meaning; the options of other backends are commented out.

    Args:
        declared: the options of every backend, as `backends.options` returns them.
        meanings: what each option does, by backend.

    """
    return "\n".join([HEAD, *_keys(Sweep, "", declared, meanings), ""])


def _keys(
    kind: type[msgspec.Struct],
    indent: str,
    declared: Mapping[str, Mapping[str, object]],
    meanings: Mapping[str, Mapping[str, object]],
) -> Iterator[str]:
    for key, default in defaults(kind).items():
        inner = PARTS.get(key)
        value = "" if inner or key == "backend" else f" {spelled(GIVEN.get(key, default))}"
        yield f"{indent}{key}:{value}  # {MEANINGS[key]}"
        if inner:
            yield from _keys(inner, f"{indent}  ", declared, meanings)
        if key == "backend":
            for name in sorted(declared, key=lambda name: name != default):
                sign = "" if name == default else "# "
                yield f"{indent}  {sign}{name}:"
                lines = _options(declared[name], meanings[name])
                yield from (f"{indent}  {sign}  {line}" for line in lines)


def _options(declared: Mapping[str, object], meanings: Mapping[str, object]) -> Iterator[str]:
    """Yield the options of a backend at their defaults, each with its meaning and its other values."""
    for option, choices in declared.items():
        first, *others = choices if isinstance(choices, tuple) else (choices,)
        told = f"; or {', '.join(map(spelled, others))}" if 0 < len(others) <= MOST_OTHERS else ""
        yield f"{option}: {spelled(first)}  # {meanings[option]}{told}"


def spelled(value: object) -> str:
    """Return a value as YAML and JSON both read it, text without quotes where YAML needs none."""
    plain = isinstance(value, str) and PLAIN.fullmatch(value)
    return str(value) if plain else json.dumps(value)
