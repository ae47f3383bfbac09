"""Whether vLLM, which takes its memory at the start, has room for a cell.

On a GPU it takes a share of the memory: weights and a context come first, and what is left holds keys and values. On a
CPU the size of that cache is given, and weights come besides. The peak of vLLM's own profiling is not modelled: the
real room is smaller, and a cell that does not fit here does not fit there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmbench.models import formulas
from llmbench.numbers import binary, plural
from llmbench.predict.memory import CUDA_CONTEXT_BYTES
from llmbench.spec.grid import NONE, QUANTIZATION
from llmbench.spec.sweep import PARALLEL, boxes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.models.counts import Counts
    from llmbench.spec.sweep import Cell

CPU_CACHE_BYTES = 2 * 2**30
"""Default size of the KV cache on a CPU. vLLM's own default is most of the machine's memory, and it writes all of
it at once. LLaMA-7B with 2,048 tokens needs 1 GiB in bfloat16, and 2 GiB in float32."""
CPU_CACHE_GIB = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's own environment variable for that size."""
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
    """Return the room that vLLM has for a cell on devices of this memory; None where its weights are not known.

    Args:
        counts: of the model.
        cell: the cell.
        defaults: vLLM's options with their defaults.
        longest: the most tokens that the model takes; None = no limit.
        have_bytes: the memory of each GPU, or of the machine for a cell on the CPU.
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

    on_cpu = cell.device == "cpu"
    context = 0 if on_cpu else CUDA_CONTEXT_BYTES
    share = int(options["gpu_memory_utilization"] * have_bytes)
    given = options["kv_cache_memory_bytes"] or (_cpu_cache() if on_cpu else 0)
    cache = given or share - weights - context
    whole = sum(
        many * kept(length + cell.output_len) for length, many in cell.prompts_by_length.items()
    )
    need = weights + context + (cache if on_cpu else whole)
    longest = options["max_model_len"] or longest or cell.input_len + cell.output_len
    together = cell.batch_size * max(0, cache) // whole
    at_once = min(together, options["max_num_seqs"] or cell.batch_size)
    why = ""
    if on_cpu and need > have_bytes:
        sizes = f"weights of {binary(weights)} and a cache of {binary(cache)}"
        why = f"{sizes} exceed the {binary(have_bytes)} that are free"
    elif parts > gpus * boxes_of(cell.options) and not on_cpu:
        why = f"it needs {plural(parts, 'GPU')}, and the machine has {gpus}"
    elif cache <= 0:
        taken = f"{options['gpu_memory_utilization']:g} of {binary(have_bytes)}"
        why = f"weights of {binary(weights)} leave no room in {taken}"
    elif kept(longest) > cache:
        why = (
            f"a sequence of {longest:,} tokens, the most that the model takes, needs {binary(kept(longest))}, and "
            f"{binary(cache)} are left; set the option max_model_len"
        )
    if why:
        return Room("no", need, why)
    if at_once < cell.batch_size:
        return Room(
            "queues", need, f"at most {at_once:,} of {cell.batch_size:,} sequences fit at once"
        )
    return Room("fits", need, "")


def _cpu_cache() -> int:
    """Return the bytes of the cache on a CPU where no option says: those of vLLM's variable, else our default."""
    asked = os.environ.get(CPU_CACHE_GIB, "")
    return int(asked) * 2**30 if asked.isdigit() and asked != "0" else CPU_CACHE_BYTES
