"""What a cell cannot beat, to judge it by: the least that it must do, and the most that its chip can.

Both come from the model's shape and the chip's datasheet alone: a measured ceiling is not a law. Where one of
them is not known there is no limit, and nothing is held against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmbench.measure.checks import Ceilings
from llmbench.models import formulas
from llmbench.models.shape import shape_of
from llmbench.predict.roofline import ON_CHIP_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.machine.chips import Device
    from llmbench.models.resolve import Model
    from llmbench.spec.sweep import Cell


def least_work(cell: Cell, model: Model, engine: Mapping[str, Any]) -> dict[str, int]:
    """Return what a decode step must at least read, and a prompt token at least compute; nothing if unknown.

    An engine that says it holds fewer bytes than the shape has, in quarters of a number say, is believed.
    """
    shape = shape_of(model.model_type, model.config)
    if shape is None:
        return {}
    held = engine.get("weights_bytes")
    read = formulas.step_weight_bytes(shape, cell.dtype)
    read = min(read, held) if isinstance(held, int) else read
    return {
        **({"bytes_per_step": read} if read >= ON_CHIP_BYTES else {}),
        "flops_per_prompt_token": formulas.prompt_token_flops(shape),
    }


def ceilings(cell: Cell, engine: Mapping[str, Any], found: Sequence[Device]) -> Ceilings:
    """Return what the devices of a cell can do at most together; nothing unless all are one known chip.

    An engine says on which devices its parameters lie and what the first is called; a machine may have
    others as well.
    """
    if not cell.device.startswith("cuda"):
        return Ceilings()
    used = [device for device in found if device.name == engine.get("device_name")] or found
    kinds = {device.chip and device.chip.name: device.chip for device in used}
    chip = next(iter(kinds.values())) if len(kinds) == 1 else None
    if chip is None:
        return Ceilings()
    count, bandwidth, flops = _places(engine), chip.bandwidth(), chip.flops(cell.dtype)
    return Ceilings(bandwidth and count * bandwidth, flops and count * flops)


def _places(engine: Mapping[str, Any]) -> int:
    """Return over how many GPUs the parameters are spread."""
    named = {place.strip() for place in str(engine.get("param_devices", "")).split(",")}
    return max(1, sum(place.startswith("cuda") for place in named))
