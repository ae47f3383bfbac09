"""A model in memory: built from its configuration with random weights, or read from a checkpoint.

Neither way keeps a second copy of the weights, in host memory or on the device.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.initialization import no_init_weights

from llmbench.backends import load_errors, memory, vocabulary
from llmbench.backends.config import builder, configuration, revision_of
from llmbench.backends.random_weights import fill
from llmbench.backends.transformers import offload as transformers_offload
from llmbench.backends.transformers import quantization
from llmbench.errors import LoadFailed
from llmbench.models import checkpoint
from llmbench.spec import grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llmbench.results.record import Job


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode on its devices, with facts about it.

    If there is no tokenizer, `tokenizer` is a sentence with the reason.
    """

    model: Any
    tokenizer: Any
    vocab_size: int
    special_ids: frozenset[int]
    facts: dict[str, Any]


def load(job: Job, options: Mapping[str, Any], device: torch.device) -> Loaded:
    """Return the job's model on its device in its dtype; every failure is a one-line message."""
    parts: dict[str, float] = {}
    with load_errors.as_one_line(job):
        load_errors.refuse_unreadable(job)
        with _timed(parts, "load_config_s"):
            config = configuration(job, options["revision"])
            load_errors.refuse_unsupported(config, builder(config), options)
        with _timed(parts, "load_weights_s"):
            model = _MAKERS[job.cells[0].load_format](job, config, options, device)
        stated, asked = checkpoint.quantisation(job.model.config), options[grid.QUANTIZATION]
        if scheme := stated or (asked if asked != grid.NONE else None):
            quantization.refuse_unquantised(model, scheme, job.model.location or job.model.name)
            quantization.refuse_odd_rows(model, scheme, device)
    # Gradients stay enabled, as users leave them: without them, torch multiplies the last hidden states of a batch
    # with one copy of the output head per sequence, eleven times slower (pythia-70m, 16 x 128, bfloat16).
    model.eval()
    tokenizer = vocabulary.tokenizer(job, options["revision"])
    facts = {**_as_loaded(model), **parts}
    return Loaded(
        model,
        tokenizer,
        vocabulary.size(model.config, tokenizer),
        vocabulary.special_ids((model.generation_config, model.config), tokenizer),
        facts,
    )


