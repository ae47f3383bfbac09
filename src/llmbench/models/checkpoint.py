"""The dtype of a checkpoint, read from its configuration or else from its weights, as transformers does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench import files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DTYPES = ("float32", "bfloat16", "float16")
IN_FILES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""The dtypes' names in the header of a safetensors file."""
DEFAULT = "float32"
"""The dtype that transformers builds a model in whose configuration names none."""
LONGEST_HEADER = 2**27
PARTS = ("text_config", "llm_config", "decoder")
"""The parts of a configuration that describe its language model, and may name its dtype."""


def quantisation(config: Mapping[str, Any]) -> str | None:
    """Return the scheme in which a configuration says that its weights are stored; None if they are not quantised."""
    stated = config.get("quantization_config")
    if not isinstance(stated, dict):
        return None
    bits = stated.get("bits") or (
        4 if stated.get("load_in_4bit") else 8 if stated.get("load_in_8bit") else None
    )
    named = (stated.get("quant_method"), stated.get("quant_algo"), bits and f"{bits}bit")
    return "-".join(str(each).lower() for each in named if each) or "unknown scheme"


def of_folder(config: Mapping[str, Any], shards: Sequence[Path]) -> str | None:
    """Return the dtype of a folder's checkpoint; None if it is another one than `DTYPES`."""
    if (named := _named(config)) is not None:
        return named if named in DTYPES else None
    return _of_weights(shards[0]) if shards else DEFAULT


def of_hub(name: str) -> str | None:
    """Return the dtype of a hub id whose configuration is in the local cache; None if it is not there."""
    config = hub_config(name)
    return of_folder(config, []) if config else None


def hub_config(name: str) -> dict[str, Any]:
    """Return the configuration of a hub id from the local cache; empty if it is not there."""
    home = os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface"))  # noqa: PTH111 - as in resolve
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub"))
    for path in sorted(cache.glob(f"models--{name.replace('/', '--')}/snapshots/*/config.json")):
        try:
            config = json.loads(files.read_text(path.resolve()))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(config, dict):
            return config
    return {}


def weight_bytes(folder: Path) -> int | None:
    """Return the bytes of all tensors in a folder's safetensors files, by their headers; None if it has none."""
    sizes = [_tensor_bytes(shard) for shard in sorted(folder.glob("*.safetensors"))]
    return sum(size for size in sizes if size) or None


def _tensor_bytes(shard: Path) -> int | None:
    try:
        ends = [
            int(tensor["data_offsets"][1])
            for name, tensor in _header(shard).items()
            if name != "__metadata__"
        ]
    except (TypeError, KeyError, ValueError, IndexError):
        return None
    return max(ends, default=None)


def _header(shard: Path) -> dict[str, Any]:
    """Return the header of a safetensors file; empty if it has none."""
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= LONGEST_HEADER else b""
    try:
        tensors = json.loads(header)
    except (ValueError, RecursionError):
        return {}
    return tensors if isinstance(tensors, dict) else {}


def _named(config: Mapping[str, Any]) -> str | None:
    """Return what a configuration names, in whichever part and under either name."""
    parts = [config, *(config[part] for part in PARTS if isinstance(config.get(part), dict))]
    for part in parts:
        for key in ("dtype", "torch_dtype"):
            if isinstance(part.get(key), str) and part[key] != "auto":
                return str(part[key]).removeprefix("torch.")
    return None


def _of_weights(shard: Path) -> str | None:
    """Return the dtype of the first floating-point tensor of a file; None if it has none of `DTYPES`."""
    try:
        kinds = [
            tensor["dtype"] for name, tensor in _header(shard).items() if name != "__metadata__"
        ]
    except (TypeError, KeyError):
        return None
    return next((IN_FILES[kind] for kind in kinds if kind in IN_FILES), None)
