"""torch.cuda on the stand-in: the names of torch that ask for a device, replaced by ones that answer from `device`."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _device

from standin_cuda import clock, faults, guard, settings
from standin_cuda.device import DEVICES, PLACE, PROCESS, device, note
from standin_cuda.tensors import Everywhere

if TYPE_CHECKING:
    from collections.abc import Callable

EVENT_NS = 500
"""What an event takes of its stream."""
CAPABILITY = (9, 0)
NOT_READY, BAD_HANDLE = 600, 400
CUDA = "13.0"
BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""With this variable, torch asks the driver and not the runtime whether there is a GPU."""


class Event:
    """A moment in a device's queue."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.timed, self.at_ns, self.place = enable_timing, 0, DEVICES[0]

    def record(self, stream: Stream | None = None) -> None:
        PROCESS.initialize()
        faults.raise_if_broken()
        self.place = stream.place if stream else device()
        self.place.ready_ns = max(clock.now_ns(), self.place.ready_ns) + EVENT_NS
        self.at_ns = self.place.ready_ns

    def query(self) -> bool:
        return self.at_ns <= clock.now_ns()

    def synchronize(self) -> None:
        faults.raise_if_broken()
        note("wait", why="event", device=self.place.number)
        clock.wait_until(self.at_ns)

    def elapsed_time(self, other: Event) -> float:
        """Return milliseconds as CUDA does, in single precision."""
        if not (self.timed and other.timed):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if not (self.at_ns and other.at_ns):
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        if self.place is not other.place:
            raise faults.error_of_cuda(BAD_HANDLE, "invalid resource handle")
        if not other.query():
            raise faults.error_of_cuda(NOT_READY, "device not ready")
        (single,) = struct.unpack("f", struct.pack("f", (other.at_ns - self.at_ns) / 1e6))
        return float(single)


class Stream:
    """The only stream of a device."""

    def __init__(self, place: Any = None, **_: Any) -> None:
        PROCESS.initialize()
        self.place = device(place)
        self.device = PLACE("cuda", self.place.number)

    def synchronize(self) -> None:
        self.place.wait("stream")


class Current:
    """The context in which another device is the current one."""

    def __init__(self, place: Any) -> None:
        self.number, self.before = device(place).number, 0

    def __enter__(self) -> None:
        self.before, PROCESS.current = PROCESS.current, self.number

    def __exit__(self, *_: object) -> None:
        PROCESS.current = self.before


def install() -> None:
    """Replace torch's names in this process."""
    ctypes.CDLL(str(guard.library()))
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # torch.tensor() makes its values on the host, then copies
    for name, value in NAMES.items():
        setattr(torch.cuda, name, value)
    for name, value in OF_ACCELERATORS.items():
        setattr(torch.accelerator, name, value)
    torch.cuda.memory.empty_cache, torch.cuda.memory.mem_get_info = _empty_cache, _mem_get_info
    torch._C._cuda_isInBadFork = lambda: PROCESS.forked
    torch._C._cuda_getDeviceCount = lambda: len(DEVICES)
    torch._C._cuda_getCurrentRawStream = lambda *_: 0
    torch.version.cuda = CUDA
    torch.backends.cuda.is_built = lambda: True
    _number_devices()
    _compile_nothing()
    torch.__future__.set_overwrite_module_params_on_conversion(
        True
    )  # else Module.to() loses the class
    torch.nn.Module.to = _to
    Everywhere().__enter__()


MOVE = torch.nn.Module.to


