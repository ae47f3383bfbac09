"""The NVIDIA GPUs that CUDA shows here, in CUDA's order, as the driver's handles.

The driver's own list ignores CUDA_VISIBLE_DEVICES: its first GPU may not be the one that is measured.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pynvml

if TYPE_CHECKING:
    from collections.abc import Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""With it, numbers in CUDA_VISIBLE_DEVICES match nvidia-smi; CUDA's default order has the fastest GPU first."""


def handles() -> list[Any]:
    """Return a handle for each GPU that CUDA shows, in its order; empty without a driver."""
    try:
        pynvml.nvmlInit()
        count = range(pynvml.nvmlDeviceGetCount())
        everyone = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in count]
    except pynvml.NVMLError:
        return []
    wanted = os.environ.get(VISIBLE)
    return everyone if wanted is None else _chosen(wanted, everyone)


def handle(index: int) -> Any:
    """Return the handle of one of them, or None."""
    return dict(enumerate(handles())).get(index)


def _chosen(wanted: str, everyone: Sequence[Any]) -> list[Any]:
    """Return the GPUs named; like CUDA, stop at the first name that matches nothing."""
    chosen = []
    for word in wanted.split(","):
        gpu = _named(word.strip(), everyone)
        if gpu is None:
            break
        chosen.append(gpu)
    return chosen


def _named(word: str, everyone: Sequence[Any]) -> Any:
    """Return the GPU with this number, this beginning of an id, or this whole id of a slice."""
    if word.isdecimal():
        return dict(enumerate(everyone)).get(int(word))
    with contextlib.suppress(pynvml.NVMLError):
        if word.startswith("MIG-"):
            return pynvml.nvmlDeviceGetHandleByUUID(word)
        if word.startswith("GPU-"):
            return next((gpu for gpu in everyone if uuid(gpu).startswith(word)), None)
    return None


def uuid(gpu: Any) -> str:
    """Return the id by which the driver knows a GPU."""
    name = pynvml.nvmlDeviceGetUUID(gpu)
    return name.decode() if isinstance(name, bytes) else str(name)
