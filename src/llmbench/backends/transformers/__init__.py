"""Hugging Face transformers: any language model of the library, with or without an encoder, on one or several devices.

It times what users run, the library's own modules and caches: prefill and each decode step separately, without
adding a synchronisation per token. Seen with transformers 5.17 to 5.24 and torch 2.11 to 2.13.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import accelerate
import torch
import transformers
import transformers.modeling_utils
import transformers.models.auto.modeling_auto  # both: 2 s that the fork server spends once, not every worker

from llmbench.backends import memory as backends_memory
from llmbench.backends import reference_model, vocabulary
from llmbench.backends.host_peak import HostPeak, whole_life_peak_bytes
from llmbench.backends.kernel_cache import KernelCache
from llmbench.backends.transformers import lora, weights
from llmbench.backends.transformers import speculation as drafts
from llmbench.backends.transformers.clocks import clock_for
from llmbench.backends.transformers.loops import LOOPS
from llmbench.errors import LoadFailed, Unsupported
from llmbench.machine import nvidia
from llmbench.models import formulas, resolve
from llmbench.results.record import Memory
from llmbench.spec import speculation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.results.record import Job
    from llmbench.spec.sweep import Cell

OPTIONS = {
    "attn_implementation": ("default", "sdpa", "eager", "flash_attention_2", "flex_attention"),
    "cache": ("dynamic", "static"),
    "compile": (False, True),
    "loop": ("forward", "generate"),
    "threads": 0,
    "device_map": (
        "none",
        "auto",
        "balanced",
        "balanced_low_0",
        "sequential",
        "cpu_offload",
        "disk_offload",
    ),
    "speculative": ("none", "ngram", "draft"),
    "speculative_tokens": 5,
    "ngram_max": 2,
    "draft_model": "",
    "speculative_anyway": (False, True),
    "lora": "",
    "lora_merged": (False, True),
    "quantization": ("none", "bnb-nf4", "bnb-int8", "torchao-int8", "torchao-int4"),
    "revision": "",
}
PACKAGES = {
    "bnb": "bitsandbytes",
    "torchao": "torchao",
    "ct": "compressed_tensors",
    "awq": "gptqmodel",
    "gptq": "gptqmodel",
}
MEANINGS = {
    "attn_implementation": "attention kernel; default leaves the choice to transformers, and a record has it",
    "cache": "keys and values that grow with each token, or of a fixed size",
    "compile": "compile the decode steps, as generate() does; needs the static cache",
    "loop": "llmbench's own loop over the forward pass, or transformers' generate()",
    "threads": "of CPU operators; 0 leaves the choice to torch",
    "device_map": "place one model over several GPUs, or keep a part on the CPU or on disk",
    "speculative": "draft tokens that the model only has to check: looked up in the text, or by a smaller model",
    "speculative_tokens": "tokens in a draft",
    "ngram_max": "most tokens that are looked up in the text so far",
    "draft_model": "folder of the smaller model",
    "speculative_anyway": "speculate on random prompts or weights, whose acceptance means nothing",
    "lora": "folder of a LoRA adapter that peft wrote",
    "lora_merged": "add the adapter to the weights before anything is timed",
    "quantization": "quantise the linear layers while loading; none: as the checkpoint has them",
    "revision": "branch, tag or commit of a hub repository",
}


def load(job: Job) -> TransformersEngine:
    """Load the job's model and return an engine that is ready to generate.

    Raises:
        LoadFailed: the weights cannot be loaded; the message says why and which flag would allow it.
        Unsupported: this backend does not support the model, device or combination of options.

    """
    return TransformersEngine(job)


class TransformersEngine:
    """One loaded model, its loop and its clock."""

    def __init__(self, job: Job) -> None:
        self._cell = cell = job.cells[0]
        self._counts = resolve.counts_of(job.model)
        options = {**_defaults(), **cell.options}
        transformers.utils.logging.disable_progress_bar()  # its monitor thread would wake up while measuring
        _refuse_impossible(cell, options)
        self._speculates = speculation.used(options)
        if options["threads"]:
            torch.set_num_threads(options["threads"])
        self._used_before = backends_memory.device_used_by_uuid() if cell.device == "cuda" else {}
        self._device = _device(cell)
        # Any query creates a context on a device; devices that are not used are not queried.
        self._devices = [self._device] if options["device_map"] == "none" else _cuda_devices()
        peak = HostPeak()
        loaded = weights.load(job, options, self._device)
        adapted = lora.put_on(loaded.model, options)
        self._model, adapter_facts, self._adapter_bytes = adapted
        self._load_peak_bytes = peak.of_phase_bytes()
        self._tokenizer = loaded.tokenizer
        self._draft_bytes: int | None = None
        self.vocab_size = loaded.vocab_size
        self.special_ids = loaded.special_ids
        self._clock = clock_for(self._device)
        self._encodes = bool(self._model.config.is_encoder_decoder)
        self._loop = self._made_loop(options)
        # Compiled code runs under no_grad, as in generate(): CUDA graphs mark tensors that inference mode does not
        # allow to be modified from outside.
        self._without_gradients = torch.no_grad if options["compile"] else torch.inference_mode
        self._compiled = options["compile"]
        self._kernels = KernelCache() if self._compiled else None
        if self._compiled:
            # Otherwise a step that is recompiled too often would silently run uncompiled.
            torch._dynamo.config.fail_on_recompile_limit_hit = True  # noqa: SLF001 - has no public name
        self.facts = {
            **loaded.facts,
            **adapter_facts,
            **_surroundings(self._device),
            **(self._kernels.facts() if self._kernels else {}),
        }

    def _made_loop(self, options: Mapping[str, Any]) -> Any:
        """Return the loop that the options name; a speculating one has the draft model, and its bytes are a fact."""
        parts = (self._model, self._clock, self._device, options)
        if not self._speculates:
            return LOOPS[options["loop"], self._encodes](*parts)
        if self._encodes:
            raise Unsupported(
                "speculative decoding is only supported for models without an encoder."
            )
        draft = drafts.draft_model(options, self._model.dtype, self._device)
        self._draft_bytes = drafts.draft_bytes(draft)
        return drafts.SpeculativeLoop(*parts, draft)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without special ids."""
        return vocabulary.tokenize(self._tokenizer, text)

    def prepare(self, cell: Cell) -> None:
        """Allocate what must not be created during a timed call of this shape."""
        self._clock.reserve(cell.output_len)
        with self._without_gradients():
            self._loop.prepare(cell.batch_size, cell.input_len, cell.output_len)

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[list[int]]:
        """Return `output_len` new ids for each prompt, [batch_size][output_len], on the host."""
        self._clock.start()
        with self._without_gradients():
            ids = torch.tensor(prompts, dtype=torch.long, device=self._device)
            tokens, _ = self._loop.run(ids, output_len)
            new: list[list[int]] = tokens.tolist()
        return new

    def speak(
        self, prompts: Sequence[Sequence[int]], output_len: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return greedy new ids, and the log-probability of each, computed in one pass over all of them."""
        if self._encodes:
            raise Unsupported("the parity check only supports models without an encoder.")
        new = self.generate(prompts, output_len)
        whole = [[*prompt, *tokens] for prompt, tokens in zip(prompts, new, strict=True)]
        own, _ = reference_model.of_tokens(self._model, whole, len(prompts[0]))
        return new, own

    def below_likeliest(
        self, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return how far each token's log-probability is below the largest at its place, without speculation."""
        whole = [[*prompt, *new] for prompt, new in zip(prompts, tokens, strict=True)]
        own, largest = reference_model.of_tokens(self._model, whole, len(prompts[0]))
        return [
            [most - mine for mine, most in zip(*rows, strict=True)]
            for rows in zip(own, largest, strict=True)
        ]

    def token_ns(self) -> list[list[int]]:
        """Return one row, because the whole batch advances in lock-step."""
        return [self._clock.offsets_ns()]

    def counters(self) -> Mapping[str, int]:
        """Return how many graphs were compiled, if compiling was requested; none may be while timing.

        On a GPU also how often a CUDA graph was left out, or recorded again. Or, of speculation, what was accepted.
        """
        if self._speculates:
            return self._loop.counters()  # type: ignore[no-any-return]
        if not self._compiled:
            return {}
        counted = torch._dynamo.utils.counters  # noqa: SLF001 - has no public name
        return {
            "compiled_graphs": int(counted["stats"]["unique_graphs"]),
            **(_cuda_graphs(counted) if self._device.type == "cuda" else {}),
        }

    def _compilation(self) -> dict[str, int]:
        """Return into how many graphs compiling split the step: one graph means no breaks."""
        if not self._compiled:
            return {}
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())  # noqa: SLF001
        return {**self.counters(), "graph_breaks": breaks}

    def synchronize(self) -> None:
        """Wait for the CUDA devices in use; a CPU's work is done when its calls return."""
        if self._device.type == "cuda":
            for device in self._devices:
                torch.cuda.synchronize(device)

    def close(self) -> None:
        """End the processes that compiled Triton's kernels, which would outlive their parent for a moment."""
        if compiling := sys.modules.get("torch._inductor.async_compile"):
            compiling.shutdown_compile_workers()
        if self._kernels:
            self._kernels.close()

    def memory(self, prompts: Sequence[Sequence[int]], output_len: int) -> Memory:
        """Run one untimed iteration and return its memory use in bytes."""
        on_cuda = self._device.type == "cuda"
        if on_cuda:
            self.facts["context_in_device_used"] = backends_memory.counts_context()
            self.synchronize()
            torch.cuda.empty_cache()  # memory reserved by earlier cells does not count for this one
            for device in self._devices:
                torch.cuda.reset_peak_memory_stats(device)
        peak = HostPeak()
        self._clock.start()
        with self._without_gradients():
            ids = torch.tensor(prompts, dtype=torch.long, device=self._device)
            _, cache = self._loop.run(ids, output_len)
        self.synchronize()
        self.facts.update(self._compilation())
        held = self._cache_held(cache, prompts, output_len)
        host = self._host_peaks(peak.of_phase_bytes())
        return Memory(
            weights_bytes=self.facts["weights_bytes"],
            draft_bytes=self._draft_bytes,
            adapter_bytes=self._adapter_bytes,
            **held,
            **host,
            **(self._device_memory() if on_cuda else {}),
        )

    def _cache_held(
        self, cache: Any, prompts: Sequence[Sequence[int]], output_len: int
    ) -> dict[str, int | None]:
        """Return the cache's actual and computed bytes.

        The last new token is never fed and therefore not cached; a static cache has room for it. With an encoder, the
        decoder's cache holds the start token and the new tokens.
        """
        sequences, input_len = len(prompts), len(prompts[0])
        own, encoded = (1, input_len) if self._encodes else (input_len, 0)
        new = output_len - (self._cell.options.get("cache") != "static")
        needed = None
        if self._counts:
            held = (self._cell.dtype, own + new, encoded)
            needed = sequences * formulas.held_kv_bytes(self._counts, *held)
        return {
            "kv_cache_bytes": backends_memory.cache_bytes(cache),
            "kv_cache_theoretical_bytes": needed,
        }

    def _host_peaks(self, generate_bytes: int | None) -> dict[str, int | None]:
        """Return the peaks of both phases; if the mark cannot be reset, only the peak of the process's whole life."""
        load_bytes = self._load_peak_bytes
        if load_bytes is None or generate_bytes is None:
            return {"host_peak_rss_bytes": whole_life_peak_bytes()}
        return {
            "host_peak_rss_bytes": max(load_bytes, generate_bytes),
            "host_peak_rss_load_bytes": load_bytes,
            "host_peak_rss_generate_bytes": generate_bytes,
        }

    def _device_memory(self) -> dict[str, int | None]:
        """Return the allocator's peaks and the driver's figures, summed over devices."""
        devices = self._devices
        now = backends_memory.device_used_by_uuid()
        uuids = [backends_memory.uuid_of(device) for device in devices]
        known = all(uuid in now and uuid in self._used_before for uuid in uuids)
        return {
            "peak_allocated_bytes": sum(map(torch.cuda.max_memory_allocated, devices)),
            "peak_reserved_bytes": sum(map(torch.cuda.max_memory_reserved, devices)),
            "device_used_bytes": sum(now[uuid] - self._used_before[uuid] for uuid in uuids)
            if known
            else None,
            "process_used_bytes": backends_memory.process_used_bytes(),
        }


