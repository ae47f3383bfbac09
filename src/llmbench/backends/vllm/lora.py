"""LoRA adapters in vLLM: the engine arguments that make room for them, and the requests that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.lora.request import LoRARequest

from llmbench.spec.adapters import MOST_RANK

if TYPE_CHECKING:
    from llmbench.spec.adapters import Adapter

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, MOST_RANK["vllm"])
"""The ranks that vLLM makes room for."""


def settings(adapters: list[Adapter]) -> dict[str, Any]:
    """Return the engine arguments for a cell's adapters; empty without any."""
    if not adapters:
        return {}
    most = max(each.rank for each in adapters)
    room = next(rank for rank in RANKS if rank >= most)
    return {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": room}


def lora_requests(adapters: list[Adapter]) -> list[Any]:
    """Return what a request names its adapter by, for each adapter; without any, one that names none."""
    named = [
        LoRARequest(each.folder.name, number, str(each.folder.resolve()))
        for number, each in enumerate(adapters, start=1)
    ]
    return named or [None]
