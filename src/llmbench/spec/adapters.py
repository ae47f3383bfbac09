"""LoRA adapters as options of a cell: the folders that peft wrote, one or several."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmbench import files
from llmbench.errors import LoadFailed
from llmbench.spec.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

LORA, MERGED = "lora", "lora_merged"
"""The options: folders separated by commas, and whether an adapter is added to the weights before anything is timed."""
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.*"


ONE_FOR_A_BATCH = "transformers"
MOST_RANK = {"vllm": 512}
"""The largest rank that a backend takes."""


class Adapter(NamedTuple):
    """One adapter: its folder, its rank, and the modules that it changes."""

    folder: Path
    rank: int
    modules: str


def of(options: Mapping[str, object]) -> list[Adapter]:
    """Return the adapters that a cell's options name; raise LoadFailed for a folder that holds none."""
    given = str(options.get(LORA, ""))
    return [_read(Path(each.strip()).expanduser()) for each in given.split(",") if each.strip()]


def _read(folder: Path) -> Adapter:
    try:
        settings = json.loads(files.read_text(folder / SETTINGS))
        modules = settings["target_modules"]
        named = modules if isinstance(modules, str) else ", ".join(sorted(modules))
        return Adapter(folder, int(settings["r"]), named)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = "has no " + SETTINGS if isinstance(error, OSError) else f"{SETTINGS} is damaged"
        raise LoadFailed(f"{LORA}: {folder} {why}; give the folder that peft wrote.") from error


def why_not(backend: str, adapters: list[Adapter]) -> str:
    """Return why a backend cannot run these adapters; empty if it can."""
    if backend == ONE_FOR_A_BATCH and len(adapters) > 1:
        return f"{backend} runs one adapter for a batch; use the vllm backend for several"
    largest = max((each.rank for each in adapters), default=0)
    if largest > MOST_RANK.get(backend, largest):
        return (
            f"{backend} takes adapters of rank {MOST_RANK[backend]} at most, and one has {largest}"
        )
    return ""


def digest(names: str) -> str:
    """Return what identifies the adapters in folders, by the content of their files; raise LoadFailed without one."""
    found: list[list[str]] = []
    for each in of({LORA: names}):
        paths = [each.folder / SETTINGS, *sorted(each.folder.glob(WEIGHTS))]
        if len(paths) == 1:
            raise LoadFailed(
                f"{LORA}: {each.folder} has no {WEIGHTS}; give the folder that peft wrote."
            )
        found += [[path.name, _content(path)] for path in paths]
    return digest_of(found)


def _content(path: Path) -> str:
    try:
        with os.fdopen(files.open_regular(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LoadFailed(f"{LORA}: {path}: {error.strerror}.") from error


def facts(adapters: list[Adapter]) -> dict[str, object]:
    """Return what a record says about a cell's adapters; empty without any."""
    if not adapters:
        return {}
    return {
        "lora_adapters": len(adapters),
        "lora_rank": max(each.rank for each in adapters),
        "lora_modules": "; ".join(dict.fromkeys(each.modules for each in adapters)),
    }
