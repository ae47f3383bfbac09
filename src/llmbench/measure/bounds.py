"""Physical limits of a cell: the least work that it must do, and the peak of its chip.

Both come from the model's shape and the chip's datasheet alone: a measured ceiling is not a physical limit. If
either is unknown, there is no limit to check.
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
    """Return the bytes that a decode step must read and the operations of a prompt token; empty if unknown.

    If an engine reports fewer weight bytes than the shape has, as with quantized weights, its figure is used.
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


def ceilings(cell: Cell, engine: Mapping[str, Any], devices: Sequence[Device]) -> Ceilings:
    """Return the combined peak of a cell's devices; empty unless all are the same known chip.

    An engine reports the devices of its parameters and the name of the first; the machine may have others.
    """
    if not cell.device.startswith("cuda"):
        return Ceilings()
    used = [device for device in devices if device.name == engine.get("device_name")] or devices
    kinds = {device.chip and device.chip.name: device.chip for device in used}
    chip = next(iter(kinds.values())) if len(kinds) == 1 else None
    if chip is None:
        return Ceilings()
    count, bandwidth, flops = _places(engine), chip.bandwidth(), chip.flops(cell.dtype)
    return Ceilings(bandwidth and count * bandwidth, flops and count * flops)


def _places(engine: Mapping[str, Any]) -> int:
    """Return the number of GPUs that hold parameters."""
    named = {place.strip() for place in str(engine.get("param_devices", "")).split(",")}
    return max(1, sum(place.startswith("cuda") for place in named))
