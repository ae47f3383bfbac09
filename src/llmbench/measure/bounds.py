"""Limits of a cell: the least work that it must do, and the peaks and the memory of its device.

A GPU's peaks come from its datasheet; a CPU's from the probe of this machine, which is no physical limit and gets more
slack. If either is unknown, there is no limit to check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmbench.measure.checks import MEASURED_SLACK, Ceilings, is_quantised
from llmbench.models import formulas, resolve
from llmbench.predict.roofline import ON_CHIP_BYTES
from llmbench.spec.sweep import NOT_SAID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmbench.machine.chips import Device
    from llmbench.machine.peaks import Probe
    from llmbench.models.resolve import Model
    from llmbench.spec.sweep import Cell


def least_work(cell: Cell, model: Model, engine: Mapping[str, Any]) -> dict[str, int]:
    """Return the bytes that a decode step must read and the operations of a prompt token; empty if unknown.

    If an engine holds fewer weight bytes than the model has, because they are quantised, a step reads as much less.
    The embedding table is left out of that share: it is seldom quantised, and not read.
    """
    counts = resolve.dense_counts_of(model)
    if counts is None or cell.dtype == NOT_SAID:
        return {}
    held = engine.get("weights_bytes")
    read = formulas.step_weight_bytes(counts, cell.dtype)
    whole, table = (
        formulas.weight_bytes(counts, cell.dtype),
        formulas.table_bytes(counts, cell.dtype),
    )
    if isinstance(held, int) and held < whole:
        read = read * max(0, held - table) // (whole - table)
    return {
        **({"bytes_per_step": read} if read >= ON_CHIP_BYTES else {}),
        "flops_per_prompt_token": formulas.prompt_token_flops(counts),
    }


def ceilings(
    cell: Cell, engine: Mapping[str, Any], devices: Sequence[Device], probes: Sequence[Probe] = ()
) -> Ceilings:
    """Return the combined limits of a cell's devices; empty unless all are the same known chip, or a probed CPU.

    An engine reports the devices of its parameters and the name of the first; the machine may have others.
    """
    if not cell.device.startswith("cuda"):
        return _of_cpu(cell, engine, probes)
    used = [device for device in devices if device.name == engine.get("device_name")] or devices
    count = _places(engine)
    memory = _common(device.memory_bytes for device in used)
    kinds = {device.chip and device.chip.name: device.chip for device in used}
    chip = next(iter(kinds.values())) if len(kinds) == 1 else None
    if chip is None:
        return Ceilings(memory=memory and count * memory)
    bandwidth = chip.bandwidth()
    flops = chip.fastest() if is_quantised(cell, engine) else chip.flops(cell.dtype)
    return Ceilings(
        bandwidth and count * bandwidth,
        flops and count * flops,
        memory and count * memory,
        slack=chip.slack(),
    )


def _of_cpu(cell: Cell, engine: Mapping[str, Any], probes: Sequence[Probe]) -> Ceilings:
    """Return the rates that a probe measured with at least as many threads as the engine has."""
    probe = next((probe for probe in probes if probe.device == "cpu" and probe.quiet), None)
    threads = engine.get("threads")
    if probe is None or not isinstance(threads, int) or threads > (probe.threads or 0):
        return Ceilings()
    quantised = is_quantised(
        cell, engine
    )  # whole numbers may multiply faster than any probed dtype
    flops = None if quantised else probe.flops_s.get(cell.dtype)
    return Ceilings(probe.read_bytes_s.get(cell.dtype), flops, slack=MEASURED_SLACK)


def _common(sizes: Iterable[int | None]) -> int | None:
    """Return the size that all have; None if they differ or one is unknown."""
    known = set(sizes)
    return known.pop() if len(known) == 1 else None


def _places(engine: Mapping[str, Any]) -> int:
    """Return the number of GPUs that hold parameters."""
    named = {place.strip() for place in str(engine.get("param_devices", "")).split(",")}
    return max(1, sum(place.startswith("cuda") for place in named))