@contextlib.contextmanager
def _timed(parts: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    parts[name] = round(time.monotonic() - began, 6)


def _random(job: Job, config: Any, options: Mapping[str, Any], device: torch.device) -> Any:
    """Build on the device and in the dtype, without the library's own initialisation, and fill in place."""
    quantised = quantization.settings(job, options)
    if quantised is not None and hasattr(config, "quantization_config"):
        del config.quantization_config
    placed = options["device_map"] != "none"
    with torch.device("cpu" if placed else device), no_init_weights():
        model = builder(config).from_config(config, **_common(job, options))
    model.tie_weights()
    _keep_wide(model)
    if not placed:
        fill(model.named_parameters(), job.protocol.seed)
        return quantization.random(model, quantised, device) if quantised else model
    return transformers_offload.place(model, options["device_map"], device, job.protocol.seed)


def _keep_wide(model: Any) -> None:
    """Convert parameters that the family keeps in float32, as reading a checkpoint does; weights are still empty."""
    for name, parameter in model.named_parameters():
        if _stays_wide(model, name):
            parameter.data = parameter.data.float()


def _stays_wide(model: Any, name: str) -> bool:
    """Return whether transformers keeps a parameter in float32 under float16; some of T5's would overflow."""
    modules = model._keep_in_fp32_modules or ()  # noqa: SLF001 - has no public name
    return model.dtype == torch.float16 and not set(modules).isdisjoint(name.split("."))


def _pretrained(job: Job, config: Any, options: Mapping[str, Any], device: torch.device) -> Any:
    """Read a checkpoint onto its devices; refuse one that lacks parameters."""
    quantised = quantization.settings(job, options)
    offload = transformers_offload.OFFLOADS.get(options["device_map"])
    whole = {"": "cpu"} if offload else {"": device}
    device_map = whole if offload or options["device_map"] == "none" else options["device_map"]
    model, report = builder(config).from_pretrained(
        job.model.location,
        config=config,
        device_map=device_map,
        use_safetensors=None if job.protocol.allow_pickle else True,
        output_loading_info=True,
        **({"quantization_config": quantised} if quantised else {}),
        **_common(job, options),
        **revision_of(options["revision"]),
    )
    if missing := sorted(report["missing_keys"]):
        raise LoadFailed(
            f"{job.model.location} lacks {len(missing)} of the tensors that its configuration needs: {missing[0]}"
        )
    if homeless := sorted(report["unexpected_keys"]):
        raise LoadFailed(
            f"{job.model.location} has {len(homeless)} tensors for which {type(model).__name__} has no place: "
            f"{', '.join(homeless[:3])}; it would run as another model."
        )
    return offload(model, device) if offload else transformers_offload.hooked(model)


_MAKERS: Mapping[str, Callable[[Job, Any, Mapping[str, Any], torch.device], Any]] = {
    "dummy": _random,
    "safetensors": _pretrained,
}


def _common(job: Job, options: Mapping[str, Any]) -> dict[str, Any]:
    chosen = options["attn_implementation"]
    return {
        "dtype": getattr(torch, job.cells[0].dtype),
        "trust_remote_code": job.protocol.allow_remote_code,
        **({} if chosen == "default" else {"attn_implementation": chosen}),
    }


def _as_loaded(model: Any) -> dict[str, Any]:
    """Return facts about the loaded model, by which the parent checks device and dtype."""
    named = dict(model.named_parameters())  # lists a tied parameter once
    parameters = list(named.values())
    kept = {
        name for name, p in named.items() if p.dtype == torch.float32 and _stays_wide(model, name)
    }
    offloaded = [parameter for parameter in parameters if parameter.device.type == "meta"]
    held = [part for each in quantization.stored(model) for part in quantization.inner(each)]
    places = {"cpu" if p.device.type == "meta" else str(p.device) for p in parameters}
    return {
        "parameters": sum(map(quantization.weights_of, parameters)),
        "weights_bytes": memory.stored_bytes(held) + sum(p.nbytes for p in offloaded),
        "param_devices": ", ".join(sorted(places)),
        "param_dtypes": ", ".join(
            sorted(
                {
                    str(part.dtype).removeprefix("torch.")
                    for name, p in named.items()
                    if name not in kept
                    for part in quantization.inner(p)[:1]
                }
            )
        ),
        "kept_float32_parameters": sum(named[name].numel() for name in kept),
        "device_map": transformers_offload.described(model),
        "offloaded_parameters": sum(parameter.numel() for parameter in offloaded),
        **_level(model),
        "model_class": type(model).__name__,
        **({"quantization": scheme} if (scheme := _scheme(model)) else {}),
        "attn_implementation": model.config._attn_implementation,  # noqa: SLF001 - has no public name
        **_experts(model),
        "generation_config_ignored": _generation_settings(model),
    }


def _scheme(model: Any) -> str | None:
    """Return how a loaded model's weights are quantised; None if they are not."""
    stated = getattr(model.config, "quantization_config", None)
    if stated is None:
        return None
    stated = stated if isinstance(stated, dict) else stated.to_dict()
    return checkpoint.quantisation({"quantization_config": stated})


def _experts(model: Any) -> dict[str, str]:
    """Return how the experts of a mixture are computed, which decides its speed; empty for other models."""
    if not getattr(model.config, "num_local_experts", 0):
        return {}
    return {"experts_implementation": str(model.config._experts_implementation)}  # noqa: SLF001 - has no public name


def _level(model: Any) -> dict[str, float]:
    """Return the read rate of the level that weights were offloaded to, if known."""
    below = getattr(model, "offloaded_to", None)
    return {} if below is None else {"offload_read_bytes_s": round(below.read_bytes_s)}


def _generation_settings(model: Any) -> str:
    """Return the checkpoint's own generation settings, none of which affects a measurement."""
    settings = model.generation_config.to_diff_dict() if model.generation_config else {}
    idle = (
        "_from_model_config",
        "output_attentions",
        "output_hidden_states",
        "transformers_version",
        "use_cache",
    )
    in_effect = {name: value for name, value in sorted(settings.items()) if name not in idle}
    return ", ".join(f"{name}={value}" for name, value in in_effect.items())
