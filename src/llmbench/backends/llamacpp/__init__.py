"""llama.cpp: the library in the worker's own process, whose decoding llmbench steps itself, from GGUF files.

Each sequence of a batch is one of the library's own sequences; the likeliest token is chosen on the host. Seen with
llama-cpp-python 0.3.36 on CPUs.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
import tokenizers

from llmbench.backends.host_peak import HostPeak, whole_life_peak_bytes
from llmbench.backends.llamacpp import library, model_file
from llmbench.errors import LoadFailed, Unsupported
from llmbench.models import formulas, gguf, resolve
from llmbench.results.record import Memory
from llmbench.spec.grid import QUANTIZATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.models.resolve import Model
    from llmbench.results.record import Job
    from llmbench.spec.sweep import Cell

# Names are llama.cpp's own where it has one, and so are the defaults, except for the type of keys and values.
OPTIONS = {
    "quantization": (
        "none", "q8_0", "q6_k", "q5_k_m", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "q4_1", "iq4_nl", "q3_k_m", "q2_k",
    ),
    "threads": 0,
    "flash_attn": ("auto", "on", "off"),
    "gpu_layers": -1,
    "cache_type": ("dtype", "f32", "f16", "bf16", "q8_0", "q4_0"),
    "n_batch": 2048,
    "n_ubatch": 512,
    "mmap": (True, False),
    "repack": (True, False),
}  # fmt: skip
MEANINGS = {
    "quantization": "types of the matrices, by llama.cpp's own quantiser; none: as the file or the dtype has them",
    "threads": "of CPU operators; 0: one for each core that this process may use",
    "flash_attn": "attention without its matrix of scores; auto: off in float32, which it would round to 16 bits on a "
    "CPU, else llama.cpp's choice",
    "gpu_layers": "layers that a GPU holds; -1: all",
    "cache_type": "type of keys and values; dtype: the cell's",
    "n_batch": "most tokens in one call",
    "n_ubatch": "most tokens that are computed together",
    "mmap": "map the file into memory instead of reading it",
    "repack": "reorder weights for the CPU's instructions while loading, which copies them",
}
MIXES_LENGTHS = True
TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
"""ggml's numbers of the types that keys and values may have."""
OF_DTYPE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
FLASH = {"auto": -1, "on": 1, "off": 0}
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def load(job: Job) -> LlamaCppEngine:
    """Load the job's model, after making its GGUF file if there is none, and return it ready to generate.

    Raises:
        LoadFailed: the file cannot be made or read; the message says why.
        Unsupported: llama.cpp, as it is installed, does not run this; the message says what does.

    """
    return LlamaCppEngine(job)


class LlamaCppEngine:
    """One loaded file, and the context of the shape that was prepared last."""

    def __init__(self, job: Job) -> None:
        self._cell = cell = job.cells[0]
        self._options = options = {**_defaults(), **cell.options}
        _refuse_device(cell)
        self._model_facts, self._counts = job.model, resolve.counts_of(job.model)
        made = model_file.of(job, str(options[QUANTIZATION]))
        self.made_s = made.made_s or 0.0
        header = gguf.read(made.path)
        _refuse_other_types(cell, header, made.path)
        peak = HostPeak()
        layers = 0 if cell.device == "cpu" else int(options["gpu_layers"])
        self._model = library.LoadedFile(made.path, layers, options["mmap"], options["repack"])
        self._load_peak_bytes = peak.of_phase_bytes()
        self._context: library.Context | None = None
        self._words = _words(job.model, self._model)
        self.vocab_size = self._model.vocabulary_size
        self.special_ids = self._words.special_ids
        self._threads = int(options["threads"]) or len(os.sched_getaffinity(0))
        self._times: list[int] = []
        self._unaccounted = 0
        self.facts = {
            **self._model.facts(cell.device),
            **_types(header, cell.dtype),
            "threads": self._threads,
            **({} if made.made_s is None else {"gguf_made_s": round(made.made_s, 3)}),
        }

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without special ids."""
        return self._words.tokenize(text)

    def prepare(self, cell: Cell) -> None:
        """Make a context with room for exactly this shape, and fill it once."""
        window = self._model_facts.config.get("sliding_window")
        tokens = cell.input_len + cell.output_len
        if window and self._model_facts.config.get("use_sliding_window", True) and tokens > window:
            raise Unsupported(
                f"llama.cpp ignores the sliding window of {cell.model}: {window} tokens, and {tokens} were asked for."
            )
        if self._context:
            self._context.close()
        kind = str(self._options["cache_type"])
        kind = OF_DTYPE[cell.dtype] if kind == "dtype" else kind
        flash = str(self._options["flash_attn"])
        flash = "off" if (flash, cell.dtype, cell.device) == ("auto", "float32", "cpu") else flash
        self._context = library.Context(
            self._model,
            sequences=cell.batch_size,
            tokens=tokens,
            threads=self._threads,
            cache_type=TYPES[kind],
            flash_attn=FLASH[flash],
            batch=(int(self._options["n_batch"]), int(self._options["n_ubatch"])),
        )
        self.facts |= {**self._context.facts(), "kv_cache_dtype": kind, "flash_attn_asked": flash}

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[list[int]]:
        """Return `output_len` new ids for each prompt, [batch_size][output_len], on the host."""
        return [ids.tolist() for ids in np.stack(self._run(prompts, output_len)[0], axis=1)]

    def _run(
        self, prompts: Sequence[Sequence[int]], output_len: int, *, score: bool = False
    ) -> tuple[list[Any], list[Any]]:
        """Return the new ids of each step, [output_len][batch_size], and with `score` their log-probabilities."""
        start, self._times = time.monotonic_ns(), []
        context = self._context
        assert context is not None, "prepare() makes the context"
        context.clear()
        ids, own = [context.read(prompts)], []
        self._times.append(time.monotonic_ns() - start)
        for step in range(output_len):
            if score:
                own.append(context.log_probabilities(ids[-1]))
            if step < output_len - 1:
                ids.append(context.step(ids[-1]))
                self._times.append(time.monotonic_ns() - start)
        self._unaccounted += context.unaccounted()
        return ids, own

    def speak(
        self, prompts: Sequence[Sequence[int]], output_len: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return greedy new ids, and the log-probability that the engine gave each when choosing it."""
        ids, own = self._run(prompts, output_len, score=True)
        return np.stack(ids, axis=1).tolist(), np.stack(own, axis=1).tolist()

    def token_ns(self) -> list[list[int]]:
        """Return one row, because the whole batch advances in lock-step."""
        return [self._times]

    def counters(self) -> Mapping[str, int]:
        """Return how many tokens llama.cpp did not count as computed although they were given; there must be none."""
        return {"not_computed_hits": self._unaccounted}

    def synchronize(self) -> None:
        """Wait for the device."""
        if self._context:
            self._context.synchronize()

    def memory(self, prompts: Sequence[Sequence[int]], output_len: int) -> Memory:
        """Run one untimed iteration and return its memory use in bytes, of which llama.cpp names two."""
        peak = HostPeak()
        self._run(prompts, output_len)
        run_bytes, load_bytes = peak.of_phase_bytes(), self._load_peak_bytes
        assert self._context is not None, "prepare() makes the context"
        whole = (
            whole_life_peak_bytes()
            if run_bytes is None or load_bytes is None
            else max(run_bytes, load_bytes)
        )
        return Memory(
            weights_bytes=self.facts["weights_bytes"],
            kv_cache_bytes=self._context.cache_bytes,
            kv_cache_theoretical_bytes=self._cache_needed(
                [len(prompt) + output_len - 1 for prompt in prompts]
            ),
            host_peak_rss_bytes=whole,
            host_peak_rss_load_bytes=load_bytes,
            host_peak_rss_generate_bytes=run_bytes,
        )

    def _cache_needed(self, tokens: Sequence[int]) -> int | None:
        """Return the bytes of keys and values of sequences of these lengths; None if their type is quantised."""
        kinds = {short: dtype for dtype, short in OF_DTYPE.items()}
        dtype = kinds.get(str(self.facts["kv_cache_dtype"]))
        if dtype is None or self._counts is None:
            return None
        return sum(formulas.kv_bytes(self._counts, dtype, each) for each in tokens)

    def close(self) -> None:
        """Free what the library holds."""
        if self._context:
            self._context.close()
        self._model.close()


