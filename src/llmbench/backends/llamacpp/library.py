"""llama.cpp's own functions as two objects: a loaded file, and a context that computes sequences of one shape.

What the library says only in its log (sizes of buffers, whether attention is fused) is read from there.
"""

from __future__ import annotations

import ctypes
import re
from itertools import chain
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from llmbench.errors import LoadFailed, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MIB = 2**20
BUFFER = re.compile(r"(\S+)\s+(model|KV|compute) buffer size =\s+([\d.]+) MiB")
ON_GPU = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
FLASH = re.compile(r"Flash Attention (enabled|disabled)")
ERROR = 4
"""The log's level of errors."""
NO_VOCABULARY = 0
MAPPED, READ = 1, 0
"""How a file is loaded."""

_lines: list[str] = []
_errors: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _: object) -> None:
    line = text.decode(errors="replace").rstrip()
    _lines.append(line)
    if level == ERROR and line.strip():
        _errors.append(line.strip())


def listen() -> None:
    """Keep the library's log from now on, without what it said before."""
    _lines.clear()
    _errors.clear()
    llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))


def last_error() -> str:
    """Return the first line that the library logged as an error; later ones only say that it gave up."""
    return _errors[0] if _errors else "it does not say why"


def buffers(kind: str) -> dict[str, int]:
    """Return the bytes of the buffers of a kind (model, KV, compute) by their place, as the library logged them."""
    found: dict[str, int] = {}
    for place, what, size in BUFFER.findall("\n".join(_lines)):
        if what == kind:
            found[place] = found.get(place, 0) + round(float(size) * MIB)
    return found


class LoadedFile:
    """A loaded file."""

    def __init__(self, path: Path, gpu_layers: int, mmap: bool, repack: bool) -> None:  # noqa: FBT001
        listen()
        llama_cpp.llama_backend_init()
        wanted = llama_cpp.llama_model_default_params()
        wanted.n_gpu_layers = gpu_layers
        wanted.load_mode = MAPPED if mmap else READ
        wanted.use_extra_bufts = repack
        self.handle = llama_cpp.llama_model_load_from_file(str(path).encode(), wanted)
        if not self.handle:
            raise LoadFailed(f"{path.name}: llama.cpp cannot load it: {last_error()}")
        if llama_cpp.llama_model_has_encoder(self.handle):
            raise Unsupported(f"{path.name} has an encoder, which this backend does not run.")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self.handle)
        self.vocabulary_size = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        self.has_vocabulary = llama_cpp.llama_vocab_type(self._vocabulary) != NO_VOCABULARY
        self.special_ids = self._special() if self.has_vocabulary else frozenset()
        self._buffers = buffers("model")
        self._offloaded = ON_GPU.search("\n".join(_lines))

    def _special(self) -> frozenset[int]:
        control, end = llama_cpp.llama_vocab_is_control, llama_cpp.llama_vocab_is_eog
        own = self._vocabulary
        return frozenset(
            id_ for id_ in range(self.vocabulary_size) if control(own, id_) or end(own, id_)
        )

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text by the file's own vocabulary, without special ids."""
        data = text.encode()
        room = len(data) + 2
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), ids, room, False, False)
        if count < 0:
            raise LoadFailed("llama.cpp could not tokenize the text of the prompts.")
        return list(ids[:count])

    def facts(self, device: str) -> dict[str, Any]:
        """Return what the library says about the file and itself."""
        described = ctypes.create_string_buffer(128)
        llama_cpp.llama_model_desc(self.handle, described, len(described))
        on_gpu = self._offloaded and int(self._offloaded[1])
        places = {"cpu"} if device == "cpu" or not on_gpu else {f"{device}:0"}
        if self._offloaded and 0 < int(self._offloaded[1]) < int(self._offloaded[2]):
            places.add("cpu")
        return {
            "engine": f"llama.cpp {llama_cpp.llama_version().decode()}, llama-cpp-python {llama_cpp.__version__}",
            "system_info": llama_cpp.llama_print_system_info().decode().strip(),
            "model_class": described.value.decode(),
            "parameters": int(llama_cpp.llama_model_n_params(self.handle)),
            "weights_bytes": int(llama_cpp.llama_model_size(self.handle)),
            "param_devices": ", ".join(sorted(places)),
            "model_buffers": _said(self._buffers),
        }

    def close(self) -> None:
        """Free the weights."""
        llama_cpp.llama_model_free(self.handle)


