"""The reports' claims, each with a file in configs/claims and a check function in the table below.

A check takes the measured cells and the claim's own numbers, and answers for each condition. To add a claim, add a
file, a function and a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.claims import fleet, memory, money, roofline, scale
from llmbench.claims.claim import Answer, Claim, ClaimVerdict, Evidence, Part
from llmbench.errors import SpecError, did_you_mean
from llmbench.spec import configs, yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.claims.claim import Check

__all__ = [
    "CHECKS",
    "Answer",
    "Claim",
    "ClaimVerdict",
    "Evidence",
    "Part",
    "answer",
    "claim",
    "known",
]

CHECKS: Mapping[str, Check] = {
    "inference-cost-decline": money.inference_cost_decline,
    "sub-50b-cheaper-than-llama": scale.sub_50b,
    "moe-cuts-cost": scale.moe_cuts_cost,
    "ten-times-the-parameters": scale.ten_times_the_parameters,
    "self-host-or-api": money.self_host_or_api,
    "copilot-economics": money.copilot_economics,
    "serving-fleet": fleet.serving_fleet,
    "verify-budget": money.verify_budget,
    "sambanova-one-thirtieth": money.sambanova,
    "training-price-per-parameter": fleet.training_price_per_parameter,
    "training-cost-decline": fleet.training_cost_decline,
    "gpt3-needs-thousands": fleet.gpt3_needs_thousands,
    "copilot-at-thirty": money.copilot_economics,
    "thirteen-b-is-enough": memory.thirteen_b_is_enough,
    "inference-takes-most-compute": fleet.not_testable,
    "compute-is-the-bottleneck": roofline.compute_is_the_bottleneck,
    "half-utilisation": roofline.half_utilisation,
    "context-is-memory": memory.context_is_memory,
    "selective-reads": memory.selective_reads,
    "tiered-memory": memory.tiered_memory,
    "edge-models": memory.edge_models,
    "phone-runs-llama-2": memory.phone_runs_llama_2,
    "amd-tpu-parity": money.amd_tpu_parity,
    "cpu-and-gpu-in-one-package": money.cpu_and_gpu_in_one_package,
    "quality-per-cost": scale.quality_per_cost,
}
"""The check of every claim, in display order."""


def known() -> list[str]:
    """Return the ids of all claims."""
    return list(CHECKS)


def claim(name: str) -> Claim:
    """Return one claim; raise SpecError with the nearest id if there is none."""
    if name not in CHECKS:
        raise SpecError(
            f"claims: there is no claim {name!r}.{did_you_mean(name, CHECKS, 'llmbench claims')}"
        )
    return yaml.read(configs.folder("claims") / f"{name}.yaml", Claim)


def answer(claim: Claim, given: Evidence) -> Answer:
    """Return the answer of the measured cells to a claim."""
    return CHECKS[claim.id](claim, given)
