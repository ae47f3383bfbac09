"""Facts about the model that vLLM loaded and the duration of each start-up step, noted in the worker's process.

vLLM mixes `Witness` into each of its workers (`worker_extension_cls`), in this process or another, and imports this
module for that. The facts must be read then: on a CPU, weights are soon repacked into objects that are not
parameters.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.model_loader import base_loader, dummy_loader

from llmbench.backends import memory
from llmbench.backends.vllm.quantization import CODES

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = {
    "load_model": "load_weights_s",
    "determine_available_memory": "profile_s",
    "compile_or_warm_up_model": "capture_s",
}
"""The steps of a worker's start and the names of their durations. On CUDA the last one records the graphs; on a CPU
the second one compiles."""
WORKERS = (
    ("vllm.v1.worker.gpu_worker", "Worker"),
    ("vllm.v1.worker.cpu_worker", "CPUWorker"),
)

SCALES = ("_scale", "_zero_point", "_shape")
"""Ends of the names of parameters that describe codes."""

_seen: dict[str, Any] = {}


class Witness:
    """Methods that vLLM's engine can call by name in each worker."""

    def llmbench_seen(self: Any) -> dict[str, Any]:
        """Return facts about the loaded model (counts, bytes, devices, types) and the seconds of each step."""
        context = self.vllm_config.compilation_config.static_forward_context
        layers = [layer for layer in context.values() if hasattr(layer, "attn_backend")]
        backends = {layer.attn_backend.get_name() for layer in layers}
        without = {
            f"{layer.attn_backend.get_name()} has no kernel for heads of {layer.head_size}"
            for layer in layers
            if not layer.attn_backend.supports_head_size(layer.head_size)
        }
        return {
            **_seen,
            "kv_pool_bytes": memory.stored_bytes(
                _flat(getattr(self.model_runner, "kv_caches", []))
            ),
            "adapter_bytes": memory.stored_bytes(_adapters(self.model_runner)),
            "attn_implementation": ", ".join(sorted(backends)),
            "attn_missing": "; ".join(sorted(without)),
        }


def _adapters(runner: Any) -> list[Any]:
    """Return the tensors that hold adapters, for which vLLM makes room at its start."""
    modules = (
        runner.model.modules()
        if isinstance(getattr(runner, "model", None), torch.nn.Module)
        else ()
    )
    held = [getattr(module, f"lora_{side}_stacked", ()) for module in modules for side in "ab"]
    return _flat(held)


def _flat(caches: Any) -> list[Any]:
    """Return the tensors from vLLM's nested lists, which hold one or several per layer."""
    if isinstance(caches, list | tuple):
        return [tensor for part in caches for tensor in _flat(part)]
    return [caches]


def _described(model: Any) -> dict[str, Any]:
    """Return facts about a loaded model; a tied parameter counts once."""
    parameters = list(model.parameters())
    return {
        "parameters": _weights(model),
        "weights_bytes": memory.stored_bytes(parameters),
        "param_devices": ", ".join(sorted({str(parameter.device) for parameter in parameters})),
        "param_dtypes": ", ".join(
            sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
        ),
        "model_class": type(model).__name__,
    }


def _weights(model: Any) -> int:
    """Return how many weights a model has; a quantised layer says its own size, less what packs and scales them."""
    seen: dict[int, int] = {}
    for module in model.modules():
        own = {
            name: each
            for name, each in module.named_parameters(recurse=False)
            if not name.endswith(SCALES)
        }
        if "weight" not in own or _is_code(own["weight"]):
            size = [
                getattr(module, f"{side}_size_per_partition", 0) for side in ("input", "output")
            ]
            if own and all(size):
                bias = own["bias"].numel() if "bias" in own else 0
                seen[id(module)] = size[0] * size[1] + bias
                continue
        seen |= {id(each): each.numel() for each in own.values()}
    return sum(seen.values())


def _is_code(tensor: Any) -> bool:
    return not tensor.is_floating_point() or tensor.dtype.itemsize == 1


def _filling(load: Callable[..., Any]) -> Callable[..., Any]:
    """Draw the codes of random weights, too, which vLLM leaves as they lie in memory."""

    @functools.wraps(load)
    def filled(loader: Any, model: Any, *arguments: Any, **named: Any) -> Any:
        result = load(loader, model, *arguments, **named)
        _fill_codes(model)
        return result

    return filled


def _fill_codes(model: Any) -> None:
    for number, tensor in enumerate(model.parameters()):
        if not tensor.is_floating_point() and tensor.ndim > 1:
            generator = torch.Generator(tensor.device).manual_seed(number)
            span = torch.iinfo(tensor.dtype)
            tensor.data.random_(span.min, span.max, generator=generator)


def _noting(process: Callable[..., Any]) -> Callable[..., Any]:
    """Note the weights as they were read, or as vLLM quantised them, before they are repacked beyond recognition."""

    @functools.wraps(process)
    def noted(model: Any, model_config: Any, *arguments: Any, **named: Any) -> Any:
        before = _described(model)
        result = process(model, model_config, *arguments, **named)
        coded = any(_is_code(each) and each.ndim > 1 for each in model.parameters())
        was_coded = any(each.startswith(CODES) for each in before["param_dtypes"].split(", "))
        _seen.update(_described(model) if coded and not was_coded else before)
        return result

    return noted


def _timed(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        result = method(*arguments, **named)
        _seen[name] = round(time.monotonic() - began, 6)
        return result

    return timed


def _listen() -> None:
    """Wrap the methods that load and start, in the classes that this process has imported."""
    base_loader.process_weights_after_loading = _noting(base_loader.process_weights_after_loading)
    dummy_loader.DummyModelLoader.load_weights = _filling(
        dummy_loader.DummyModelLoader.load_weights
    )
    for module, name in WORKERS:
        worker = getattr(sys.modules.get(module), name, None)
        for method, part in PARTS.items():
            if method in vars(worker or object):
                setattr(worker, method, _timed(vars(worker)[method], part))


_listen()
