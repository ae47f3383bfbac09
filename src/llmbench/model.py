"""Facts about one set of weights: where it comes from, its configuration, what it can hold.

A model is named by a catalogue entry (`configs/models/NAME.yaml`), by `NAME@tiny` (the same structure,
scaled down by rule), by a local folder, or by a hub id. Nothing here imports an engine.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from llmbench import configs, yamlfile
from llmbench.digest import digest_of
from llmbench.errors import SpecError, did_you_mean

TINY = "@tiny"

TINY_RULES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 176,
    },
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4},
    "gpt_neox": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
    },
    "opt": {
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 256,
    },
}
"""What `@tiny` changes, by `model_type`; everything else, structure above all, stays the model's own."""
TINY_VOCABULARY = 2048

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""The names under which configurations keep their longest sequence."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One set of weights, resolved.

    Attributes:
        name: as written in the sweep.
        source: `catalogue`, `folder` or `hub`.
        location: the folder or hub id that holds real weights, if any is known.
        model_type: transformers' name of the family; None for a hub id, whose worker reads it.
        config: keyword arguments of the configuration class, or a folder's `config.json`.
        max_positions: most tokens in a sequence, prompt and output together; None = not known.
        digest: changes when any of the above or the weight files change.

    """

    name: str
    source: Literal["catalogue", "folder", "hub"]
    location: str | None
    model_type: str | None
    config: dict[str, Any]
    vocab_size: int | None
    max_positions: int | None
    digest: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the catalogue."""

    name: str
    hub_id: str
    model_type: str
    config: dict[str, Any]
    license: str
    release_date: str
    published_parameters: int | str
    sources: list[str]
    notes: list[str] = []


def resolve(name: str) -> Model:
    """Return the model that a sweep means by `name`; raise SpecError with the nearest name if there is none."""
    if (Path(name) / "config.json").is_file():
        return _from_folder(name)
    base, tiny, _ = name.partition(TINY)
    entry = configs.folder("models") / f"{base}.yaml"
    if re.fullmatch(r"[\w.-]+", base) and entry.is_file():
        return _from_catalogue(name, yamlfile.read(entry, Entry), tiny=bool(tiny))
    if Path(name).is_dir():
        raise SpecError(
            f"model: {name!r} is a folder without config.json, so it holds no checkpoint."
        )
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return _model(name, "hub", name, None, {})
    raise SpecError(
        f"model: {name!r} is no catalogue entry, folder or hub id.{did_you_mean(base, catalogue())}"
    )


def catalogue() -> list[str]:
    """Return the names of the catalogue's entries."""
    return sorted(path.stem for path in configs.folder("models").glob("*.yaml"))


def _from_catalogue(name: str, entry: Entry, *, tiny: bool) -> Model:
    if not tiny:
        return _model(name, "catalogue", entry.hub_id, entry.model_type, entry.config)
    if entry.model_type not in TINY_RULES:
        raise SpecError(
            f"model: {name!r}: there is no rule yet that scales {entry.model_type} down."
        )
    config = {**entry.config, **TINY_RULES[entry.model_type], "vocab_size": TINY_VOCABULARY}
    return _model(name, "catalogue", None, entry.model_type, config)


def _from_folder(name: str) -> Model:
    folder = Path(name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model_type = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(
            f"model: {name}/config.json is not a model's configuration ({error!r})."
        ) from error
    weights = sorted([path.name, path.stat().st_size] for path in folder.glob("*.safetensors"))
    return _model(name, "folder", str(folder.resolve()), model_type, config, weights)


def _model(
    name: str,
    source: Literal["catalogue", "folder", "hub"],
    location: str | None,
    model_type: str | None,
    config: dict[str, Any],
    weights: list[Any] | None = None,
) -> Model:
    positions = next((config[key] for key in POSITIONS if isinstance(config.get(key), int)), None)
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
    )
