"""The configuration of a model as transformers builds it, from which every engine starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers

if TYPE_CHECKING:
    from llmbench.models.resolve import Model
    from llmbench.results.record import Job


def configuration(job: Job, revision: str) -> Any:
    """Return a new configuration, because `from_config` modifies the one it is given."""
    own = job.model.source == "folder" or job.cells[0].load_format == "dummy"
    return of_model(
        job.model, own=own, remote_code=job.protocol.allow_remote_code, revision=revision
    )


def of_model(model: Model, *, own: bool, remote_code: bool = False, revision: str = "") -> Any:
    """Return a new configuration from a model's `config`, or with `own` false from its folder or hub id."""
    if own and model.model_type in transformers.CONFIG_MAPPING:
        config = transformers.CONFIG_MAPPING[model.model_type].from_dict(_mended(model.config))
    else:
        config = transformers.AutoConfig.from_pretrained(
            model.location,
            trust_remote_code=remote_code,
            **revision_of(revision),
        )
    if own and model.model_type in transformers.CONFIG_MAPPING and hasattr(config, "auto_map"):
        del config.auto_map  # the library has the family itself, and the folder may have no code
    config.use_cache = (
        True  # MPT's hub configuration says false: every token would recompute its past
    )
    return config


def builder(config: Any) -> Any:
    """Return the class of transformers that builds a model of this family which generates text."""
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    text, pictured = transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText
    if type(config) not in text._model_mapping and type(config) in pictured._model_mapping:  # noqa: SLF001
        return pictured  # it generates from text alone as well
    return text


def revision_of(revision: str) -> dict[str, str]:
    """Return the keyword argument that names a revision, if one is named."""
    return {"revision": revision} if revision else {}


def _mended(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with `attn_pdrop` as an integer where possible, because MPT's class refuses 0.0."""
    attention = config.get("attn_config")
    if not isinstance(attention, dict) or attention.get("attn_pdrop") != 0:
        return config
    return {**config, "attn_config": {**attention, "attn_pdrop": 0}}
