"""Importers of other tools' result files, one module each: its file name is the importer's name and registers it.

An importer declares:

- `TOOL`, a literal: the name of the tool;
- `recognises(document) -> bool`, which decides by the content alone;
- `read(document, said) -> list[Reading]`, which raises Unconvertible for what it cannot import.

A number goes under a key of METRICS only if it meets that key's definition. Another definition gets another key; a
mean is not a median; what a file does not state stays unknown. If a file states something twice, both must agree.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from llmbench.errors import Unconvertible, did_you_mean
from llmbench.importers import fields, foreign_texts
from llmbench.importers.fields import ToolFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    from llmbench.results.record import Finding, Given, Memory, Sample

__all__ = ["Reading", "Said", "ToolFile", "known", "read"]

TOOLS = (
    "aiperf",
    "genai_perf",
    "guidellm",
    "inference_perf",
    "llama_bench",
    "llmperf",
    "optimum_benchmark",
    "sglang_serve",
    "trtllm_bench",
    "vllm_latency",
    "vllm_serve",
    "vllm_throughput",
)
"""The modules that read tools' files, one per tool."""

Said: TypeAlias = "Mapping[str, str | int]"
"""Coordinates given by the user, by the names of a cell's fields."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One session of one cell, as read from a file.

    Attributes:
        where: the coordinates in the file, by the names of a cell's fields, including `options`: every setting.
        traits: what else the file says of build and machine; shown where rows would look alike without it.
        samples: timed iterations of the whole batch, if they match our definition.
        timed: the tool's definition of such an iteration, and its clock.
        given: other numbers, by their keys in METRICS.
        memory: bytes, if they match our definitions.
        load_s: seconds until the engine was loaded.
        warnings: for the reader.
        refused: numbers that were not imported, each with the reason.
        version: the tool's.
        ended: the end time in the file.

    """

    where: dict[str, Any]
    traits: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    timed: str | None = None
    given: dict[str, Given] = field(default_factory=dict)
    memory: Memory | None = None
    load_s: float | None = None
    warnings: list[Finding] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    ended: str | None = None


def known() -> list[str]:
    """Return the names of all importers, in order."""
    return list(TOOLS)


def read(path: Path, said: Said, name: str | None = None) -> tuple[str, ToolFile, list[Reading]]:
    """Return a file's tool, its content and its readings; raise Unconvertible with a one-line message.

    `name` selects the importer, for a file that several tools could have written.
    """
    if name is not None and name not in known():
        raise Unconvertible(f"--from: unknown importer {name!r}.{did_you_mean(name, known())}")
    document = fields.read(path)
    importers = [_module(one) for one in ([name] if name else known())]
    fitting = [module for module in importers if module.recognises(document)]
    if len(fitting) != 1:
        raise Unconvertible(f"{document.name}: {_unclear(document, fitting, importers)}")
    return str(fitting[0].TOOL), document, fitting[0].read(document, said)


def _unclear(
    document: ToolFile, fitting: Sequence[ModuleType], importers: Sequence[ModuleType]
) -> str:
    """Return the message for a file that matches no tool or several."""
    if fitting:
        names = ", ".join(module.__name__.rpartition(".")[2] for module in fitting)
        return f"several tools could have written this. Name one with --from: {names}."
    if other := foreign_texts.other_tool(document.values):
        return f"is {other}."
    tools = " or ".join(str(module.TOOL) for module in importers)
    return f"is not a result file of {tools}."


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"llmbench.importers.{name}")
