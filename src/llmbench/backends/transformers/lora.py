"""A LoRA adapter on a loaded model, by peft: computed next to the weights, or merged into them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from llmbench.backends.memory import stored_bytes
from llmbench.errors import LoadFailed, Unsupported
from llmbench.spec import adapters

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "lora"


def put_on(model: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any], int | None]:
    """Return a model with the adapter of a cell's options, facts about it, and the bytes that it holds of its own.

    Raises:
        LoadFailed: the folder holds no adapter, it does not fit the model, or peft is not installed.
        Unsupported: several adapters are asked for.

    """
    found = adapters.of(options)
    if not found:
        return model, {}, None
    if len(found) > 1:
        raise Unsupported(
            "transformers runs one adapter for a batch; use the vllm backend for several."
        )
    if importlib.util.find_spec("peft") is None:
        raise LoadFailed("the option lora needs the package peft: pip install 'llmbench[lora]'.")
    known = set(map(id, model.parameters()))
    try:
        changed = (
            _merged(model, found[0]) if options[adapters.MERGED] else _next_to(model, found[0])
        )
    except (ValueError, RuntimeError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise LoadFailed(
            f"{adapters.LORA}: {found[0].folder} does not fit the model: {why}"
        ) from error
    own = [each for each in changed.parameters() if id(each) not in known]
    facts = {**adapters.facts(found), "lora_parameters": sum(each.numel() for each in own)}
    return changed, facts, stored_bytes(own) or None


def _next_to(model: Any, adapter: adapters.Adapter) -> Any:
    """Add layers that compute the adapter at each call, in the model's dtype."""
    dtype, names = model.dtype, {name for name, _ in model.named_parameters()}
    model.load_adapter(str(adapter.folder), adapter_name=NAME)
    model.set_adapter(NAME)
    for name, each in model.named_parameters():
        if name not in names and ".lora_" in name:
            each.data = each.data.to(dtype)
    return model.eval()


def _merged(model: Any, adapter: adapters.Adapter) -> Any:
    """Add the adapter to the weights; the layers are as before."""
    peft = importlib.import_module("peft")
    return peft.PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload().eval()
