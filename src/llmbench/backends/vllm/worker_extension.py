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

from vllm.model_executor.model_loader import base_loader

from llmbench.backends import memory

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
            "attn_implementation": ", ".join(sorted(backends)),
            "attn_missing": "; ".join(sorted(without)),
        }


def _flat(caches: Any) -> list[Any]:
    """Return the tensors from vLLM's nested lists, which hold one or several per layer."""
    if isinstance(caches, list | tuple):
        return [tensor for part in caches for tensor in _flat(part)]
    return [caches]


def _described(model: Any) -> dict[str, Any]:
    """Return facts about a loaded model; a tied parameter counts once."""
    parameters = list(model.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "weights_bytes": memory.stored_bytes(parameters),
        "param_devices": ", ".join(sorted({str(parameter.device) for parameter in parameters})),
        "param_dtypes": ", ".join(
            sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
        ),
        "model_class": type(model).__name__,
    }


def _noting(process: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(process)
    def noted(model: Any, *arguments: Any, **named: Any) -> Any:
        _seen.update(_described(model))
        return process(model, *arguments, **named)

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
    for module, name in WORKERS:
        worker = getattr(sys.modules.get(module), name, None)
        for method, part in PARTS.items():
            if method in vars(worker or object):
                setattr(worker, method, _timed(vars(worker)[method], part))


_listen()