def _defaults() -> dict[str, Any]:
    return {
        name: value[0] if isinstance(value, tuple) else value for name, value in OPTIONS.items()
    }


def _refuse_device(cell: Cell) -> None:
    if cell.device != "cpu" and not llama_cpp.llama_supports_gpu_offload():
        raise Unsupported(
            f"the llama.cpp installed here computes on the CPU alone, not on {cell.device}; build llama-cpp-python "
            "with CMAKE_ARGS=-DGGML_CUDA=on."
        )


def _refuse_other_types(cell: Cell, header: gguf.Header, path: Path) -> None:
    """Refuse a cell whose dtype is not the file's."""
    stored = gguf.PLAIN.get(header.type_of_weights())
    if stored and stored != cell.dtype:
        raise Unsupported(f"{path.name} holds {stored}, not {cell.dtype}; ask for dtype: {stored}.")


def _types(header: gguf.Header, dtype: str) -> dict[str, Any]:
    """Return the types that a file really holds; vectors are always in float32 and are not counted as weights."""
    counted: dict[str, int] = {}
    for _, kind in header.tensors.values():
        counted[kind] = counted.get(kind, 0) + 1
    plain = header.type_of_weights() in gguf.PLAIN
    mixture = gguf.config_of(header).get("quantization_config", {}).get("quant_algo")
    return {
        "tensor_types": ", ".join(f"{count} x {kind}" for kind, count in sorted(counted.items())),
        "param_dtypes": dtype if plain else header.type_of_weights().lower(),
        **({} if plain else {"quantization": mixture}),
    }


class _FolderWords:
    """The tokenizer of a checkpoint's folder, which its GGUF file does not have."""

    def __init__(self, model: Model) -> None:
        self._path = Path(str(model.location)) / "tokenizer.json"
        self._name = model.name
        there = model.source == "folder" and self._path.is_file()
        self._words = tokenizers.Tokenizer.from_file(str(self._path)) if there else None
        known = {model.config.get(name) for name in SPECIAL}
        if there:
            added = json.loads(self._path.read_text(encoding="utf-8")).get("added_tokens", [])
            known |= {each["id"] for each in added if each.get("special")}
        self.special_ids = frozenset(each for each in known if isinstance(each, int) and each >= 0)

    def tokenize(self, text: str) -> list[int]:
        if self._words is None:
            raise LoadFailed(f"{self._name} has no tokenizer.json, which text prompts need.")
        ids: list[int] = self._words.encode(text, add_special_tokens=False).ids
        return ids


def _words(model: Model, loaded: library.LoadedFile) -> _FolderWords | library.LoadedFile:
    """Return what tokenizes: the file's own vocabulary, or the folder that it was made from."""
    return loaded if loaded.has_vocabulary else _FolderWords(model)
