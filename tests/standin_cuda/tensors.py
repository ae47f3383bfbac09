"""Tensors of the stand-in: each wraps a tensor of the host, on which every operator is computed.

One dispatch mode sees every operator of the process. It computes those on a device with the wrapped tensors, queues
their time on the device's clock, wraps the results, and lets the host wait where CUDA would.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from standin_cuda import clock, faults, settings
from standin_cuda.device import DEVICES, PLACE, device, note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
NEXT = "argmax."
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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return no: nothing is compiled here, and skipping it would import it first, 1.5 s in every worker."""
        return False

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return dispatched(func, args, kwargs or {})


class Operator(NamedTuple):
    """What is known of an operator by its name."""

    name: str
    reads: bool
    may_be_masked: bool
    may_mix: bool
    copies: bool
    fills: bool
    is_view: bool
    makes_token: bool


@functools.cache
def operator(func: Any) -> Operator:
    """Return what is known of one of torch's operators."""
    base, overload = func._schema.name.partition("::")[2], func._overloadname or "default"
    name = f"{base}.{overload}"
    return Operator(
        name=name,
        reads=name.startswith(READS),
        may_be_masked=name.startswith(MASKED),
        may_mix=name.startswith(MAY_MIX),
        copies=name.startswith(COPIES),
        fills=name.startswith("copy_."),
        is_view=base in VIEWS,
        makes_token=name.startswith(NEXT),
    )


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values inside lists and tuples; ten times as fast as torch's own walk, which knows more kinds."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from flat(value)
        else:
            yield value


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Return a value with everything inside lists and tuples changed."""
    if isinstance(value, list | tuple):
        return type(value)([mapped(change, each) for each in value])
    return change(value)


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
    return result if call.target.type == "meta" else mapped(call.placed, result)


class Call:
    """One operator with its arguments, and where it happens.

    Attributes:
        tensors: the arguments that are on a device.
        hosts: the other tensors.
        named: the device that the call names, or None.
        target: where its results are; None if no device takes part.
        crosses: whether that is elsewhere than where the arguments are.
        device: the device that works.

    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.func, self.args, self.kwargs, self.operator = func, args, kwargs, operator(func)
        self.tensors: list[CudaTensor] = []
        self.hosts: list[Any] = []
        self.named: Any = None
        self.target: Any = None
        for leaf in (*flat(args), *flat(kwargs.values())):
            if isinstance(leaf, CudaTensor):
                self.tensors.append(leaf)
            elif isinstance(leaf, torch.Tensor):
                self.hosts.append(leaf)
            elif isinstance(leaf, PLACE):
                self.named = _numbered(leaf)
        if not self.tensors and (self.named is None or self.named.type != "cuda"):
            return
        wide = next((tensor for tensor in self.tensors if tensor.ndim), None)
        here = wide.index if wide is not None else self.tensors[0].index if self.tensors else None
        self.here: Any = None if here is None else PLACE("cuda", here)
        self.target = self.named or self.here
        self.crosses = self.named is not None and self.named != self.here
        working: Any = self.target if self.target.type == "cuda" else self.here
        self.device = DEVICES[working.index]
        self.known: dict[int, Any] = {id(host): host for host in self.hosts}

    def refuse_mixed(self) -> None:
        """Raise torch's error for arguments on several devices."""
        if self.operator.may_mix or len(self.tensors) + len(self.hosts) < 2:
            return
        places = {f"cuda:{tensor.index}" for tensor in self.tensors if tensor.ndim}
        if self.named is None and any(t.ndim and t.device.type == "cpu" for t in self.hosts):
            places |= {"cpu", str(self.here)}
        if len(places) > 1:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(sorted(places))}! ({self.operator.name})"
            )

    def read(self) -> str:
        """Return why the host waits before this operator; empty if it goes on."""
        if not self.tensors:
            return ""
        if self.operator.reads or (self.operator.may_be_masked and self._is_masked()):
            return self.operator.name
        to_host = self.named is not None and self.named.type == "cpu"
        copied = self.operator.copies and to_host and not self.kwargs.get("non_blocking")
        into_host = self.operator.fills and not isinstance(self.args[0], CudaTensor)
        return f"device to host, {self.operator.name}" if copied or into_host else ""

    def _is_masked(self) -> bool:
        return any(isinstance(t, torch.Tensor) and t.dtype in MASKS for t in flat(self.args[1:2]))

    def computed(self) -> Any:
        """Compute on the host."""
        args = [mapped(self._on_host, value) for value in self.args]
        kwargs = {name: mapped(self._on_host, value) for name, value in self.kwargs.items()}
        if "pin_memory" in kwargs:
            kwargs["pin_memory"] = False
        counts = self.operator.name.startswith("histc")
        if counts and not args[0].is_floating_point():  # of integers, only CUDA makes a histogram
            return self.func(args[0].float(), *args[1:], **kwargs).to(args[0].dtype)
        return self.func(*args, **kwargs)

    def _on_host(self, value: Any) -> Any:
        if isinstance(value, CudaTensor):
            self.known[id(value.inner)] = value
            return value.inner
        return PLACE("cpu") if isinstance(value, PLACE) and value.type == "cuda" else value

    def queue(self, result: Any) -> None:
        """Queue the work; a copy from pageable host memory waits for its end."""
        if self.operator.is_view:
            return
        nbytes = sum(tensor.inner.nbytes for tensor in self.tensors)
        nbytes += sum(leaf.nbytes for leaf in flat([result]) if isinstance(leaf, torch.Tensor))
        copied = self._from_host()
        done_ns = self.device.queue(nbytes + copied * settings.COPY_SLOWDOWN)
        if self.operator.makes_token:
            note("token", done_ns=done_ns)
        if copied:
            note("copy", nbytes=copied, queued_ns=clock.now_ns())
        if copied and not self._unblocked():
            self.device.wait(f"host to device, {self.operator.name}")

    def _from_host(self) -> int:
        """Return the bytes that come from the host."""
        into = self.operator.fills and isinstance(self.args[0], CudaTensor)
        made = self.operator.copies and self.here is None
        return sum(int(tensor.nbytes) for tensor in self.hosts) if into or made else 0

    def _unblocked(self) -> bool:
        third = self.operator.fills and len(self.args) > 2 and self.args[2]
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
