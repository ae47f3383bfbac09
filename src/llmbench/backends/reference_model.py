"""The reference that every engine is checked against: transformers, eager, in float32, on one saved checkpoint.

Weights of a checkpoint made here are drawn to make every layer matter: each matrix preserves the size of its input.
With the usual small initial values, most of a small model could be left out and hardly a token would change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Embedding, functional
from transformers.initialization import no_init_weights

from llmbench.backends import vocabulary
from llmbench.backends.config import builder, configuration
from llmbench.errors import LoadFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.results.record import Job

SHARPENED = 2.0
"""The factor on embeddings, which often are the output head too; it makes probabilities differ by more."""


def cut(job: Job, count: int, length: int) -> list[list[int]]:
    """Return this many prompts of this length, cut from the job's text at even distances.

    Raises:
        LoadFailed: the model has no tokenizer, or the text is too short.

    """
    ids = vocabulary.tokenize(vocabulary.tokenizer(job, ""), str(job.prompts_text))
    step = len(ids) // count
    if step < length:
        raise LoadFailed(
            f"prompts: the text has {len(ids)} tokens; {count} prompts of {length} need {count * length}."
        )
    return [ids[start : start + length] for start in range(0, count * step, step)]


def save(job: Job, folder: str, *, disturbed: bool) -> None:
    """Save the job's model in its dtype, with random weights or with the real ones.

    With `disturbed`, the rows of one matrix in the middle of the model are shifted by one, a fault that shows in
    every family. Scaling a matrix would not show where queries and keys are normalised after it.
    """
    cell = job.cells[0]
    dtype = getattr(torch, cell.dtype)
    config = configuration(job, "")
    if cell.load_format == "dummy":
        with no_init_weights():
            model = builder(config).from_config(config, dtype=torch.float32)
        _fill(model, job.protocol.seed)
        model.tie_weights()
    else:
        model = builder(config).from_pretrained(job.model.location, dtype=dtype)
    if disturbed:
        matrix = _middle(model)
        matrix.data = matrix.data.roll(1, dims=-2)
    model.to(dtype).save_pretrained(folder)


def _fill(model: Any, seed: int) -> None:
    """Draw every parameter: matrices preserve the size of their input, norms are near 1, biases are small."""
    generator = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, Embedding)}
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            scale = SHARPENED if id(parameter) in tables else 1.0
            drawn *= scale / parameter.shape[-1] ** 0.5
        else:
            drawn = drawn * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        parameter.data = drawn


def _middle(model: Any) -> torch.Tensor:
    """Return the matrix in the middle of the model's layers."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, Embedding)}
    matrices = [p for p in model.parameters() if p.ndim > 1 and id(p) not in tables]
    return matrices[len(matrices) // 2]


def scored(
    job: Job, sequences: Sequence[Sequence[int]], input_len: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the log-probability of each new token of each sequence, and the largest one at its position.

    The sequences are given: the reference scores an engine's tokens and does not diverge from them after a tie.
    """
    cell = job.cells[0]
    model = builder(configuration(job, "")).from_pretrained(
        job.model.location, dtype=torch.float32, attn_implementation="eager"
    )
    return of_tokens(model.eval().to(cell.device), sequences, input_len)


def of_tokens(
    model: Any, sequences: Sequence[Sequence[int]], input_len: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the log-probabilities of the tokens from `input_len` on, and the largest one at each position."""
    own: list[list[float]] = []
    largest: list[list[float]] = []
    for sequence in sequences:
        ids = torch.tensor([list(sequence)], device=model.device)
        with torch.inference_mode():
            logits = model(ids).logits[0, input_len - 1 : -1].float()
            all_of_them = functional.log_softmax(logits, dim=-1)
            chosen = all_of_them.gather(1, ids[0, input_len:, None])[:, 0]
        own.append(chosen.tolist())
        largest.append(all_of_them.max(dim=-1).values.tolist())
    return own, largest
