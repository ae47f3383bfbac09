"""Trains a small checkpoint with LLaMA's structure and its own tokenizer on the standard library's text.

Trained weights route, stop and repeat, unlike random ones; this makes them without access to a hub.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SOURCES = ("argparse", "ast", "asyncio/base_events", "calendar", "codecs", "collections/__init__")
SOURCES += ("datetime", "difflib", "doctest", "email/message", "enum", "functools", "heapq")
SOURCES += ("http/client", "inspect", "json/decoder", "logging/__init__", "os", "pathlib", "pdb")
SOURCES += ("pickle", "platform", "random", "shutil", "statistics", "subprocess", "tarfile")
SOURCES += ("textwrap", "threading", "turtle", "typing", "unittest/mock", "uuid", "zipfile")
"""Modules of the standard library, read in this order; one that a version lacks is skipped."""
BOS, EOS = "<s>", "</s>"
MUST_FALL_TO = 0.75
"""The share of the first loss that the last must fall below; above it nothing was learnt."""
TELL_EVERY_S = 5.0
"""How often the training says how far it is."""
LONGEST = 1024
"""Positions of the model: enough for the prompts of a quick sweep."""


def main() -> int:
    """Train, save, and print how much the loss fell; return 1 if it did not."""
    asked = arguments()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    text = corpus()
    words = trained_tokenizer(text, asked.vocabulary)
    model = LlamaForCausalLM(configuration(asked, words))
    began = time.monotonic()
    before, after = train(model, encoded(words, text), asked)
    save(model, words, asked.out_dir)
    print(
        f"{asked.out_dir}: {model.num_parameters():,} parameters, {asked.steps} steps in"
        f" {time.monotonic() - began:.0f} s, loss {before:.2f} -> {after:.2f}"
    )
    if after > MUST_FALL_TO * before:
        print("The loss did not fall: this checkpoint has learnt nothing.", file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    """Read the command line; the defaults take about a minute on two cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", type=Path, help="folder to write, made if missing")
    parser.add_argument("--steps", type=int, default=300, help="training steps")
    parser.add_argument("--hidden", type=int, default=256, help="width; heads are 64 wide")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096, help="words of the tokenizer")
    parser.add_argument("--batch", type=int, default=8, help="sequences a step")
    parser.add_argument("--length", type=int, default=128, help="tokens a sequence")
    return parser.parse_args()


def corpus() -> str:
    """Return the text of the modules in SOURCES, the same for one version of Python."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [folder / f"{name}.py" for name in SOURCES]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


def trained_tokenizer(text: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, model_max_length=LONGEST
    )


def configuration(asked: argparse.Namespace, words: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return LLaMA's structure at the width and depth asked for."""
    return LlamaConfig(
        hidden_size=asked.hidden,
        intermediate_size=asked.hidden * 8 // 3 // 8 * 8,
        num_hidden_layers=asked.layers,
        num_attention_heads=asked.hidden // 64,
        num_key_value_heads=asked.hidden // 64,
        vocab_size=-(-len(words) // 64) * 64,  # padded to a multiple of 64, as published ones are
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=None,
    )


def encoded(words: PreTrainedTokenizerFast, text: str) -> torch.Tensor:
    """Return the text as token ids, [tokens]; every blank line ends a document."""
    ids: list[int] = []
    documents = text.split("\n\n")
    for document in words(documents, add_special_tokens=False, verbose=False)["input_ids"]:
        ids += [*document, words.eos_token_id]
    return torch.tensor(ids)


def train(model: Any, ids: torch.Tensor, asked: argparse.Namespace) -> tuple[float, float]:
    """Train on random windows; return the loss on the same held-out text before and after."""
    held_out = ids[-20 * asked.length :].reshape(-1, asked.length)
    ids = ids[: -held_out.numel()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=asked.steps)
    before = evaluated(model, held_out)
    model.train()
    began = told_at = time.monotonic()
    for step in range(1, asked.steps + 1):
        starts = torch.randint(len(ids) - asked.length, (asked.batch,))
        batch = torch.stack([ids[start : start + asked.length] for start in starts])
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if time.monotonic() - told_at > TELL_EVERY_S:
            told_at = time.monotonic()
            left_s = (told_at - began) * (asked.steps / step - 1)
            print(f"step {step} of {asked.steps}, about {left_s:.0f} s left", file=sys.stderr)
    return before, evaluated(model, held_out)


@torch.no_grad()
def evaluated(model: Any, batch: torch.Tensor) -> float:
    """Return the mean loss a token on the batch, [sequences, tokens], in nats."""
    model.eval()
    return float(model(input_ids=batch, labels=batch, use_cache=False).loss)


def save(model: Any, words: PreTrainedTokenizerFast, out_dir: Path) -> None:
    """Write weights, tokenizer and generation settings that a benchmark must not obey."""
    model.generation_config = GenerationConfig(
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        do_sample=True,
        temperature=0.7,
        max_new_tokens=32,
    )
    model.save_pretrained(out_dir)
    words.save_pretrained(out_dir)


if __name__ == "__main__":
    sys.exit(main())
