"""LoRA adapters as options of a cell: the folders that peft wrote, one or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmbench import files
from llmbench.errors import LoadFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

LORA, MERGED = "lora", "lora_merged"
"""The options: folders separated by commas, and whether an adapter is added to the weights before anything is timed."""
SETTINGS = "adapter_config.json"


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


def facts(adapters: list[Adapter]) -> dict[str, object]:
    """Return what a record says about a cell's adapters; empty without any."""
    if not adapters:
        return {}
    return {
        "lora_adapters": len(adapters),
        "lora_rank": max(each.rank for each in adapters),
        "lora_modules": "; ".join(dict.fromkeys(each.modules for each in adapters)),
    }
