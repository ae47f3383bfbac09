"""Jobs for the backends: tiny models of many families, and the shapes to run them in."""

from pathlib import Path
from typing import Any

import msgspec

from lazily import Lazy
from llmbench.models.resolve import Model, resolve
from llmbench.results.record import Job
from llmbench.spec.sweep import Cell, Protocol

meta_model: Any = Lazy("llmbench.backends.meta_model")

VOCABULARY = 96
POSITIONS = 64

_ROTARY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
_MISTRAL = {**_ROTARY, "num_key_value_heads": 2, "intermediate_size": 64}

FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {**_ROTARY, "multi_query": True, "new_decoder_architecture": False, "alibi": False},
    "gpt2": {**_GPT2},
    "gpt_neox": {**_ROTARY, "intermediate_size": 64},
    "gptj": {**_GPT2, "rotary_dim": 4},
    "llama": {**_ROTARY, "intermediate_size": 64},
    "mistral": {**_MISTRAL},
    "mixtral": {**_MISTRAL, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": POSITIONS},
    "opt": {**_ROTARY, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "qwen2": {**_MISTRAL},
    "stablelm": {**_MISTRAL},
}
"""Two layers each, four heads; grouped keys and values where the family has them."""


def family(model_type: str, **changes: Any) -> Model:
    """Return a tiny model of a family; untied, because tied random weights repeat one token forever."""
    config = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": False,
        **FAMILIES[model_type],
        **changes,
    }
    return Model(
        name=f"tiny-{model_type}",
        source="catalogue",
        location=None,
        model_type=model_type,
        config=config,
        vocab_size=VOCABULARY,
        max_positions=POSITIONS,
        digest="0",
    )


def job(
    model: Model | str | Path,
    *,
    batch_size: int = 2,
    input_len: int = 12,
    output_len: int = 8,
    dtype: str = "float32",
    device: str = "cpu",
    backend: str = "transformers",
    load_format: str = "dummy",
    protocol: Protocol | None = None,
    **options: Any,
) -> Job:
    """Return a job of one cell."""
    resolved = model if isinstance(model, Model) else resolve(str(model))
    cell = Cell(
        id="tiny",
        model=resolved.name,
        model_digest=resolved.digest,
        backend=backend,
        options=options,
        device=device,
        dtype=dtype,
        load_format=load_format,
        prompts="synthetic",
        batch_size=batch_size,
        input_len=input_len,
        output_len=output_len,
    )
    return Job(cells=[cell], model=resolved, protocol=protocol or Protocol(), session=0)


def mixed(job: Job, *lengths: int) -> Job:
    """Return the job with prompts of these lengths in its batch."""
    cell = msgspec.structs.replace(
        job.cells[0],
        batch_size=len(lengths),
        input_len=max(lengths),
        input_lens=lengths,
        spread="lengths some",
    )
    return msgspec.structs.replace(job, cells=[cell])


def prompts(job: Job) -> list[list[int]]:
    """Return prompts of the job's shape, all different."""
    cell = job.cells[0]
    return [
        [(7 * row + 5 * place + 3) % VOCABULARY for place in range(length)]
        for row, length in enumerate(cell.input_lens or [cell.input_len] * cell.batch_size)
    ]


def knowing(model: Model) -> Model:
    """Return the model with the counts that it says itself, as planning would give it to a worker."""
    return msgspec.structs.replace(model, counts=meta_model.ask(model).counts)


def at(job: Job, folder: Path) -> Job:
    """Return the job with its model's weights in another folder."""
    moved = msgspec.structs.replace(job.model, source="folder", location=str(folder))
    return msgspec.structs.replace(job, model=moved)
