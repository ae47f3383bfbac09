"""Resolution of a model's name to its configuration, its weights and its limits.

A model is named by a catalogue entry (`configs/models/NAME.yaml`), by `NAME@tiny` or `NAME@small` (the same
structure, scaled down by rule), by a local folder, or by a hub id. The environment variable LLMBENCH_MODELS names
folders with further entries. Nothing here imports an engine.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from llmbench import files
from llmbench.errors import SpecError, did_you_mean
from llmbench.models import by_row, checkpoint, gguf
from llmbench.models import scaled as models_scaled
from llmbench.models.counts import Counts  # noqa: TC001 - msgspec reads the annotations
from llmbench.numbers import binary, plural
from llmbench.spec import configs, yaml
from llmbench.spec.digest import digest_of

AT = "@"
"""The separator between a catalogue entry's name and the size of its scaled copy."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

LISTED_BY = "llmbench models"

OWN_MODELS = "LLMBENCH_MODELS"
"""The environment variable with folders of the user's own entries, separated as in PATH."""

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""The names of the longest sequence in configurations."""

EXTENDING = frozenset({"yarn", "linear", "dynamic"})
"""Scalings of rotary positions whose `max_position_embeddings` may be the length before scaling."""
MOST_NAMED = 10
"""The most files of a folder that an error lists."""
ADAPTER = "adapter_config.json"
"""The file that peft writes beside the weights of an adapter."""
QUANTISED = "hf_quant_config.json"
"""The file in which NVIDIA's ModelOpt states a quantisation."""

RELATIVE = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers"})
"""Families with relative positions, whose configured number of positions is not a limit."""

RENAMED = {
    "falcon": {
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_head_kv": "num_kv_heads",
    }
}
"""Old names of settings, by `model_type`, which transformers silently ignores, building another size."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One set of weights, resolved.

    Attributes:
        name: as written in the sweep.
        source: `catalogue`, `folder` or `hub`.
        location: the folder or hub id that holds real weights, if any is known.
        model_type: transformers' name of the family; None for a hub id, which the worker reads.
        config: keyword arguments of the configuration class, or a folder's `config.json`.
        max_positions: the most tokens in a sequence, prompt plus output unless an encoder reads the prompt; None =
            no limit, or unknown.
        digest: changes when any of the above or the weight files change.
        dtype: of the checkpoint: `float32`, `bfloat16` or `float16`; None = unknown, or another one.
        counts: of a model whose family has no row, as it said itself; None = its family has one, or it was not asked.
        stored_bytes: of all tensors of a folder whose weights are quantised, by its safetensors headers.

    """

    name: str
    source: Literal["catalogue", "folder", "hub"]
    location: str | None
    model_type: str | None
    config: dict[str, Any]
    vocab_size: int | None
    max_positions: int | None
    digest: str
    dtype: str | None = None
    counts: Counts | None = None
    stored_bytes: int | None = None


class Transformers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model's class in transformers, and its attention implementations, the default first."""

    model_class: str
    attention: list[str]


