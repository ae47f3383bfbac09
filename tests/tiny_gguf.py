"""GGUF files of a few bytes: a header as the format describes it, and no weights."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = {
    "general.architecture": "llama", "llama.context_length": 512, "llama.embedding_length": 64, "llama.block_count": 2,
    "llama.feed_forward_length": 128, "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": ["a", "b", "c"] * 100,
}  # fmt: skip
F32, F16, Q4_0, Q4_K = 0, 1, 2, 12


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def setting(value: Any) -> bytes:
    """Return a setting's type and value."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return (
        struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
    )


def tensor(name: str, shape: tuple[int, ...], kind: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)


def data(settings: dict[str, Any] | None = None, kind: int = F16, *, tied: bool = False) -> bytes:
    """Return a file with an embedding, a vector in float32 and, unless tied, an output head."""
    settings = LLAMA if settings is None else settings
    tensors = [
        tensor("token_embd.weight", (64, 300), kind),
        tensor("output_norm.weight", (64,), F32),
    ]
    tensors += [] if tied else [tensor("output.weight", (64, 300), kind)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    return (
        head
        + b"".join(text(key) + setting(value) for key, value in settings.items())
        + b"".join(tensors)
    )


def write(path: Path, **wanted: Any) -> Path:
    path.write_bytes(data(**wanted))
    return path