def _to(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Move a module; as with torch's own tensors, its tied parameters stay tied."""
    was = [(m, name, id(p)) for m in module.modules() for name, p in m._parameters.items()]
    MOVE(module, *args, **kwargs)
    moved: dict[int, Any] = {}
    for owner, name, number in was:
        owner._parameters[name] = moved.setdefault(number, owner._parameters[name])
    return module


def _is_available() -> bool:
    if os.environ.get(BY_NVML) != "1":
        PROCESS.asked = True  # the runtime counts devices, which a fork does not survive
    return bool(DEVICES)


def _current_device() -> int:
    PROCESS.initialize()
    return PROCESS.current


def _set_device(place: Any) -> None:
    PROCESS.initialize()
    PROCESS.current = device(place).number


def _synchronize(place: Any = None) -> None:
    device(place).open()
    device(place).wait("synchronize")


def _properties(place: Any = None) -> SimpleNamespace:
    PROCESS.initialize()
    gpu = device(place).gpu
    return SimpleNamespace(
        name=settings.NAME,
        major=CAPABILITY[0],
        minor=CAPABILITY[1],
        total_memory=gpu.memory_bytes,
        multi_processor_count=132,
        L2_cache_size=60 * settings.MIB,
        is_integrated=False,
        uuid=gpu.uuid.partition("-")[2],
    )


def _mem_get_info(place: Any = None) -> tuple[int, int]:
    here = device(place)
    here.open()
    return here.gpu.memory_bytes - here.held_bytes, here.gpu.memory_bytes


def _empty_cache() -> None:
    if PROCESS.initialized:
        for each in DEVICES:
            each.trim()


def _asked(name: str) -> Callable[..., int]:
    """Return a function that reads a figure of a device's allocator."""
    return lambda place=None: getattr(device(place), name)


NAMES: dict[str, Any] = {
    "_lazy_init": PROCESS.initialize,
    "init": PROCESS.initialize,
    "is_initialized": lambda: PROCESS.initialized,
    "is_available": _is_available,
    "device_count": lambda: len(DEVICES),  # asks the driver first, so forks survive it
    "_is_in_bad_fork": lambda: PROCESS.forked,
    "current_device": _current_device,
    "set_device": _set_device,
    "device": Current,
    "synchronize": _synchronize,
    "Event": Event,
    "Stream": Stream,
    "current_stream": Stream,
    "default_stream": Stream,
    "get_device_properties": _properties,
    "get_device_name": lambda place=None: _properties(place).name,
    "get_device_capability": lambda place=None: (
        _properties(place).major,
        _properties(place).minor,
    ),
    "mem_get_info": _mem_get_info,
    "empty_cache": _empty_cache,
    "memory_allocated": _asked("allocated"),
    "max_memory_allocated": _asked("peak_allocated"),
    "memory_reserved": _asked("reserved"),
    "max_memory_reserved": _asked("peak_reserved"),
    "reset_peak_memory_stats": lambda place=None: device(place).forget_peaks(),
    "is_bf16_supported": lambda *_, **__: True,
    "is_current_stream_capturing": lambda: False,
    "manual_seed": lambda _: None,
    "manual_seed_all": lambda _: None,
    "ipc_collect": lambda: None,
}
OF_ACCELERATORS: dict[str, Any] = {
    "is_available": lambda: bool(DEVICES),
    "device_count": lambda: len(DEVICES),
    "current_accelerator": lambda *_, **__: PLACE("cuda"),
    "current_device_index": _current_device,
    "synchronize": _synchronize,
}


def _number_devices() -> None:
    """Let a device be named by a number alone, or without one, which the guard of `guard.cpp` cannot complete."""
    _device._device_constructors()  # notes the functions that take a device, before they are replaced here
    move, parse = torch.Tensor.to, torch._C._nn._parse_to

    def to(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs:
            kwargs["device"] = _whole(kwargs["device"])
        return move(tensor, *map(_whole, args[:1]), *args[1:], **kwargs)

    torch.Tensor.to = to
    torch.Tensor.cuda = lambda tensor, place=None, **more: to(tensor, _named(place), **more)
    torch._C._nn._parse_to = lambda *args, **kwargs: parse(*map(_whole, args), **kwargs)
    torch.tensor, torch.as_tensor = _on_whole(torch.tensor), _on_whole(torch.as_tensor)
    torch.device = DeviceName


def _on_whole(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs:
            kwargs["device"] = _whole(kwargs["device"])
        return make(*args, **kwargs)

    return made


def _whole(value: Any) -> Any:
    """Return a device with its number; anything else as it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _named(value)
    if isinstance(value, str | PLACE) and PLACE(value).type == "cuda":
        return _named(value)
    return value


def _named(place: Any) -> Any:
    return PLACE("cuda", device(place).number)


class _ByNumber(type):
    """Makes `torch.device(1)` the second GPU, and what torch makes of any other name."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], int):
            return PLACE("cuda", args[0])
        return PLACE(*args, **kwargs)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, PLACE)


class DeviceName(metaclass=_ByNumber):
    """Stands for torch.device."""


def _compile_nothing() -> None:
    """Let a compiled function be called as it is; each new shape of its arguments counts as a compiled graph."""
    trees: Any = ModuleType("torch._inductor.cudagraph_trees")
    trees.reset_cudagraph_trees = lambda: None
    trees.get_manager = lambda *_, **__: None
    sys.modules.setdefault("torch._inductor.cudagraph_trees", trees)
    torch.compile = _counted


def _counted(function: Any = None, **_: Any) -> Any:
    if function is None:  # as a decorator with settings
        return _counted
    shapes: set[Any] = set()

    def called(*args: Any, **kwargs: Any) -> Any:
        given = {k: v.shape for k, v in kwargs.items() if isinstance(v, torch.Tensor)}
        shape = tuple(given.items())
        if shape not in shapes:
            shapes.add(shape)
            torch._dynamo.utils.counters["stats"]["unique_graphs"] += 1
        return function(*args, **kwargs)

    return called
