"""A LoRA adapter on a loaded model, by peft: computed next to the weights, or merged into them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from llmbench.backends.memory import stored_bytes
from llmbench.errors import LoadFailed
from llmbench.spec import adapters

if TYPE_CHECKING:
    from collections.abc import Mapping


def put_on(model: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any], int | None]:
    """Return a model with the adapter of a cell's options, facts about it, and the bytes that it holds of its own.

    Raises:
        LoadFailed: the folder holds no adapter, it cannot be put on the model, or peft is not installed.
    """
    found = adapters.of(options)
    if not found:
        return model, {}, None
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
            f"{adapters.LORA}: {found[0].folder} cannot be put on the model: {why}"
        ) from error
    own = [each for each in changed.parameters() if id(each) not in known]
    facts = {**adapters.facts(found), "lora_parameters": sum(each.numel() for each in own)}
    return changed, facts, stored_bytes(own) or None


def _next_to(model: Any, adapter: adapters.Adapter) -> Any:
    """Put layers into the model that compute the adapter at each call, in the model's dtype.

    peft does it and not `load_adapter`, which wants a newer peft in transformers 5.24 than there is.
    """
    dtype = model.dtype
    changed = _peft().from_pretrained(model, str(adapter.folder)).get_base_model()
    for name, each in changed.named_parameters():
        if ".lora_" in name:
            each.data = each.data.to(dtype)
    return changed.eval()


def _merged(model: Any, adapter: adapters.Adapter) -> Any:
    """Add the adapter to the weights; the layers are as before."""
    return _peft().from_pretrained(model, str(adapter.folder)).merge_and_unload().eval()


def _peft() -> Any:
    return importlib.import_module("peft").PeftModel