class Engines(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which engines run a model; `vllm` maps each checked version to how it runs the model, or that it does not."""

    transformers: Transformers | None = None
    vllm: dict[str, str] = {}


class ZeroShot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Published zero-shot accuracies by task, from 0 to 1, and their source."""

    source: str
    accuracy: dict[str, float]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the catalogue. A user's entry needs only the first three fields; None = unknown.

    Attributes:
        dtype: of the original checkpoint.
        context: the sequence length in training; its maximum, if any, is in the configuration.
        published_difference: why the number of parameters differs from the published one.
        doubts: which of the above was not checked, or not at first hand.

    """

    name: str
    model_type: str
    config: dict[str, Any]
    dtype: str | None = None
    family: str | None = None
    aliases: list[str] = []
    hub_id: str | None = None
    release_date: str | None = None
    license: str | None = None
    context: int | None = None
    published_parameters: int | str | None = None
    published_difference: str | None = None
    engines: Engines = Engines()
    zero_shot: ZeroShot | None = None
    sources: list[str] = []
    notes: list[str] = []
    doubts: list[str] = []


def resolve(name: str) -> Model:
    """Return the model that a sweep means by `name`; raise SpecError with the nearest name if there is none."""
    folder = os.path.expanduser(name)  # noqa: PTH111 - pathlib raises where there is no home
    if os.path.lexists(f"{folder}/config.json"):  # Path would fail on a name too long for a file
        return _from_folder(name, Path(folder))
    base, scaled, size = name.partition(AT)
    known = _files()
    if base in known:
        if scaled and size not in models_scaled.SIZES:
            raise SpecError(
                f"model: {name!r}: no such size.{did_you_mean(size, models_scaled.SIZES)}"
            )
        return _from_catalogue(name, yaml.read(known[base], Entry), size)
    if os.path.isdir(folder):  # noqa: PTH112 - likewise
        raise SpecError(f"model: {name!r} {_no_checkpoint(Path(folder))}")
    if name.lower().endswith(gguf.SUFFIX):
        return _from_gguf(name, Path(folder))
    if name.startswith((".", "/", "~")):
        there = os.path.lexists(folder)
        what = (
            "is a file; give the folder of a checkpoint" if there else "the folder does not exist"
        )
        raise SpecError(f"model: {name!r}: {what}.")
    if HUB_ID.fullmatch(name):
        return _model(name, "hub", name, None, {}, dtype=checkpoint.of_hub(name))
    meant = did_you_mean(name, [f"{one}{scaled}{size}" for one in known], LISTED_BY)
    raise SpecError(f"model: {name!r} is not a catalogue entry, folder or hub id.{meant}")


def is_model(name: str) -> bool:
    """Return whether a word that may also be a sweep's file is a model: a catalogue entry, a folder, or a hub id."""
    folder = os.path.expanduser(name)  # noqa: PTH111 - as in `resolve`
    if os.path.lexists(folder):
        return os.path.isdir(folder) or folder.lower().endswith(gguf.SUFFIX)  # noqa: PTH112 - likewise
    if name.partition(AT)[0] in _files():
        return True
    return bool(HUB_ID.fullmatch(name)) and Path(name).suffix not in {".yaml", ".yml"}


def counts_of(model: Model) -> Counts | None:
    """Return what is counted on a model: from the row of its family, or as it said itself; None if neither is known."""
    return by_row.counts_of(model.model_type, model.config) or model.counts


def dense_counts_of(model: Model) -> Counts | None:
    """Return the counts of a model as if its weights were not quantised; None if they are not known."""
    plain = msgspec.structs.replace(model, config=checkpoint.dense(model.config))
    return counts_of(plain)


def positions_of(model: Model) -> int | None:
    """Return the longest sequence of a model, by its configuration; None = no limit, or unknown."""
    return None if model.model_type in RELATIVE else _positions(model.config)


def catalogue() -> list[str]:
    """Return the names of the catalogue's entries."""
    return sorted(_files())


def entry(name: str) -> Entry:
    """Return one entry of the catalogue; raise SpecError with the nearest name if there is none."""
    known = _files()
    if name not in known:
        raise SpecError(
            f"model: {name!r} is not a catalogue entry.{did_you_mean(name, known, LISTED_BY)}"
        )
    return yaml.read(known[name], Entry)


def catalogued(name: str) -> Model | None:
    """Return a model of the catalogue by its name alone, whatever folders there are; None if there is none."""
    known = _files()
    return _from_catalogue(name, yaml.read(known[name], Entry), "") if name in known else None


def _files() -> dict[str, Path]:
    """Return the file of every entry by name; a user's entry may not replace an existing one."""
    entries = {path.stem: path for path in configs.folder("models").glob("*.yaml")}
    for folder in filter(None, os.environ.get(OWN_MODELS, "").split(os.pathsep)):
        if not Path(folder).is_dir():
            raise SpecError(f"{OWN_MODELS}: {folder!r} is not a folder.")
        for path in sorted(Path(folder).glob("*.yaml")):
            if path.stem in entries:
                raise SpecError(
                    f"{path}: the model {path.stem!r} already exists in {entries[path.stem]}; rename this file."
                )
            entries[path.stem] = path
    return entries


def _from_catalogue(name: str, entry: Entry, size: str) -> Model:
    if not size:
        return _model(
            name, "catalogue", entry.hub_id, entry.model_type, entry.config, dtype=entry.dtype
        )
    config = models_scaled.scaled_down(entry.model_type, entry.config, size)
    if config is None:
        raise SpecError(
            f"model: {name!r}: no rule scales {entry.model_type} down to this size; of families without formulas "
            "there is @tiny, if the configuration names the sizes."
        )
    return _model(name, "catalogue", None, entry.model_type, config, dtype=entry.dtype)


def _from_folder(name: str, folder: Path) -> Model:
    try:
        config = json.loads(files.read_text(folder / "config.json"))
        model_type = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else repr(error)
        raise SpecError(
            f"model: {name}/config.json is not a model's configuration: {reason}."
        ) from error
    if os.path.lexists(folder / ADAPTER):
        raise SpecError(
            f"model: {name!r} has an adapter ({ADAPTER}) beside config.json, which would not be loaded; merge it into "
            "the weights, or move it away to measure the model without it."
        )
    config |= _quantised_elsewhere(folder, config)
    for old, new in RENAMED.get(model_type, {}).items():
        if old in config and new not in config:
            raise SpecError(
                f"model: {name}/config.json: transformers ignores {old!r} and would build another size; "
                f"rename it to {new!r}."
            )
    shards = sorted(folder.glob("*.safetensors"))
    for path in shards:
        if why := files.why_not(path):
            raise SpecError(f"model: {name}/{path.name}: {why}; weights must be regular files.")
    weights = [[path.name, path.stat().st_size] for path in shards]
    dtype = checkpoint.of_folder(config, shards)
    model = _model(name, "folder", str(folder.resolve()), model_type, config, weights, dtype)
    if checkpoint.quantisation(config) is None:
        return model
    return msgspec.structs.replace(model, stored_bytes=checkpoint.stored_bytes(shards))


def _from_gguf(name: str, path: Path) -> Model:
    """Return the model of a GGUF file, which its header describes."""
    try:
        header = gguf.read(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"model: {name}: {reason}.") from error
    config = gguf.config_of(header)
    return _model(
        name,
        "folder",
        str(path.resolve()),
        config["model_type"],
        config,
        [[path.name, path.stat().st_size]],
        config["dtype"],
    )


def is_gguf(model: Model) -> bool:
    """Return whether a model is one GGUF file, which only llama.cpp runs here."""
    return str(model.location).lower().endswith(gguf.SUFFIX)


def _no_checkpoint(folder: Path) -> str:
    """Return what a folder without config.json is, and what to name instead."""
    if os.path.lexists(folder / ADAPTER):
        base = _read_json(folder / ADAPTER).get("base_model_name_or_path") or "another model"
        return f"holds an adapter (LoRA) of {base}, not a model; merge it into that model, and name the result."
    if os.path.lexists(folder / "params.json"):
        return (
            "holds a checkpoint in its maker's own format (params.json); name one that was converted for transformers, "
            "which has config.json."
        )
    if found := sorted(path for path in folder.glob(f"*{gguf.SUFFIX}") if path.is_file()):
        named = ", ".join(f"{path} ({binary(path.stat().st_size)})" for path in found[:MOST_NAMED])
        rest = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        return f"holds {plural(len(found), 'GGUF file')}; name the one to run as the model: {named}{rest}."
    return "is a folder without config.json, which every checkpoint has."


def _quantised_elsewhere(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the quantisation that a folder states in a file of its own, which transformers does not read."""
    if "quantization_config" in config or not os.path.lexists(folder / QUANTISED):
        return {}
    stated = _read_json(folder / QUANTISED)
    part = stated.get("quantization")
    algorithm = part.get("quant_algo") if isinstance(part, dict) else None
    return {"quantization_config": {"quant_method": "modelopt", "quant_algo": algorithm}}


def _read_json(path: Path) -> dict[str, Any]:
    """Return a file's object; empty if it cannot be read."""
    try:
        found = json.loads(files.read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _positions(config: dict[str, Any]) -> int | None:
    """Return the longest sequence that a configuration allows, scaling of its positions included."""
    parts = [
        config,
        *(config[part] for part in checkpoint.PARTS if isinstance(config.get(part), dict)),
    ]
    found = [
        (part, part[key]) for part in parts for key in POSITIONS if isinstance(part.get(key), int)
    ]
    if not found:
        return None
    part, longest = found[0]
    scaling = part.get("rope_scaling") or part.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else None
    factor = scaling.get("factor") if kind in EXTENDING else None
    if not isinstance(factor, int | float):
        return int(longest)
    original = scaling.get("original_max_position_embeddings", longest)
    return max(longest, int(factor * original)) if isinstance(original, int) else int(longest)


def _model(
    name: str,
    source: Literal["catalogue", "folder", "hub"],
    location: str | None,
    model_type: str | None,
    config: dict[str, Any],
    weights: list[Any] | None = None,
    dtype: str | None = None,
) -> Model:
    positions = None if model_type in RELATIVE else _positions(config)
    vocabulary = config.get("vocab_size")
    return Model(
        name=name,
        source=source,
        location=location,
        model_type=model_type,
        config=config,
        vocab_size=vocabulary if isinstance(vocabulary, int) else None,
        max_positions=positions,
        digest=digest_of([name if source == "hub" else "", model_type, config, weights]),
        dtype=dtype,
    )
