"""What is known of a model by its name: a checkpoint's folder, a hub id in the local cache, a scaled copy, an entry.

A model whose family has no row is asked once (`ask`); a list of models asks nobody and shows what was said before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench.measure import ask
from llmbench.models import catalogue, checkpoint, formulas, resolve

if TYPE_CHECKING:
    from llmbench.models.counts import Counts, ModelAnswer
    from llmbench.models.resolve import Model

ROW = "the configuration, with the formulas of its family"
ASKED = "the model itself, built without weights by transformers"


def every() -> list[dict[str, Any]]:
    """Return the facts of all entries of the catalogue."""
    models = {name: resolve.resolve(name) for name in resolve.catalogue()}
    unknown = [model for model in models.values() if resolve.counts_of(model) is None]
    answers = ask.kept(unknown)
    return [
        catalogue.facts(
            name,
            resolve.counts_of(model) or (answers[name].counts if name in answers else None),
        )
        for name, model in models.items()
    ]


def one(name: str) -> dict[str, Any]:
    """Return everything that is known of one model; raise SpecError if there is none of this name."""
    if name in resolve.catalogue():
        return catalogue.whole(name, _known(resolve.resolve(name))[0])
    model = ask.configured(resolve.resolve(name))
    counts, source, answer = _known(model)
    scheme = checkpoint.quantisation(model.config)
    derived = catalogue.of_counts(counts) if counts else {}
    if scheme:  # its weights are not those that the configuration describes
        derived.pop("weight_bytes", None)
    folder = Path(model.location) if model.source == "folder" and model.location else None
    return {
        "name": name,
        "family": model.model_type,
        "model_class": answer and answer.model_class,
        "parameters": counts.parameters if counts else answer and answer.parameters,
        "active_parameters": counts and counts.active_parameters,
        "dtype": model.dtype,
        "quantisation": scheme,
        "bytes_of_weights": folder
        and checkpoint.stored_bytes(sorted(folder.glob("*.safetensors"))),
        f"kv_bytes_per_token_{catalogue.KV_DTYPE}": counts
        and formulas.kv_bytes_per_token(counts, catalogue.KV_DTYPE),
        **derived,
        "context": resolve.positions_of(model),
        "attention": answer and answer.attention,
        "known_from": source,
    }


def _known(model: Model) -> tuple[Counts | None, str, ModelAnswer | None]:
    """Return the counts of a model as if it were not quantised, where they come from, and its answer if asked."""
    config = checkpoint.dense(model.config)
    plain = msgspec.structs.replace(model, config=config)
    if counts := resolve.counts_of(plain):
        return counts, ROW, None
    if not config:
        return None, "not known: its configuration is not in the local cache", None
    answer = ask.ask([plain])[model.name]
    if isinstance(answer, str):
        return None, f"not known: {answer}", None
    return (
        answer.counts,
        ASKED if answer.counts else f"{ASKED}; it does not run there: {answer.why}",
        answer,
    )
