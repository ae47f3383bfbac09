"""The token ids that a model knows, and the special ones among them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from llmbench.errors import LoadFailed
from llmbench.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmbench.results.record import Job

TOKENIZERS = (
    "tokeniz*",
    "tokenization*.py",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "*.spm",
    "*.bpe",
)
"""How the files of tokenizers are named."""
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id")


def tokenizer(job: Job, revision: str) -> Any:
    """Return the tokenizer of the checkpoint, or a sentence that says why there is none."""
    model = job.model
    if model.location is None or (model.source != "folder" and job.cells[0].load_format == "dummy"):
        return f"{model.name} has no tokenizer with {job.cells[0].load_format} weights, which text prompts need."
    if model.source == "folder" and not _has_tokenizer(Path(model.location)):
        return f"{model.location} has no tokenizer, which text prompts need."
    try:
        return transformers.AutoTokenizer.from_pretrained(
            model.location,
            trust_remote_code=job.protocol.allow_remote_code,
            **({"revision": revision} if revision else {}),
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        reason = " ".join(redact(str(error)).split())[:300]
        return f"{model.location} has no readable tokenizer, which text prompts need: {reason}"


def _has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has the files of a tokenizer: transformers would make an empty one of none."""
    return any(found for pattern in TOKENIZERS for found in folder.glob(pattern))


def tokenize(words: Any, text: str) -> list[int]:
    """Return the token ids of a text, without special ids; raise LoadFailed if there is no tokenizer."""
    if isinstance(words, str):
        raise LoadFailed(words)
    ids: list[int] = words(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def size(config: Any, words: Any) -> int:
    """Return how many ids are real; an embedding may be padded with rows that no text uses."""
    rows = int(config.get_text_config(decoder=True).vocab_size)
    return rows if isinstance(words, str) else min(rows, len(words))


def special_ids(sources: Iterable[Any], words: Any) -> frozenset[int]:
    """Return the special ids of the tokenizer and the sources (configuration, generation settings)."""
    ids = set() if isinstance(words, str) else set(words.all_special_ids)
    for settings in sources:
        for name in SPECIAL:
            value = getattr(settings, name, None)
            ids.update(value if isinstance(value, list) else [value])
    return frozenset(i for i in ids if isinstance(i, int) and i >= 0)
