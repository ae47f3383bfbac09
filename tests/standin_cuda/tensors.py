"""Tensors of the stand-in: each wraps a tensor of the host, on which every operator is computed.

One dispatch mode sees every operator of the process. It computes those on a device with the wrapped tensors, queues
their time on the device's clock, wraps the results, and lets the host wait where CUDA would.
"""

from __future__ import annotations

import time
import weakref
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from standin_cuda import faults, settings
from standin_cuda.device import DEVICES, PLACE, PROCESS, device, note

READS = (
    "_local_scalar_dense", "_unique2", "allclose", "bincount", "equal", "is_nonzero", "item", "masked_select",
    "nonzero", "repeat_interleave.Tensor", "unique",
)  # fmt: skip
"""Operators whose result the host needs, so that it waits."""
MASKED = ("index.", "index_put")
"""Operators that wait if an index is a mask, because its length must be known."""
MAY_MIX = (
    "_has_compatible", "_index_put", "_to_copy", "copy_", "detach", "index", "is_same_size", "lift_fresh", "set_data",
    "slice_scatter", "sym_", "to.", "where",
)  # fmt: skip
"""Operators that take tensors of host and device together."""
COPIES = ("_to_copy", "to.")
VIEWS = (
    "_unsafe_view", "alias", "as_strided", "chunk", "detach", "diagonal", "expand", "expand_as", "flatten",
    "lift_fresh", "movedim", "narrow", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as",
)  # fmt: skip
"""Operators that start nothing on the device."""
TOKEN = "argmax."
"""The operator that makes a token, whose end goes to the log: the truth that reported times are held against."""
MASKS = (torch.bool, torch.uint8)


class CudaTensor(torch.Tensor):  # type: ignore[misc]
    """A tensor on a device: `inner` has its values, and `index` is the device's number."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(
        cls: Any, inner: Any, index: int | None = None, requires_grad: bool = False, **_: Any
    ) -> Any:
        if index is None:  # accelerate makes a parameter by calling the class of another
            return torch.nn.Parameter(inner, requires_grad=requires_grad)
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=PLACE("cuda", index),
            requires_grad=requires_grad,
        )
        made.take(inner, index)
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        """Do nothing; `__new__` has done it."""

    def take(self, inner: Any, index: int) -> None:
        """Hold these values on this device, for as long as this tensor lives."""
        self.inner, self.index = inner, index
        storage = inner.untyped_storage()
        place = DEVICES[index]
        place.open()
        place.allocate(storage.data_ptr(), storage.nbytes())
        self.leave = weakref.finalize(self, place.release, storage.data_ptr())
        self.leave.atexit = False

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return dispatched(func, args, kwargs or {})

    def untyped_storage(self) -> Storage:
        return Storage(self)

    def data_ptr(self) -> int:
        return int(self.inner.data_ptr())

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            f"can't convert cuda:{self.index} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
            f"host memory first."
        )

    @property
    def data(self) -> Any:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Any) -> None:
        torch.Tensor.data.__set__(self, value)
        if isinstance(value, CudaTensor):
            self.leave()
            self.take(value.inner, value.index)

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.inner!r}, cuda:{self.index})"

    __str__ = __repr__

    def __format__(self, _: str) -> str:
        return repr(self)


class Storage:
    """The storage of a tensor on a device."""

    def __init__(self, tensor: CudaTensor) -> None:
        self._storage = tensor.inner.untyped_storage()
        self.device = PLACE("cuda", tensor.index)

    def data_ptr(self) -> int:
        return int(self._storage.data_ptr())

    def nbytes(self) -> int:
        return int(self._storage.nbytes())

    size = __len__ = nbytes


class Everywhere(TorchDispatchMode):  # type: ignore[misc]
    """The mode that sees every operator of this process."""

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operator, on the host or on a device."""
    call = Call(func, args, kwargs)
    if call.target is None:
        return func(*args, **kwargs)
    faults.raise_if_broken()
    call.refuse_mixed()
    if why := call.read():
        call.device.wait(why)
    result = call.computed()
    call.queue(result)
    return result if call.target.type == "meta" else pytree.tree_map(call.placed, result)


