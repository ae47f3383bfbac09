"""One model over several devices, by accelerate, when a sweep asks for it.

Weights that are to stay on the host are made there; those of a device are made on it, never on both.
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
    """Spread an empty model, built on the host but not yet touched, as `choice` says, and fill it."""
    if choice in OFFLOADS:
        fill(model.named_parameters(), seed)
        return OFFLOADS[choice](model, device)
    return spread(model, planned(model, choice), seed)


class Host(NamedTuple):
    """The host's memory as a level below a device: how fast the device takes a tensor from it, bytes a second."""

    read_bytes_s: float


def _to_host(model: Any, device: torch.device) -> Any:
    largest = max(model.parameters(), key=lambda parameter: parameter.nbytes).detach()
    model.offloaded_to = Host(_read_bytes_s(largest, device))
    return accelerate.cpu_offload(model, execution_device=device)


def _read_bytes_s(tensor: torch.Tensor, device: torch.device) -> float:
    """Return how fast a tensor is copied to a device, the best of three; a copy back waits for its arrival."""
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
"""The choices that keep every weight one level down and bring each layer's up to run it."""


def planned(model: Any, choice: str) -> dict[str, Any]:
    """Return where accelerate puts each module."""
    whole = list(model._no_split_modules or [])  # noqa: SLF001 - accelerate asks for it by this name
    limits = get_max_memory()
    if choice != "sequential":
        limits = get_balanced_memory(
            model, no_split_module_classes=whole, low_zero=choice == "balanced_low_0"
        )
    found: dict[str, Any] = accelerate.infer_auto_device_map(
        model, max_memory=limits, no_split_module_classes=whole
    )
    return found


def spread(model: Any, device_map: Mapping[str, Any], seed: int) -> Any:
    """Move the empty modules to their devices, then fill all parameters where they lie.

    Reading host memory that was never written takes no memory, so a model larger than the host's memory
    passes through it.
    """
    refuse_disk(device_map)
    on_host = [(n, p) for n, p in model.named_parameters() if _of(n, device_map) == "cpu"]
    fill(on_host, seed)
    model = accelerate.dispatch_model(model, device_map=dict(device_map), force_hooks=True)
    elsewhere = [
        (n, p) for n, p in model.named_parameters() if p.device.type not in ("cpu", "meta")
    ]
    fill(elsewhere, seed + 1)
    return model


def refuse_disk(device_map: Mapping[str, Any]) -> None:
    """Refuse a map that leaves weights on disk: what is timed then is the disk."""
    if "disk" in device_map.values():
        raise LoadFailed(
            "the model fits neither the devices nor the host's memory; a smaller dtype might."
        )


def described(model: Any) -> str:
    """Return how many modules lie on each device, or an empty text for a model that was not spread."""
    device_map = getattr(model, "hf_device_map", None) or {}
    if len(set(device_map.values())) < 2:
        return ""
    counts = Counter(f"cuda:{d}" if isinstance(d, int) else str(d) for d in device_map.values())
    return ", ".join(f"{device}={count}" for device, count in sorted(counts.items()))


def _of(parameter: str, device_map: Mapping[str, Any]) -> Any:
    """Return the device of a parameter: that of the longest module name that leads to it."""
    leading = [
        name
        for name in device_map
        if name == "" or parameter.startswith(f"{name}.") or parameter == name
    ]
    return device_map[max(leading, key=len)]
