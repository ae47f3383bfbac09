"""The dtype of a checkpoint and its quantisation, read from its configuration and the headers of its weights."""

from __future__ import annotations

import json
import os
import re
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
SHORT = {"bitsandbytes": "bnb", "compressed-tensors": "ct", "gguf": ""}
"""Short names of methods of quantisation, as in the option `quantization`."""
LONGEST_HEADER = 2**27
PARTS = ("text_config", "llm_config", "decoder")
"""The parts of a configuration that describe its language model, and may name its dtype."""


def quantisation(config: Mapping[str, Any]) -> str | None:
    """Return the scheme in which a configuration says that its weights are stored; None if they are not quantised.

    It is a method and a type of number: `awq-int4`, `bnb-nf4`, `ct-int8`, `fp8`.
    """
    stated = config.get("quantization_config")
    if not isinstance(stated, dict):
        return None
    method, algorithm = (_word(stated.get(key)) for key in ("quant_method", "quant_algo"))
    number = algorithm or _number(method, stated)
    named = (SHORT.get(method, method), number)
    return "-".join(each for each in named if each) or "unknown scheme"


def dense(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the same model without quantisation."""
    return {key: value for key, value in config.items() if key != "quantization_config"}


def _word(value: object) -> str:
    """Return a name in lower case; in memory, transformers has members of an enumeration."""
    return str(getattr(value, "value", value) or "").lower()


def _number(method: str, stated: Mapping[str, Any]) -> str:
    """Return the type of number that a configuration states, where its method has several."""
    try:
        if stated.get("load_in_4bit"):
            return str(stated.get("bnb_4bit_quant_type") or "fp4")
        if stated.get("load_in_8bit"):
            return "int8"
        if groups := stated.get("config_groups"):
            weights = next(iter(groups.values()))["weights"]
            return f"{'fp' if weights['type'] == 'float' else 'int'}{weights['num_bits']}"
        if method == "torchao":
            kind = stated["quant_type"]["default"]["_type"]
            return (
                f"int{re.sub('[^0-9]', '', kind.rpartition('Int')[2])}"
                if "Int" in kind
                else kind.lower()
            )
    except (AttributeError, KeyError, StopIteration, TypeError):
        return ""
    bits = stated.get("bits") or stated.get("w_bit")
    return f"int{bits}" if bits else ""


def stored_bytes(shards: Sequence[Path]) -> int | None:
    """Return the bytes of all tensors of a checkpoint by the headers of its files; None if one cannot be read."""
    total = 0
    for shard in shards:
        tensors = _header(shard)
        try:
            total += sum(
                each["data_offsets"][1] - each["data_offsets"][0] for each in tensors.values()
            )
        except (KeyError, TypeError, IndexError):
            return None
    return total or None


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
    kinds = [tensor.get("dtype") for tensor in _header(shard).values()]
    return next((IN_FILES[kind] for kind in kinds if kind in IN_FILES), None)


def _header(shard: Path) -> dict[str, dict[str, Any]]:
    """Return the tensors that the header of a safetensors file lists; empty if it cannot be read."""
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= LONGEST_HEADER else b""
    try:
        tensors = json.loads(header)
        return {name: dict(tensor) for name, tensor in tensors.items() if name != "__metadata__"}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
