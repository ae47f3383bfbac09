"""What a cell needs and how long it takes, before it runs; and what it cannot beat, to judge it by after.

Its limits come from the model's shape and the chip's datasheet alone: a measured ceiling is not a law. Where
something is not known there is no limit and no figure, and nothing is held against it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from llmbench import chips, footprint, formulas, learned, roofline
from llmbench.judge import Ceilings
from llmbench.record import Prediction, Probe
from llmbench.roofline import ON_CHIP_BYTES
from llmbench.shape import shape_of
from llmbench.spec import groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.chips import Chip
    from llmbench.learned import Factors, Seen
    from llmbench.model import Model
    from llmbench.shape import Shape
    from llmbench.spec import Cell, Protocol

UNPROBED_STEP_S = 5e-6
"""Seconds to dispatch an operation where nobody measured it: a chip that is not at hand has some processor."""

LOAD_S, LOAD_BYTES_S = 1.1, 2e9
"""To load a model: configuration and imports, then its weights; results/*-quickstart and *-cpu-7b."""

WARM_UPS = 5
"""Calls until three in a row agree, on a quiet machine; the median of results/*-quickstart."""

HOW = "llmbench machine --probe"
NOWHERE = "no times: device_map={} decides where the weights are"
PREDICTED = "transformers"
"""The engine whose loops the figures are about; others have their own caches, kernels and plans for memory."""


class Device(NamedTuple):
    """A GPU by the driver's name, and its chip if that is known."""

    name: str
    chip: Chip | None


class Place(NamedTuple):
    """Where cells are to run, or would.

    Attributes:
        have_bytes: memory by device, `cpu` and `cuda`.
        chip: a GPU's datasheet, if it is known.
        probes: measured ceilings, one a device at most.
        past: what earlier runs measured on such a machine.
        facts: of the machine; empty for a chip that is not at hand.

    """

    have_bytes: Mapping[str, int | None]
    chip: Chip | None
    probes: Sequence[Probe]
    past: Sequence[Seen]
    facts: Mapping[str, Any]


class Pace(NamedTuple):
    """The rates for one device and type of number, the factors on them, and the ceilings; each may be unknown."""

    speeds: roofline.Speeds | None
    factors: Factors
    flops_s: float | None
    bytes_s: float | None
    source: Literal["datasheet", "measured"] | None
    basis: str


def here(found: Mapping[str, Any], probes: Sequence[Probe], past: Sequence[Seen]) -> Place:
    """Return this machine, as `machine.machine()` describes it."""
    gpus = found["gpus"]
    kinds = {device.chip and device.chip.name: device.chip for device in devices(gpus)}
    return Place(
        have_bytes={
            "cpu": found["memory_available_bytes"],
            "cuda": gpus[0].get("memory_bytes") if gpus else None,
        },
        chip=next(iter(kinds.values())) if len(kinds) == 1 else None,
        probes=probes,
        past=past,
        facts=found,
    )


def elsewhere(chip: Chip) -> Place:
    """Return a machine with one chip of this kind, known by its datasheet alone."""
    memory = int(chip.memory_gb * 2**30) if chip.memory_gb else None
    return Place({"cpu": None, "cuda": memory}, chip, (), (), {})


def predictions(
    cells: Sequence[Cell], models: Mapping[str, Model], protocol: Protocol, place: Place
) -> dict[str, Prediction]:
    """Return what each cell is expected to need, by id; a figure that is not known is absent from it.

    The load is shared among the cells of a group, which one worker serves.
    """
    shapes = {name: shape_of(found.model_type, found.config) for name, found in models.items()}
    paces: dict[tuple[str, str], Pace] = {}
    predicted: dict[str, Prediction] = {}
    for group in groups(cells, protocol.isolation):
        for cell in group:
            key = (cell.device, cell.dtype)
            shape, found = shapes[cell.model], models[cell.model]
            if shape is None or cell.backend != PREDICTED:
                predicted[cell.id] = Prediction(basis=_nothing_known(cell, found))
                continue
            pace = paces.get(key) or paces.setdefault(key, _pace(*key, place))
            predicted[cell.id] = _prediction(
                cell, shape, str(found.model_type), protocol, pace, place, len(group)
            )
    return predicted


def _nothing_known(cell: Cell, found: Model) -> str:
    if cell.backend != PREDICTED:
        return f"nothing is predicted of the engine {cell.backend}"
    return f"the shape of {found.model_type or 'a model that only the hub knows'} is not known"


def _prediction(
    cell: Cell, shape: Shape, kind: str, protocol: Protocol, pace: Pace, place: Place, sharing: int
) -> Prediction:
    held = footprint.footprint(shape, kind, cell)
    placed = cell.options.get("device_map", "none")
    if placed != "none":  # over several devices, in host memory or on a disk
        pace = Pace(None, learned.NONE, None, None, None, NOWHERE.format(placed))
    work = roofline.work(shape, cell)
    have = place.have_bytes.get(cell.device) if placed == "none" else None
    cold = work.step_weight_bytes >= ON_CHIP_BYTES
    once, moved = (work.step_weight_bytes, work.decode_bytes) if cold else (0, 0)
    memory = Prediction(
        **held._asdict(),
        prefill_flops=work.prefill_flops,
        decode_flops=work.decode_flops,
        decode_bytes=work.decode_bytes,
        need_bytes=held.need_bytes,
        have_bytes=have,
        fits=footprint.fits(held.need_bytes, have),
        flops_s=pace.flops_s,
        bytes_s=pace.bytes_s,
        source=pace.source,
        least_prefill_s=roofline.least_s(work.prefill_flops, once, pace.flops_s, pace.bytes_s),
        least_decode_s=roofline.least_s(work.decode_flops, moved, pace.flops_s, pace.bytes_s),
        basis=pace.basis,
    )
    if pace.speeds is None:
        return memory
    ttft_s, step_s = (
        pace.factors.priced(costs(shape, kind, cell, pace.speeds), cell.dtype, phase, cell.device)
        for costs, phase in (
            (roofline.prefill_costs, "prefill"),
            (roofline.step_costs, "decode"),
        )
    )
    return msgspec.structs.replace(
        memory,
        ttft_s=ttft_s,
        tpot_s=step_s if cell.output_len > 1 else None,
        session_s=_session_s(ttft_s + (cell.output_len - 1) * step_s, held, protocol, sharing),
    )


def _session_s(
    iteration_s: float, held: footprint.Footprint, protocol: Protocol, sharing: int
) -> float:
    """Return the seconds of one session: warm-up, iterations, one more for memory, and a share of the load."""
    timed = max(protocol.iterations, math.ceil(protocol.min_time_s / iteration_s))
    warm = max(protocol.warmup, WARM_UPS)
    warm = max(protocol.warmup, min(warm, math.ceil(protocol.warmup_budget_s / iteration_s)))
    load = (LOAD_S + held.weights_bytes / LOAD_BYTES_S) / sharing
    return (warm + min(timed, protocol.max_iterations) + 1) * iteration_s + load


def _pace(device: str, dtype: str, place: Place) -> Pace:
    """Return the rates to reckon with: ceilings of a datasheet before a probe's, times of a probe before those."""
    probe = next((one for one in place.probes if one.device == device), None)
    chip = place.chip if device == "cuda" else None
    rated = _rated(probe, dtype) or (chip and _of_chip(chip, dtype))
    past = [one for one in place.past if one.cell.device == device]
    least = _ceilings(chip, probe, dtype)
    if rated:
        factors = learned.fitted(past, rated, probed=True)
        return Pace(roofline.Speeds(rated, dtype), factors, *least, _basis(rated, chip, factors))
    if place.facts and device == "cpu" and learned.enough(past, dtype):
        typical = learned.typical(place.facts, {one.cell.dtype for one in past})
        factors = learned.fitted(past, typical, probed=False)
        return Pace(roofline.Speeds(typical, dtype), factors, *least, _basis(None, chip, factors))
    why = f"no times: no probe, datasheet or records for {dtype} on {device}; {HOW} measures it"
    return Pace(None, learned.NONE, *least, why)


def _rated(probe: Probe | None, dtype: str) -> Probe | None:
    return probe if probe and probe.flops_s.get(dtype) else None


def _of_chip(chip: Chip, dtype: str) -> Probe | None:
    """Return a datasheet's peaks as rates; None where they are not verified."""
    flops, bandwidth = chip.flops(dtype), chip.bandwidth()
    if flops is None or bandwidth is None:
        return None
    return Probe(
        device="cuda", name=chip.name, at="", torch="", copy_bytes_s=bandwidth,
        flops_s={dtype: flops}, step_s=UNPROBED_STEP_S,
    )  # fmt: skip


def _ceilings(
    chip: Chip | None, probe: Probe | None, dtype: str
) -> tuple[float | None, float | None, Literal["datasheet", "measured"] | None]:
    """Return operations and bytes a second at most, and who says so."""
    if chip and chip.flops(dtype) and chip.bandwidth():
        return chip.flops(dtype), chip.bandwidth(), "datasheet"
    read = [*probe.read_bytes_s.values(), probe.copy_bytes_s or 0.0] if probe else []
    if probe and probe.flops_s.get(dtype) and max(read):
        return probe.flops_s[dtype], max(read), "measured"
    return None, None, None


def _basis(rated: Probe | None, chip: Chip | None, factors: Factors) -> str:
    """Return in words what an estimate rests on."""
    rates = "no probe, typical rates"
    if rated:
        rates = f"probe of {rated.at}" if rated.at else f"datasheet of {chip.name if chip else ''}"
    cells = f"{factors.cells} cells of {factors.runs} earlier runs"
    return f"{rates}; {cells}" if factors.cells else f"{rates}; no earlier records"


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


def devices(gpus: Sequence[Mapping[str, Any]]) -> list[Device]:
    """Return the GPUs of a machine with their chips, as its facts list them. Reads files: once a sweep."""
    matched = [(str(gpu.get("name")), chips.match(gpu)) for gpu in gpus]
    return [Device(name, chips.chip(short) if short else None) for name, short in matched]


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
