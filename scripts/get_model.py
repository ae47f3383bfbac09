"""Converts the GGUF file of a folder to a safetensors checkpoint with its tokenizer, and checks that it can speak.

get_model.py FOLDER_WITH_GGUF NEW_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers

QUESTION, ANSWER = "The capital of France is", "Paris"


def main() -> int:
    """Convert, ask, and say what was written; return 1 if the answer is wrong."""
    source, folder = map(Path, sys.argv[1:])
    transformers.utils.logging.disable_progress_bar()
    (file,) = source.glob("*.gguf")
    words = transformers.AutoTokenizer.from_pretrained(source, gguf_file=file.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file.name, dtype=torch.float32
    )
    # The weights are plain numbers now; with this left in place transformers refuses to save them.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    said = answer(model, words)
    if ANSWER not in said:
        print(f"{file.name}: asked {QUESTION!r}, it went on with {said!r}.", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    words.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)
    print(f"{folder}: {model.num_parameters():,} parameters in bfloat16, from {file.name}")
    return 0


def answer(model: Any, words: Any) -> str:
    """Return how the model continues the question, greedily."""
    ids = words(QUESTION, return_tensors="pt")
    new = model.generate(**ids, max_new_tokens=8, do_sample=False)
    return str(words.decode(new[0, ids["input_ids"].shape[1] :]))


if __name__ == "__main__":
    sys.exit(main())
