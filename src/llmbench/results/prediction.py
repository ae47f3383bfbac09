"""What was known and expected before anything ran: ceilings that a probe reached, and what a cell would need.

Both are written into the plan, so that a reader can hold them against what came. `None` means not known.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a cell was expected to need, of the whole batch, before it ran. None = not known.

    Attributes:
        weights_bytes: of all parameters, exact.
        kv_cache_bytes: keys and values held at the end, exact.
        prefill_flops: of the prompts' pass, with the head on each last position, exact.
        decode_flops: of all n - 1 steps that follow, exact.
        decode_bytes: weights, keys and values that those steps must at least read.
        activation_bytes: most that tensors of one pass hold at once, logits and copies of the cache among them.
        workspace_bytes: what libraries set aside for themselves.
        context_bytes: the device's context; on a CPU, the process with its engine imported.
        need_bytes: all of these together.
        have_bytes: what the device has.
        fits: whether the need goes into what there is.
        flops_s: the ceiling used for operations.
        bytes_s: the ceiling used for memory.
        source: where the ceilings come from.
        least_prefill_s: no prefill is faster, if the ceilings are right.
        least_decode_s: nor are all steps after it together.
        ttft_s: the estimate of the metric of this name.
        tpot_s: likewise.
        session_s: one session of this cell: warm-up, iterations, and its share of the load.
        basis: what the estimates rest on, in words.

    """

    weights_bytes: int | None = None
    kv_cache_bytes: int | None = None
    prefill_flops: int | None = None
    decode_flops: int | None = None
    decode_bytes: int | None = None
    activation_bytes: int | None = None
    workspace_bytes: int | None = None
    context_bytes: int | None = None
    need_bytes: int | None = None
    have_bytes: int | None = None
    fits: Literal["fits", "tight", "no", "unknown"] = "unknown"
    flops_s: float | None = None
    bytes_s: float | None = None
    source: Literal["datasheet", "measured"] | None = None
    least_prefill_s: float | None = None
    least_decode_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    session_s: float | None = None
    basis: str = ""
