"""The function that every engine is held to: transformers, eager, in float32, over one saved checkpoint.

The weights of a checkpoint made here are drawn so that every layer matters: each matrix keeps the size of what
it multiplies. With the small values that models are initialised with, most of a small model could be left out
and hardly a token would change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Embedding, functional
from transformers.initialization import no_init_weights

from llmbench.backends.config import builder, configuration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.results.record import Job

SHARPENED = 2.0
"""Embeddings, which often are the output head as well, are so much larger: probabilities then differ by more."""


def save(job: Job, folder: str, *, disturbed: bool) -> None:
    """Save the job's model in its dtype: made with random weights, or read where real ones are meant.

    With `disturbed`, the rows of one matrix in the middle of the model have moved on by one: a fault that every
    family shows. A larger matrix would not do, where queries and keys are normalised after it.
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
    """Draw every parameter: matrices keep the size of their input, norms lie about 1, biases are small."""
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
    """Return, for each new token of each sequence, its log-probability and the largest that any token had.

    The sequences are given: the reference reads what an engine said and does not go its own way after a tie.
    """
    cell = job.cells[0]
    model = builder(configuration(job, "")).from_pretrained(
        job.model.location, dtype=torch.float32, attn_implementation="eager"
    )
    return of_tokens(model.eval().to(cell.device), sequences, input_len)


def of_tokens(
    model: Any, sequences: Sequence[Sequence[int]], input_len: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the log-probabilities of the tokens from `input_len` on, and at each place the largest of any."""
    own: list[list[float]] = []
    largest: list[list[float]] = []
    for sequence in sequences:
        ids = torch.tensor([list(sequence)], device=model.device)
        with torch.inference_mode():
            logits = model(ids).logits[0, input_len - 1 : -1].float()
            all_of_them = functional.log_softmax(logits, dim=-1)
            said = all_of_them.gather(1, ids[0, input_len:, None])[:, 0]
        own.append(said.tolist())
        largest.append(all_of_them.max(dim=-1).values.tolist())
    return own, largest
