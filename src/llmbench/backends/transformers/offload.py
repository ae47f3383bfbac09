"""Placement of one model over several devices with accelerate, if a sweep asks for it.

Weights are created where they stay, on the host or on a device, never on both.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import accelerate
from accelerate.utils import get_balanced_memory, get_max_memory

from llmbench.backends.random_weights import fill
from llmbench.backends.transformers import disk
from llmbench.errors import LoadFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch


def place(model: Any, choice: str, device: torch.device, seed: int) -> Any:
    """Place an empty model, whose host memory is not yet touched, as `choice` says, and fill it."""
    if choice in OFFLOADS:
        fill(model.named_parameters(), seed)
        return OFFLOADS[choice](model, device)
    return spread(model, planned(model, choice), seed)


FIRST = 0
"""The device that prompts are sent to, as accelerate names it."""


class Host(NamedTuple):
    """Host memory as a level below a device, and the rate in bytes/s at which the device reads from it."""

    read_bytes_s: float


def _to_host(model: Any, device: torch.device) -> Any:
    largest = max(model.parameters(), key=lambda parameter: parameter.nbytes).detach()
    model.offloaded_to = Host(_read_bytes_s(largest, device))
    return accelerate.cpu_offload(model, execution_device=device)


def _read_bytes_s(tensor: torch.Tensor, device: torch.device) -> float:
    """Return the best of three rates at which a tensor is copied to a device; a copy back waits for its arrival."""
    best_s = math.inf
    for _ in range(3):
        began = time.monotonic()
        tensor.to(device, copy=True).reshape(-1)[-1].item()
        best_s = min(best_s, time.monotonic() - began)
    return float(tensor.nbytes / best_s)


OFFLOADS: Mapping[str, Callable[[Any, torch.device], Any]] = {
    "cpu_offload": _to_host,
    "disk_offload": disk.offload,
}
"""The choices that keep every weight one level down and load each layer's weights to run it."""


def planned(model: Any, choice: str) -> dict[str, Any]:
    """Return the device that accelerate assigns to each module."""
    whole = list(model._no_split_modules or [])  # noqa: SLF001 - accelerate asks for it by this name
    limits = get_max_memory()
    if choice != "sequential":
        limits = get_balanced_memory(
            model, no_split_module_classes=whole, low_zero=choice == "balanced_low_0"
        )
    device_map: dict[str, Any] = accelerate.infer_auto_device_map(
        model, max_memory=limits, no_split_module_classes=whole
    )
    return device_map


def spread(model: Any, device_map: Mapping[str, Any], seed: int) -> Any:
    """Move the empty modules to their devices, then fill all parameters in place.

    Reading host memory that was never written takes no memory; a model larger than the host's memory can therefore
    pass through it.
    """
    refuse_disk(device_map)
    on_host = [(n, p) for n, p in model.named_parameters() if _of(n, device_map) == "cpu"]
    fill(on_host, seed)
    hooks = len(set(device_map.values())) > 1 or _on_another(device_map)
    model = accelerate.dispatch_model(model, device_map=dict(device_map), force_hooks=hooks)
    not_on_host = [
        (n, p) for n, p in model.named_parameters() if p.device.type not in ("cpu", "meta")
    ]
    fill(not_on_host, seed + 1)
    return model


def hooked(model: Any) -> Any:
    """Return a model that from_pretrained placed, with hooks if it lies on another device than the first."""
    device_map = getattr(model, "hf_device_map", None) or {}
    if not _on_another(device_map):
        return model
    return accelerate.dispatch_model(model, device_map=dict(device_map), force_hooks=True)


def _on_another(device_map: Mapping[str, Any]) -> bool:
    """Return whether all of a model is on one GPU other than the first, to which prompts go and events belong.

    Hooks cost time at every layer; like from_pretrained, llmbench adds none to a model on the first device.
    """
    places = set(device_map.values())
    return len(places) == 1 and isinstance(place := places.pop(), int) and place != FIRST


def refuse_disk(device_map: Mapping[str, Any]) -> None:
    """Refuse a map that leaves weights on disk, because the disk would be timed."""
    if "disk" in device_map.values():
        raise LoadFailed(
            "the model fits neither the devices nor the host's memory; try a smaller dtype."
        )


def described(model: Any) -> str:
    """Return how many modules are on each device; empty for a model on one device."""
    device_map = getattr(model, "hf_device_map", None) or {}
    if len(set(device_map.values())) < 2:
        return ""
    counts = Counter(f"cuda:{d}" if isinstance(d, int) else str(d) for d in device_map.values())
    return ", ".join(f"{device}={count}" for device, count in sorted(counts.items()))


def _of(parameter: str, device_map: Mapping[str, Any]) -> Any:
    """Return the device of a parameter: that of the longest module name that contains it."""
    leading = [
        name
        for name in device_map
        if name == "" or parameter.startswith(f"{name}.") or parameter == name
    ]
    return device_map[max(leading, key=len)]
