"""Memory in bytes: of weights, a cache and the device.

Each function counts one thing and returns None if this machine cannot tell; METHOD section 1 defines them.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import torch
from transformers import EncoderDecoderCache

from llmbench.machine import gpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def stored_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the tensors' storages, counting each storage once."""
    storages = (tensor.untyped_storage() for tensor in tensors if tensor.device.type != "meta")
    return sum({(s.device, s.data_ptr()): s.nbytes() for s in storages}.values())


def cache_bytes(cache: Any) -> int | None:
    """Return the bytes of a cache's tensors; None if the cache has no layers to inspect.

    With an encoder, this includes the keys and values of the encoder's tokens.
    """
    layers = getattr(cache, "layers", None)
    if isinstance(cache, EncoderDecoderCache):
        layers = [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    if layers is None:
        return None
    return stored_bytes(tensor for layer in layers for tensor in tensors_of(vars(layer)))


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors inside; scalars, such as a static layer's length, are not part of the cache."""
    if isinstance(value, torch.Tensor):
        if value.ndim:
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)


def device_used_by_uuid() -> Mapping[str, int]:
    """Return the bytes in use on every GPU that torch shows, by its id.

    This asks the driver, which needs no CUDA context; the memory of a context therefore counts as used. Without a
    driver's answer CUDA answers, whose context exists before the first answer (`counts_context`).
    """
    known = [gpu for gpu in gpus.handles() if gpu is not None]
    with contextlib.suppress(Exception):  # whatever a driver does, torch is asked instead
        if known:
            return {_plain(gpus.ask(gpu, "uuid")): gpus.ask(gpu, "used_bytes") for gpu in known}
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    readings = {uuid_of(device): torch.cuda.mem_get_info(device) for device in devices}
    return {uuid: total - free for uuid, (free, total) in readings.items()}


def counts_context() -> bool:
    """Return whether `device_used_by_uuid` asks the driver, so that a CUDA context made later counts as used."""
    return any(gpu is not None for gpu in gpus.handles())


def process_used_bytes() -> int | None:
    """Return the bytes that the driver reports for this process; None where containers hide process ids."""
    with contextlib.suppress(Exception):
        known = [gpus.ask(gpu, "processes") for gpu in gpus.handles() if gpu is not None]
        return sum(each.get(os.getpid()) or 0 for each in known) or None
    return None


def uuid_of(device: torch.device) -> str:
    """Return the id by which the driver knows a device."""
    return _plain(str(torch.cuda.get_device_properties(device).uuid))


def _plain(uuid: str) -> str:
    return uuid.removeprefix("GPU-").removeprefix("MIG-")
