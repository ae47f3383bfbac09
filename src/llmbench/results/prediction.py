"""Predictions of cells, made before they run.

They are written into the plan, where a reader can compare them with the measurements. `None` means unknown.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The predicted need of a cell, for the whole batch, before it ran. None = unknown.

    Attributes:
        weights_bytes: of all parameters, exact.
        kv_cache_bytes: keys and values held at the end, exact.
        prefill_flops: of the prefill, with the head on each last position, exact.
        decode_flops: of all n - 1 decode steps, exact.
        decode_bytes: the least weights, keys and values that those steps read.
        activation_bytes: the peak of a pass's tensors, including logits and copies of the cache.
        workspace_bytes: memory that libraries reserve.
        context_bytes: the device's context; on a CPU, the process with its engine imported.
        need_bytes: the sum of these.
        have_bytes: the device's memory.
        fits: whether the need fits into the device's memory.
        flops_s: the ceiling used for operations.
        bytes_s: the ceiling used for memory.
        source: of the ceilings.
        least_prefill_s: the lower bound of the prefill, if the ceilings are right.
        least_decode_s: the lower bound of all decode steps together.
        ttft_s: the estimate of the metric of this name.
        tpot_s: likewise.
        session_s: one session of this cell: warm-up, iterations, and its share of the load.
        basis: of the estimates, in words.

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
