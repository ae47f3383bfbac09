"""Weights on disk: each tensor is mapped from one file while its layer runs, and then released.

The file is unlinked at once; nothing remains of it however the worker ends.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_align_device_hook

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 2**24


class TensorLocation(NamedTuple):
    """The position of a tensor in the file."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype


class OnDisk(Mapping[str, torch.Tensor]):
    """The tensors of a model by name, in one file; each look-up maps the file again, as accelerate does.

    Attributes:
        read_bytes_s: how fast the file was read once, block by block, which is the ceiling of this level. The
        system caches as much of it as fits in memory; only without room for that is this the disk's own rate.

    """

    def __init__(self, model: Any) -> None:
        """Write every parameter and buffer of a model, tied ones once."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the model
        self._places: dict[str, TensorLocation] = {}
        written: dict[int, int] = {}
        for name, tensor in model.state_dict().items():
            where = tensor.data_ptr()
            if where not in written:
                written[where] = self._file.tell()
                self._file.write(
                    tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
                )
            self._places[name] = TensorLocation(written[where], tensor.shape, tensor.dtype)
        self._file.flush()
        self.read_bytes_s = self._read()

    def _read(self) -> float:
        block, size = bytearray(BLOCK_BYTES), self._file.tell()
        self._file.seek(0)
        began = time.monotonic()
        while self._file.readinto(block):
            pass
        return size / (time.monotonic() - began)

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return a tensor whose pages are read on first access."""
        place = self._places[name]
        size = place.shape.numel() * place.dtype.itemsize
        mapped = np.memmap(self._file, np.uint8, mode="c", offset=place.offset, shape=(size,))
        return torch.from_numpy(mapped).view(place.dtype).view(place.shape)

    def __del__(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def offload(model: Any, device: torch.device) -> Any:
    """Move all weights of a model to disk; a layer's weights are on the device while it runs."""
    model.offloaded_to = weights = OnDisk(model)
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True), append=True)
    attach_align_device_hook(model, execution_device=device, offload=True, weights_map=weights)
    return model
