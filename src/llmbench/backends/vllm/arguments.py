"""From a job to vLLM's engine arguments: its options by vLLM's own names, and what a benchmark must have.

What cannot run is refused here, in one line, by what the installed vLLM says of itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vllm
from vllm.config import CompilationMode
from vllm.model_executor.models import registry
from vllm.platforms import current_platform

from llmbench.backends.load_errors import LoadErrorRule
from llmbench.errors import LoadFailed, Unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.results.record import Job
    from llmbench.spec.sweep import Cell

CPU_CACHE_BYTES = 2 * 2**30
"""Room for keys and values on a CPU, unless told: vLLM's own choice is most of the machine's memory, and it
writes all of it at once. A LLaMA-7B of 2,048 tokens needs 1 GiB in bfloat16, twice that in float32."""

WITNESS = "llmbench.backends.vllm.worker_extension.Witness"

OURS = ("multiprocessing", "compilation_mode", "cudagraph_mode", "cudagraph_capture_sizes")
"""Options that are not an engine argument of the same name."""

REASONS = (
    LoadErrorRule(
        "ValueError",
        "not supported for now",
        "{where}: vLLM does not run its architecture, and transformers' own code cannot run in vLLM.",
        Unsupported,
    ),
    LoadErrorRule(
        "ValueError", "greater than the derived max_model_len", "{where}: {detail}", Unsupported
    ),
    LoadErrorRule("ValueError", "KV cache", "{where}: {detail}"),
    LoadErrorRule(
        "ValidationError", "", "{where}: vLLM refuses its arguments: {detail}", Unsupported
    ),
)
"""vLLM's refusals, tried before those of transformers, which it uses."""


def engine_arguments(job: Job, options: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's EngineArgs for a job whose model lies at `model`."""
    cell, protocol = job.cells[0], job.protocol
    given = {
        name: value for name, value in options.items() if name not in OURS and _is_given(value)
    }
    if cell.device == "cpu" and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        given.setdefault("kv_cache_memory_bytes", CPU_CACHE_BYTES)
    return {
        "model": model,
        "dtype": cell.dtype,
        "load_format": "dummy" if cell.load_format == "dummy" else _weights_format(job),
        "seed": protocol.seed,
        "trust_remote_code": protocol.allow_remote_code,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # else a checkpoint's own settings leak in
        "disable_log_stats": True,  # as in vllm.LLM; what is counted here needs no log
        "worker_extension_cls": WITNESS,
        "compilation_config": _compilation(options),
        **given,
    }


def _is_given(value: object) -> bool:
    """Return whether an option says something: 0, "" and "default" leave the choice to vLLM."""
    return isinstance(value, bool) or value not in ("default", "", 0)


def _weights_format(job: Job) -> str:
    return "auto" if job.protocol.allow_pickle else "safetensors"


def _compilation(options: Mapping[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if _is_given(options["compilation_mode"]):
        chosen["mode"] = CompilationMode[options["compilation_mode"]].value
    if _is_given(options["cudagraph_mode"]):
        chosen["cudagraph_mode"] = options["cudagraph_mode"]
    if sizes := options["cudagraph_capture_sizes"]:
        chosen["cudagraph_capture_sizes"] = _sizes(sizes)
    return chosen


def _sizes(text: str) -> list[int]:
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise Unsupported(
            f"cudagraph_capture_sizes={text!r} is no list of batch sizes such as '1,2,4'."
        ) from None


def refuse_impossible(job: Job, config: Any, options: Mapping[str, Any]) -> None:
    """Refuse a device that this vLLM is not built for, and an architecture that it does not have.

    Raises:
        Unsupported: the text says what the installed version knows of one that can.
        LoadFailed: the weights have not the form asked for.

    """
    cell = job.cells[0]
    built_for = "cuda" if current_platform.is_cuda_alike() else current_platform.device_type
    if built_for != cell.device:
        other = "vllm-cpu" if cell.device == "cpu" else "vllm"
        raise Unsupported(
            f"the vLLM installed here ({vllm.__version__}) runs on {built_for}, not on {cell.device};"
            f" the package {other} does."
        )
    if options["model_impl"] != "transformers":
        _refuse_architecture(config)
    if cell.load_format != "dummy" and job.model.source == "folder":
        _refuse_without_weights(Path(str(job.model.location)))


def _refuse_architecture(config: Any) -> None:
    """Refuse what the registry of this vLLM does not have, with the version that it says had it."""
    named = config.architectures or [config.model_type]
    if set(named) & set(registry.ModelRegistry.get_supported_archs()):
        return
    earlier = getattr(registry, "_PREVIOUSLY_SUPPORTED_MODELS", {})
    plugins = getattr(registry, "_OOT_SUPPORTED_MODELS", {})
    for name in named:
        if name in earlier:
            raise Unsupported(
                f"vLLM {vllm.__version__} does not run {name}; {earlier[name]} was the last that did."
            )
        if name in plugins:
            raise Unsupported(
                f"vLLM {vllm.__version__} runs {name} by a plugin only: {plugins[name]}"
            )
    if config.is_encoder_decoder:
        raise Unsupported(
            f"vLLM {vllm.__version__} does not run {', '.join(named)}, an encoder-decoder, and knows of no"
            " version that did; the transformers backend runs it."
        )


def _refuse_without_weights(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise LoadFailed(f"{folder} holds no weights; --load-format dummy needs none.")


def refuse_too_large(cell: Cell, config: Any) -> None:
    """Refuse a batch that this engine would queue or preempt: what is timed then is the scheduler.

    `config` is the engine's whole configuration, once it has started.

    Raises:
        Unsupported: the text names the option that makes room.

    """
    tokens, scheduler, cache = (
        cell.input_len + cell.output_len,
        config.scheduler_config,
        config.cache_config,
    )
    if tokens > config.model_config.max_model_len:
        raise Unsupported(
            f"{tokens} tokens exceed the engine's max_model_len of {config.model_config.max_model_len}."
        )
    if cell.batch_size > scheduler.max_num_seqs:
        raise Unsupported(
            f"vLLM runs {scheduler.max_num_seqs} sequences at once and would queue the rest of"
            f" {cell.batch_size}; the option max_num_seqs raises it."
        )
    block, room = cache.block_size, (cache.kv_cache_size_tokens or 0) - cache.block_size
    need = cell.batch_size * -(-tokens // block) * block
    if cache.kv_cache_size_tokens and need > room:
        raise Unsupported(
            f"the batch needs room for {need:,} tokens in blocks of {block}, and the engine's cache holds"
            f" {room:,}; gpu_memory_utilization or kv_cache_memory_bytes makes more."
        )