class Context:
    """The keys and values of several sequences, all of one length, and the buffers to compute them with."""

    def __init__(
        self,
        model: LoadedFile,
        *,
        sequences: int,
        tokens: int,
        threads: int,
        cache_type: int,
        flash_attn: int,
        batch: tuple[int, int],
    ) -> None:
        if sequences > (most := int(llama_cpp.llama_max_parallel_sequences())):
            raise Unsupported(f"llama.cpp runs {most} sequences at once, not {sequences}.")
        listen()
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx, wanted.n_seq_max = sequences * _in_blocks(tokens), sequences
        wanted.n_batch, wanted.n_ubatch = max(batch[0], sequences), batch[1]
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.type_k = wanted.type_v = cache_type
        wanted.flash_attn_type = flash_attn
        wanted.no_perf = False
        self.handle = llama_cpp.llama_init_from_model(model.handle, wanted)
        if not self.handle:
            why = last_error()
            if "alloc" in why:
                raise MemoryError(why)
            raise Unsupported(f"llama.cpp makes no such context: {why}")
        self._model, self._sequences, self._tokens = model, sequences, tokens
        self._n_batch = int(llama_cpp.llama_n_batch(self.handle))
        self._memory = llama_cpp.llama_get_memory(self.handle)
        self.cache_bytes = sum(buffers("KV").values()) or None
        self._scores_at = (0, 0)
        self._logits: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._step = Batch(
            np.zeros(sequences, np.int32), np.zeros(sequences, np.int32), np.arange(sequences)
        )
        self._step.logits[:] = 1
        self._one_each = self._step.part(slice(0, sequences))
        self._prompt_tokens = self._steps = 0

    def facts(self) -> dict[str, Any]:
        """Return what the library says about the context."""
        chosen = FLASH.search("\n".join(_lines))
        return {
            "flash_attn": chosen[1] if chosen else "as asked",
            "compute_buffers": _said(buffers("compute")),
            "kv_buffers": _said(buffers("KV")),
            "kv_capacity_tokens": int(llama_cpp.llama_n_ctx(self.handle)),
            "n_batch": self._n_batch,
            "n_ubatch": int(llama_cpp.llama_n_ubatch(self.handle)),
        }

    def clear(self) -> None:
        """Forget all sequences and what was counted."""
        llama_cpp.llama_memory_clear(self._memory, False)
        llama_cpp.llama_perf_context_reset(self.handle)
        self._prompt_tokens = self._steps = 0

    def read(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Compute whole prompts and return the likeliest next id of each, [sequences]."""
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int32)
        total = int(lengths.sum())
        batch = Batch(
            np.fromiter(chain.from_iterable(prompts), np.int32, total),
            np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
            np.repeat(np.arange(len(lengths)), lengths),
        )
        batch.logits[lengths.cumsum() - 1] = 1
        found = []
        for first in range(0, total, self._n_batch):
            part = slice(first, min(first + self._n_batch, total))
            self._decode(batch.part(part))
            if ends := int(batch.logits[part].sum()):
                found.append(self._likeliest(ends))
        self._prompt_tokens = total
        self._step.positions[:] = lengths
        return np.concatenate(found)

    def step(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Compute one token of each sequence and return the likeliest next ids, [sequences]."""
        self._step.tokens[:] = ids
        self._decode(self._one_each)
        self._step.positions += 1
        self._steps += 1
        return self._likeliest(self._sequences)

    def _decode(self, batch: Any) -> None:
        code = llama_cpp.llama_decode(self.handle, batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}: {last_error()}")

    def _likeliest(self, rows: int) -> NDArray[np.int64]:
        """Wait for the scores of the last call, which remain readable until the next, and choose from them."""
        scores = llama_cpp.llama_get_logits(self.handle)
        address = ctypes.addressof(scores.contents)
        if (address, rows) != self._scores_at:  # a view takes longer to make than to use
            self._logits = np.ctypeslib.as_array(scores, (rows, self._model.vocabulary_size))
            self._scores_at = address, rows
        likeliest: NDArray[np.int64] = self._logits.argmax(axis=1)
        return likeliest

    def log_probabilities(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the natural log-probabilities of ids by the last scores, [sequences]."""
        scores = self._logits.astype(np.float64)
        if len(scores) != len(ids):
            raise Unsupported(
                "log-probabilities need prompts that fit into one call; raise n_batch."
            )
        most = scores.max(axis=1)
        total = most + np.log(np.exp(scores - most[:, None]).sum(axis=1))
        own: NDArray[np.float64] = scores[np.arange(len(ids)), ids] - total
        return own

    def unaccounted(self) -> int:
        """Return how many tokens were given since `clear` that the library's own counters do not have."""
        counted = llama_cpp.llama_perf_context(self.handle)
        alone = self._sequences == 1
        prompt, single = self._prompt_tokens, self._steps if alone else 0
        if prompt == 1:
            prompt, single = 0, single + 1
        several = prompt + (0 if alone else self._steps * self._sequences)
        # The library gives at least 1 for each count.
        given = max(1, several) + max(1, single)
        return given - int(counted.n_p_eval) - int(counted.n_eval)

    def synchronize(self) -> None:
        """Wait until everything is computed."""
        llama_cpp.llama_synchronize(self.handle)

    def close(self) -> None:
        """Free the context."""
        llama_cpp.llama_free(self.handle)


class Batch:
    """Tokens with their positions and sequences, in arrays that the library reads in place."""

    def __init__(
        self, tokens: NDArray[np.int32], positions: NDArray[np.int32], sequences: NDArray[Any]
    ) -> None:
        self.tokens, self.positions = np.ascontiguousarray(tokens), np.ascontiguousarray(positions)
        self._sequences = np.ascontiguousarray(sequences, dtype=np.int32)
        self._ones = np.ones(len(self.tokens), np.int32)
        step = self._sequences.itemsize
        self._pointers = self._sequences.ctypes.data + step * np.arange(
            len(self.tokens), dtype=np.uint64
        )
        self.logits = np.zeros(len(self.tokens), np.int8)

    def part(self, rows: slice) -> Any:
        """Return some of the tokens as the library's own structure, which is valid as long as this object."""
        kinds = dict(llama_cpp.llama_batch._fields_)

        def at(name: str, array: NDArray[Any]) -> Any:
            return array[rows].ctypes.data_as(kinds[name])

        return llama_cpp.llama_batch(
            n_tokens=rows.stop - rows.start,
            token=at("token", self.tokens),
            pos=at("pos", self.positions),
            n_seq_id=at("n_seq_id", self._ones),
            seq_id=at("seq_id", self._pointers),
            logits=at("logits", self.logits),
        )


def _in_blocks(tokens: int) -> int:
    """Return the room that the library gives a sequence: whole blocks of 256 tokens."""
    return -(-tokens // 256) * 256


def _said(sizes: dict[str, int]) -> str:
    return ", ".join(f"{place} {size / MIB:.2f} MiB" for place, size in sorted(sizes.items()))