def _cuda_graphs(counted: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return how often a compiled step ran without a CUDA graph, and how often one was recorded again.

    inductor gives up in silence; torch counts the first, and keeps the second with its graphs.
    """
    trees = sys.modules.get("torch._inductor.cudagraph_trees")
    manager = trees and trees.get_manager(torch.cuda.current_device(), create_if_none_exists=False)
    again = manager.num_rerecord.values() if manager else ()
    return {
        "cudagraph_skips": int(counted["inductor"]["cudagraph_skips"]),
        "cudagraph_rerecordings": sum(sum(each.values()) for each in again),
    }


def _defaults() -> dict[str, Any]:
    return {
        name: value[0] if isinstance(value, tuple) else value for name, value in OPTIONS.items()
    }


def _device(cell: Cell) -> torch.device:
    """Return the device that embeds the prompts and produces the tokens."""
    if cell.device == "cpu":
        return torch.device("cpu")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        raise LoadFailed(
            f"device {cell.device} was asked for, but torch {torch.__version__} sees no CUDA device"
            f"{_why_no_cuda([str(each.message) for each in said])}; use --device cpu."
        )
    return torch.device("cuda", torch.cuda.current_device())


def _why_no_cuda(said: Sequence[str]) -> str:
    """Return, in brackets, what torch and the driver say about it: torch warns, and then only says no."""
    if torch.version.cuda is None and torch.version.hip is None:
        return " (it is built without CUDA)"
    driver = torch.version.cuda and nvidia.cuda_version()
    versions = (
        f"it is built for CUDA {torch.version.cuda}, the driver is for {driver}" if driver else ""
    )
    reasons = [*(" ".join(each.split()) for each in said), versions]
    return f" ({'; '.join(filter(None, reasons))})" if any(reasons) else ""


def _cuda_devices() -> list[torch.device]:
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def _refuse_impossible(cell: Cell, options: Mapping[str, Any]) -> None:
    """Refuse options that would be silently ignored."""
    if options["compile"] and options["cache"] != "static":
        raise Unsupported(
            "compile=True needs cache=static, because a growing cache would be recompiled at every length."
        )
    if options["compile"] and options["loop"] == "generate" and cell.device == "cpu":
        raise Unsupported(
            "generate() only compiles on a GPU; use loop=forward to compile on a CPU."
        )
    if options["device_map"] not in {"none", "disk_offload"} and cell.device == "cpu":
        raise Unsupported(
            f"device_map={options['device_map']} places a model over CUDA devices; "
            "on cpu only none and disk_offload work."
        )


def _surroundings(device: torch.device) -> dict[str, Any]:
    """Return other facts that decide the speed: versions, threads, the device's name."""
    on_cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "device_name": torch.cuda.get_device_name(device) if on_cuda else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
