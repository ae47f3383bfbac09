"""Whether vLLM, which takes a share of each GPU's memory at the start, has room for a cell.

Weights and a context come first, and what is left of the share holds keys and values. The peak of vLLM's own
profiling is not modelled: the real room is smaller, and a cell that does not fit here does not fit there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmbench.models import formulas
from llmbench.numbers import binary, plural
from llmbench.predict.memory import CUDA_CONTEXT_BYTES
from llmbench.spec.grid import NONE, QUANTIZATION
from llmbench.spec.sweep import PARALLEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.models.counts import Counts
    from llmbench.spec.sweep import Cell

BLOCK = 16
"""Tokens in a block of the cache, vLLM's default on a GPU; a sequence takes whole blocks."""


class Room(NamedTuple):
    """The room on each GPU.

    Attributes:
        fits: whether the whole batch does, or only a part of it at a time, or nothing.
        need_bytes: weights, context, and the keys and values of the whole batch.
        why: what is missing; empty if it fits.

    """

    fits: Literal["fits", "queues", "no"]
    need_bytes: int
    why: str


def room(
    counts: Counts,
    cell: Cell,
    defaults: Mapping[str, Any],
    longest: int | None,
    have_bytes: int,
    gpus: int,
) -> Room | None:
    """Return the room that vLLM has for a cell on GPUs of this memory; None where its weights are not known.

    Args:
        counts: of the model.
        cell: the cell.
        defaults: vLLM's options with their defaults.
        longest: the most tokens that the model takes; None = no limit.
        have_bytes: the memory of each GPU.
        gpus: how many there are.

    """
    options = {**defaults, **cell.options}
    if options[QUANTIZATION] != NONE:
        return None
    tensor, pipeline = (int(options[name]) for name in PARALLEL)
    parts = tensor * pipeline
    weights = formulas.weight_bytes(counts, cell.dtype) // parts
    halves = (
        pipeline * min(tensor, counts.kv_heads) * (2 if "fp8" in options["kv_cache_dtype"] else 1)
    )

    def kept(tokens: int) -> int:
        """Return the bytes of keys and values that one sequence takes on each GPU."""
        blocks = -(-tokens // BLOCK) * BLOCK
        return formulas.kv_bytes(counts, cell.dtype, blocks) // halves

    share = int(options["gpu_memory_utilization"] * have_bytes)
    cache = options["kv_cache_memory_bytes"] or share - weights - CUDA_CONTEXT_BYTES
    one = kept(cell.input_len + cell.output_len)
    need = weights + CUDA_CONTEXT_BYTES + cell.batch_size * one
    longest = options["max_model_len"] or longest or cell.input_len + cell.output_len
    at_once = min(max(0, cache) // one, options["max_num_seqs"] or cell.batch_size)
    if parts > gpus:
        return Room("no", need, f"it needs {plural(parts, 'GPU')}, and the machine has {gpus}")
    if cache <= 0:
        taken = f"{options['gpu_memory_utilization']:g} of {binary(have_bytes)}"
        return Room("no", need, f"weights of {binary(weights)} leave no room in {taken}")
    if kept(longest) > cache:
        return Room(
            "no",
            need,
            f"a sequence of {longest:,} tokens, the most that the model takes, needs {binary(kept(longest))}, and "
            f"{binary(cache)} are left; set the option max_model_len",
        )
    if at_once < cell.batch_size:
        return Room(
            "queues", need, f"at most {at_once:,} of {cell.batch_size:,} sequences fit at once"
        )
    return Room("fits", need, "")
