"""The header of a GGUF file, and the configuration that it describes in the words of a config.json.

A header has settings by name and, for each tensor, its shape and type. No weight is read, and no package is needed.
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench import files

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".gguf"
MAGIC, VERSIONS = b"GGUF", (2, 3)
NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Types of settings that are one number, by code: their layout in the notation of `struct`."""
STRING, ARRAY = 8, 9
MOST_ITEMS, MOST_DIMENSIONS = 2**24, 8
"""Limits against damaged files: the longest vocabulary has 260,000 words."""

TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
"""Types of tensors by code, in llama.cpp's own words."""
PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
FILE_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m",
    13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 25: "iq4_nl", 30: "iq4_xs",
    32: "bf16",
}  # fmt: skip
"""Mixtures of types by the number in `general.file_type`: the codes that llama_model_quantize takes."""
FAMILIES = frozenset({"llama", "qwen2", "qwen3"})
"""Architectures that config.json calls by the same name, and whose counts follow from the settings below."""
NAMES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
"""Settings of an architecture, and what config.json calls them."""


class Header(NamedTuple):
    """Settings by name (an array by its length), and each tensor's number of values and type by its name."""

    settings: dict[str, Any]
    tensors: dict[str, tuple[int, str]]

    def type_of_weights(self) -> str:
        """Return the type of the matrices with the most values together, such as `F16` or `Q4_K`."""
        held: dict[str, int] = {}
        for values, kind in self.tensors.values():
            held[kind] = held.get(kind, 0) + values
        return max(held, key=lambda kind: held[kind], default="F32")


def read(path: Path) -> Header:
    """Return a file's header.

    Raises:
        ValueError: it is no GGUF file, or a damaged one.
        OSError: it cannot be read, or is no regular file.

    """
    if why := files.why_not(path):
        raise ValueError(why)
    with path.open("rb") as file:
        if file.seek(0, 2) < 24:
            raise ValueError("it is too short for a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            try:
                return _header(_Reader(view))
            except (struct.error, IndexError, UnicodeDecodeError) as error:
                raise ValueError(f"its header is damaged ({error})") from error


def _header(reader: _Reader) -> Header:
    if reader.take(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    if (version := reader.number("I")) not in VERSIONS:
        raise ValueError(f"version {version} of the format is not known")
    tensors, settings = reader.count(), reader.count()
    return Header(
        {reader.string(): reader.value(reader.number("I")) for _ in range(settings)},
        dict(_tensor(reader) for _ in range(tensors)),
    )


def _tensor(reader: _Reader) -> tuple[str, tuple[int, str]]:
    name, dimensions = reader.string(), reader.number("I")
    if dimensions > MOST_DIMENSIONS:
        raise ValueError(f"its header is damaged ({dimensions} dimensions of a tensor)")
    values = prod(reader.number("Q") for _ in range(dimensions))
    kind = reader.number("I")
    reader.number("Q")  # where it begins
    return name, (values, TYPES.get(kind, f"type {kind}"))


class _Reader:
    """A place in a file that moves on with each value read."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view, self._place = view, 0

    def take(self, count: int) -> bytes:
        start, self._place = self._place, self._place + count
        if self._place > len(self._view):
            raise IndexError("it ends too early")
        return self._view[start : self._place]

    def number(self, layout: str) -> Any:
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))[0]

    def count(self) -> int:
        count = int(self.number("Q"))
        if count > MOST_ITEMS:
            raise ValueError(f"its header is damaged ({count} items)")
        return count

    def string(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise ValueError(f"its header is damaged (a setting of type {kind})")
        of, count = self.number("I"), self.count()
        if of in NUMBERS:
            self.take(count * struct.calcsize(f"<{NUMBERS[of]}"))
            return count
        for _ in range(count):
            self.value(of)
        return count


def config_of(header: Header) -> dict[str, Any]:
    """Return what a header says in the words of a config.json: `model_type`, sizes, dtype or quantisation."""
    family = str(header.settings.get("general.architecture", "unknown"))
    own = {
        key.removeprefix(f"{family}."): value
        for key, value in header.settings.items()
        if key.startswith(f"{family}.")
    }
    words = header.settings.get("tokenizer.ggml.tokens")
    kind = header.type_of_weights()
    return {
        "model_type": family if family in FAMILIES else f"gguf {family}",
        **{name: own[key] for key, name in NAMES.items() if key in own},
        "vocab_size": words or own.get("vocab_size"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        **({"dtype": PLAIN[kind]} if kind in PLAIN else _quantised(header, kind)),
    }


def _quantised(header: Header, kind: str) -> dict[str, Any]:
    """Return a quantised file's mixture, and float16, in which llama.cpp keeps keys and values by default."""
    mixture = FILE_TYPES.get(header.settings.get("general.file_type", -1), kind.lower())
    return {
        "dtype": "float16",
        "quantization_config": {"quant_method": "gguf", "quant_algo": mixture},
    }