class Call:
    """One operator with its arguments, and where it happens.

    Attributes:
        tensors: the arguments that are on a device.
        hosts: the other tensors.
        named: the device that the call names, or None.
        target: where its results are; None if no device takes part.

    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.name = f"{func._schema.name.partition('::')[2]}.{func._overloadname or 'default'}"
        leaves = pytree.tree_leaves((args, kwargs))
        self.tensors = [leaf for leaf in leaves if isinstance(leaf, CudaTensor)]
        self.hosts = [
            leaf
            for leaf in leaves
            if isinstance(leaf, torch.Tensor) and not isinstance(leaf, CudaTensor)
        ]
        named = [leaf for leaf in leaves if isinstance(leaf, PLACE)]
        self.named = _numbered(named[-1]) if named else None
        on_device = self.named is not None and self.named.type == "cuda"
        wide = [tensor for tensor in self.tensors if tensor.ndim] or self.tensors
        self.here = wide[0].index if wide else None
        self.target = None
        if self.tensors or on_device:
            self.target = self.named or PLACE("cuda", self.here)
        self.known: dict[int, Any] = {id(host): host for host in self.hosts}

    @property
    def device(self) -> Any:
        """Return the device that works."""
        number = self.target.index if self.target.type == "cuda" else self.here
        return DEVICES[PROCESS.current if number is None else number]

    @property
    def crosses(self) -> bool:
        """Return whether the results are elsewhere than the arguments."""
        return self.named is not None and (
            self.here is None or self.named != PLACE("cuda", self.here)
        )

    def refuse_mixed(self) -> None:
        """Raise torch's error for arguments on several devices."""
        if not self.tensors or self.name.startswith(MAY_MIX):
            return
        places = {f"cuda:{tensor.index}" for tensor in self.tensors if tensor.ndim}
        if self.named is None and any(t.ndim and t.device.type == "cpu" for t in self.hosts):
            places |= {"cpu", f"cuda:{self.here}"}
        if len(places) > 1:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(sorted(places))}! ({self.name})"
            )

    def read(self) -> str:
        """Return why the host waits before this operator; empty if it goes on."""
        if not self.tensors:
            return ""
        if self.name.startswith(READS) or (self.name.startswith(MASKED) and self._is_masked()):
            return self.name
        to_host = self.named is not None and self.named.type == "cpu"
        copied = self.name.startswith(COPIES) and to_host and not self.kwargs.get("non_blocking")
        into_host = self.name.startswith("copy_") and not isinstance(self.args[0], CudaTensor)
        return f"device to host, {self.name}" if copied or into_host else ""

    def _is_masked(self) -> bool:
        indices = pytree.tree_leaves(self.args[1])
        return any(isinstance(t, torch.Tensor) and t.dtype in MASKS for t in indices)

    def computed(self) -> Any:
        """Compute on the host."""
        args, kwargs = pytree.tree_map(self._on_host, (self.args, self.kwargs))
        if "pin_memory" in kwargs:
            kwargs["pin_memory"] = False
        if self.name.startswith("histc") and not args[0].is_floating_point():  # only CUDA counts integers
            return self.func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
        return self.func(*args, **kwargs)

    def _on_host(self, value: Any) -> Any:
        if isinstance(value, CudaTensor):
            self.known[id(value.inner)] = value
            return value.inner
        return PLACE("cpu") if isinstance(value, PLACE) and value.type == "cuda" else value

    def queue(self, result: Any) -> None:
        """Queue the work; a copy from pageable host memory waits for its end."""
        if self.name.partition(".")[0] in VIEWS:
            return
        touched = [tensor.inner for tensor in self.tensors]
        touched += [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        nbytes = sum(tensor.nbytes for tensor in touched)
        copied = self._from_host()
        done_ns = self.device.queue(nbytes + copied * settings.COPY_SLOWDOWN)
        if self.name.startswith(TOKEN):
            note("token", done_ns=done_ns)
        if copied:
            note("copy", nbytes=copied, queued_ns=time.monotonic_ns())
        if copied and not self._unblocked():
            self.device.wait(f"host to device, {self.name}")

    def _from_host(self) -> int:
        """Return the bytes that come from the host."""
        into = self.name.startswith("copy_") and isinstance(self.args[0], CudaTensor)
        made = self.name.startswith(COPIES) and self.here is None
        return sum(int(tensor.nbytes) for tensor in self.hosts) if into or made else 0

    def _unblocked(self) -> bool:
        third = self.name.startswith("copy_") and len(self.args) > 2 and self.args[2]
        return bool(third or self.kwargs.get("non_blocking"))

    def placed(self, value: Any) -> Any:
        """Return a result where it belongs; a copy shares no memory with its source."""
        if not isinstance(value, torch.Tensor) or isinstance(value, CudaTensor):
            return value
        if id(value) in self.known and not self.crosses:
            return self.known[id(value)]
        if value.device.type == "meta":
            return value
        if self.crosses and value.untyped_storage().data_ptr() in self._addresses():
            value = value.clone()
        if self.target.type == "cpu":
            return value
        # A view of a parameter must not be a tensor of inference mode.
        with torch.inference_mode(False):
            plain = value.detach() if value.requires_grad else value
            return CudaTensor(plain, self.target.index)

    def _addresses(self) -> set[int]:
        hosts = [t for t in self.hosts if t.device.type == "cpu" and t.layout == torch.strided]
        sources = [*hosts, *(tensor.inner for tensor in self.tensors)]
        return {int(tensor.untyped_storage().data_ptr()) for tensor in sources}


def _numbered(place: Any) -> Any:
    """Return a device with its number."""
    return PLACE("cuda", device(place).number) if place.type == "cuda" else place
