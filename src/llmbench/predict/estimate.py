"""Predictions of a cell's memory and time before it runs; unknown figures are absent, with the reason."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from llmbench import numbers
from llmbench.machine import chips
from llmbench.machine.chips import TERA
from llmbench.machine.peaks import Probe
from llmbench.models import checkpoint, formulas, resolve
from llmbench.predict import memory as predict_memory
from llmbench.predict import nearest, roofline
from llmbench.predict.roofline import ON_CHIP_BYTES
from llmbench.results.prediction import Prediction
from llmbench.spec.grid import QUANTIZATION
from llmbench.spec.sweep import SPREADING, gpus_of, groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.machine.chips import Chip
    from llmbench.models.counts import Counts
    from llmbench.models.resolve import Model
    from llmbench.predict.nearest import Engine, PastCell
    from llmbench.spec.sweep import Cell, Protocol

UNPROBED_STEP_S = 5e-6
"""Assumed seconds to dispatch an operation on a machine without a probe."""

LOAD_S, LOAD_BYTES_S = 1.1, 2e9
"""Time to load a model: configuration and imports, then its weights (results/*-quickstart and *-cpu-7b)."""

WARM_UPS = 5
"""Warm-up calls until three in a row agree on a quiet machine; the median of results/*-quickstart."""

HOW = "llmbench machine --probe"
PREDICTED = "transformers"
"""The engine whose loops are modelled; others have their own caches, kernels and memory plans."""
COMPUTING = (PREDICTED, "vllm", "llamacpp")
"""The engines that compute a model, whose work can be compared with a ceiling; the fake one does not."""
ONE_DEVICE = (
    ("device_map", "none"), ("tensor_parallel_size", 1), ("pipeline_parallel_size", 1), ("speculative", "none"),
    ("lora", ""),
)  # fmt: skip
"""Options, with the defaults under which one device holds all weights and reads them once a token."""


class PredictedMachine(NamedTuple):
    """The machine that cells are predicted for.

    Attributes:
        have_bytes: memory by device, `cpu` and `cuda`.
        chip: a GPU's datasheet, if it is known.
        probes: measured ceilings, one a device at most.
        past: measurements of earlier runs on such a machine, by engine.

    """

    have_bytes: Mapping[str, int | None]
    chip: Chip | None
    probes: Sequence[Probe]
    past: Mapping[Engine, Sequence[PastCell]]
    gpus: int = 1


class Pace(NamedTuple):
    """The rates for one device and dtype, and the ceilings; each may be unknown."""

    speeds: roofline.Speeds | None
    probed: bool
    flops_s: float | None
    bytes_s: float | None
    source: Literal["datasheet", "measured"] | None
    basis: str


def here(
    machine_facts: Mapping[str, Any], probes: Sequence[Probe], past: Sequence[PastCell]
) -> PredictedMachine:
    """Return this machine, described by `machine.machine()`."""
    gpus = machine_facts["gpus"]
    kinds = {device.chip and device.chip.name: device.chip for device in chips.devices(gpus)}
    return PredictedMachine(
        have_bytes={
            "cpu": machine_facts["memory_available_bytes"],
            "cuda": gpus[0].get("memory_bytes") if gpus else None,
        },
        chip=next(iter(kinds.values())) if len(kinds) == 1 else None,
        probes=[probe for probe in probes if probe.quiet],
        past=nearest.by_engine(past),
        gpus=len(gpus),
    )


def elsewhere(chip: Chip, gpus: int = 1) -> PredictedMachine:
    """Return a machine with chips of this kind, described only by their datasheet."""
    return PredictedMachine({"cpu": None, "cuda": chip.memory_bytes()}, chip, (), {}, gpus)


def predictions(
    cells: Sequence[Cell], models: Mapping[str, Model], protocol: Protocol, place: PredictedMachine
) -> dict[str, Prediction]:
    """Return a prediction for each cell, by id, without unknown figures.

    The load time is divided among the cells of a group, which share one worker.
    """
    known = {name: resolve.dense_counts_of(model) for name, model in models.items()}
    paces: dict[tuple[str, str], Pace] = {}
    predicted: dict[str, Prediction] = {}
    for group in groups(cells, protocol.isolation):
        for cell in group:
            key = (cell.device, cell.dtype)
            counts, model = known[cell.model], models[cell.model]
            saved = _saved(cell, model, counts)
            if counts is None or cell.backend not in COMPUTING:
                predicted[cell.id] = Prediction(basis=_nothing_known(cell, model))
                continue
            pace = paces.get(key) or paces.setdefault(key, _pace(*key, place))
            otherwise = _otherwise(cell) or (_nothing_known(cell, model) if saved is None else "")
            if otherwise:
                pace = Pace(None, False, None, None, None, otherwise)
            elif scheme := _scheme(cell, model):
                pace = _quantised(pace, scheme)
            least = _least(cell, counts, pace, None if otherwise else saved)
            if cell.backend != PREDICTED or saved is None:
                predicted[cell.id] = least
                continue
            have = _have(cell, place) if not otherwise or _is_spread(cell) else None
            held = predict_memory.footprint(counts, str(model.model_type), cell)
            held = held._replace(weights_bytes=held.weights_bytes - saved)
            predicted[cell.id] = filled = _filled(least, held, have)
            if times := _times(cell, counts, str(model.model_type), pace, place):
                predicted[cell.id] = _timed(filled, times, cell, protocol, len(group))
    return predicted


def at_least(
    cells: Sequence[Cell], models: Mapping[str, Model], protocol: Protocol, place: PredictedMachine
) -> dict[str, Prediction]:
    """Return the least times of the cells of other engines that compute, by id, on as many devices as each takes.

    They are for a plan alone: no record is compared with them.
    """
    known = {name: resolve.counts_of(model) for name, model in models.items()}
    least: dict[str, Prediction] = {}
    for group in groups(cells, protocol.isolation):
        first, counts = group[0], known[group[0].model]
        if first.backend == PREDICTED or first.backend not in COMPUTING or counts is None:
            continue
        pace, count = _pace(first.device, first.dtype, place), gpus_of(first.options, 1)
        if first.options.get(QUANTIZATION) or not pace.flops_s or not pace.bytes_s:
            continue
        weights = Prediction(weights_bytes=formulas.weight_bytes(counts, first.dtype) // count)
        basis = (
            f"{first.backend} takes at least these times, of the model's own work at {count} x "
            f"{numbers.rate(pace.flops_s, 'FLOP/s')} and {numbers.rate(pace.bytes_s, 'B/s')} ({pace.source})"
        )
        for cell in group:
            work = roofline.work(counts, cell)
            first_s, steps_s = _least_s(work, count * pace.flops_s, count * pace.bytes_s)
            times = nearest.Times(
                first_s or 0.0, (steps_s or 0.0) / max(1, cell.output_len - 1), basis
            )
            least[cell.id] = _timed(weights, times, cell, protocol, len(group))
    return least


def _nothing_known(cell: Cell, model: Model) -> str:
    if cell.backend not in COMPUTING:
        return f"no predictions for the backend {cell.backend}"
    if scheme := checkpoint.quantisation(model.config):
        return f"its weights are quantised ({scheme}, by quantization_config)"
    if asked := cell.options.get(QUANTIZATION):
        return f"the bytes of weights that {asked} leaves are not known"
    return f"the shape of {model.model_type or 'a model that only the hub knows'} is not known"


def _scheme(cell: Cell, model: Model) -> str | None:
    """Return how a cell's weights are quantised; None if they are not."""
    asked = cell.options.get(QUANTIZATION)
    return checkpoint.quantisation(model.config) or (str(asked) if asked else None)


def _saved(cell: Cell, model: Model, counts: Counts | None) -> int | None:
    """Return by how many bytes quantisation makes a cell's weights smaller; None if nobody knows."""
    scheme = _scheme(cell, model)
    if scheme is None or counts is None:
        return 0
    real = cell.load_format == "safetensors"
    if checkpoint.quantisation(model.config) and not (real and model.stored_bytes):
        return None
    return formulas.saved_bytes(counts, cell.dtype, scheme, model.stored_bytes)


def _quantised(pace: Pace, scheme: str) -> Pace:
    """Return a pace for quantised weights: no times, and no ceiling of operations that the dtype does not have."""
    flops_s = pace.flops_s if scheme in formulas.WEIGHT_ONLY else None
    return Pace(
        None,
        False,
        flops_s,
        pace.bytes_s,
        pace.source,
        f"no times: quantization={scheme} has its own kernels",
    )


def _is_spread(cell: Cell) -> bool:
    """Return whether a cell's model is placed over all GPUs."""
    return cell.options.get("device_map") in SPREADING and cell.device == "cuda"


def _have(cell: Cell, place: PredictedMachine) -> int | None:
    """Return the memory that a cell may use: that of one device, or of all GPUs that its model is spread over."""
    have = place.have_bytes.get(cell.device)
    return have * place.gpus if have and _is_spread(cell) else have


def _otherwise(cell: Cell) -> str:
    """Return why the rates of one device do not apply to a cell; empty if they do."""
    for name, usual in ONE_DEVICE:
        if (given := cell.options.get(name, usual)) != usual:
            return f"no times: {name}={given} changes where the weights are, or how often they are read"
    return ""


def _least(cell: Cell, counts: Counts, pace: Pace, saved: int | None) -> Prediction:
    """Return the work of a cell and the least time for it, in any engine.

    Weight bytes are known only if all weights are on the device; `saved` are those that quantisation takes away.
    """
    work = roofline.work(counts, cell)
    work = work._replace(
        step_weight_bytes=work.step_weight_bytes - (saved or 0),
        decode_bytes=work.decode_bytes - (cell.output_len - 1) * (saved or 0),
    )
    least_prefill_s, least_decode_s = _least_s(work, pace.flops_s, pace.bytes_s)
    return Prediction(
        weights_bytes=None if saved is None else formulas.weight_bytes(counts, cell.dtype) - saved,
        prefill_flops=work.prefill_flops,
        decode_flops=work.decode_flops,
        decode_bytes=work.decode_bytes,
        flops_s=pace.flops_s,
        bytes_s=pace.bytes_s,
        source=pace.source,
        least_prefill_s=least_prefill_s,
        least_decode_s=least_decode_s,
        basis=pace.basis
        if cell.backend == PREDICTED
        else f"the model's own work only, not what {cell.backend} adds",
    )


def _least_s(
    work: roofline.Work, flops_s: float | None, bytes_s: float | None
) -> tuple[float | None, float | None]:
    """Return the least seconds of the prefill and of all decode steps; None unless both ceilings are known."""
    cold = work.step_weight_bytes >= ON_CHIP_BYTES
    once, moved = (work.step_weight_bytes, work.decode_bytes) if cold else (0, 0)
    return (
        roofline.least_s(work.prefill_flops, once, flops_s, bytes_s),
        roofline.least_s(work.decode_flops, moved, flops_s, bytes_s),
    )


def _filled(least: Prediction, held: predict_memory.Footprint, have: int | None) -> Prediction:
    """Return the prediction with the cell's memory added."""
    return msgspec.structs.replace(
        least,
        **held._asdict(),
        need_bytes=held.need_bytes,
        have_bytes=have,
        fits=predict_memory.fits(held.need_bytes, have),
    )


def _times(
    cell: Cell, counts: Counts, kind: str, pace: Pace, place: PredictedMachine
) -> nearest.Times | None:
    """Return the times of a cell by a probe, else by the nearest measured cell, else by a datasheet.

    A probe's are the most accurate while the machine is as it was then: all of TPOT in the run after it,
    results/2026-11-30-xeon-2cpu-quickstart, are within a factor of 1.13, and 70 % in all runs within 1.5.
    """
    past = None if pace.probed else nearest.times(cell, place.past)
    if past or pace.speeds is None:
        return past
    return nearest.Times(
        roofline.prefill_s(counts, kind, cell, pace.speeds),
        roofline.step_s(counts, kind, cell, pace.speeds),
        pace.basis,
    )


def _timed(
    filled: Prediction, times: nearest.Times, cell: Cell, protocol: Protocol, sharing: int
) -> Prediction:
    """Return the prediction with times added: of the phases, and of a session with its share of the load."""
    step_s = times.tpot_s if cell.output_len > 1 else None
    iteration_s = times.ttft_s + (cell.output_len - 1) * (times.tpot_s or 0.0)
    load_s = (LOAD_S + (filled.weights_bytes or 0) / LOAD_BYTES_S) / sharing
    return msgspec.structs.replace(
        filled,
        ttft_s=times.ttft_s,
        tpot_s=step_s,
        session_s=load_s + _calls(iteration_s, protocol) * iteration_s,
        basis=times.basis,
    )


def _calls(iteration_s: float, protocol: Protocol) -> int:
    """Return how often a session calls the engine: warm-up, iterations, and one call for memory."""
    timed = max(protocol.iterations, math.ceil(protocol.min_time_s / iteration_s))
    warm = max(protocol.warmup, WARM_UPS)
    warm = max(protocol.warmup, min(warm, math.ceil(protocol.warmup_budget_s / iteration_s)))
    return warm + min(timed, protocol.max_iterations) + 1


def _pace(device: str, dtype: str, place: PredictedMachine) -> Pace:
    """Return the rates to use: ceilings from a datasheet or else a probe, times from a probe or else a datasheet."""
    probe = next((one for one in place.probes if one.device == device), None)
    chip = place.chip if device == "cuda" else None
    measured = probe if probe and probe.flops_s.get(dtype) else None
    rated = measured or (chip and _of_chip(chip, dtype))
    least = _ceilings(chip, probe, dtype)
    if rated:
        return Pace(roofline.Speeds(rated, dtype), bool(measured), *least, _basis(rated, dtype))
    why = f"no times, because there is no probe, datasheet or record for {dtype} on {device}; {HOW} makes one"
    if chip and chip.dense_tflops and dtype == "bfloat16" and dtype not in chip.dense_tflops:
        why = f"no times, because {chip.name} has no bfloat16; ask for dtype auto or float16"
    return Pace(None, False, *least, why)


def _basis(rated: Probe, dtype: str) -> str:
    """Return in words what times are estimated from: rates, and what the host takes for a layer."""
    read = rated.read_bytes_s.get(dtype) or rated.copy_bytes_s or 0.0
    rates = (
        f"{numbers.rate(read, 'B/s')}, {numbers.rate(rated.flops_s[dtype], 'FLOP/s')} in {dtype}"
    )
    host = f"{(rated.step_s or 0.0) * roofline.EVENTS_PER_LAYER * 1e6:,.0f} us a layer"
    if rated.at:
        return f"probe of {rated.at} ({rates}; {host} for the host)"
    return (
        f"datasheet of {rated.name} ({rates}), and {host} assumed for the host; no earlier records"
    )


def _of_chip(chip: Chip, dtype: str) -> Probe | None:
    """Return a datasheet's peaks as rates; None if unverified. transformers leaves TF32 off."""
    bandwidth = chip.bandwidth()
    if chip.flops(dtype) is None or bandwidth is None:
        return None
    flops = chip.dense_tflops[dtype] * TERA
    return Probe(
        device="cuda", name=chip.name, at="", torch="", copy_bytes_s=bandwidth,
        flops_s={dtype: flops}, step_s=UNPROBED_STEP_S,
    )  # fmt: skip


def _ceilings(
    chip: Chip | None, probe: Probe | None, dtype: str
) -> tuple[float | None, float | None, Literal["datasheet", "measured"] | None]:
    """Return the peak operations and bytes per second, and their source."""
    if chip and chip.flops(dtype) and chip.bandwidth():
        return chip.flops(dtype), chip.bandwidth(), "datasheet"
    read = [*probe.read_bytes_s.values(), probe.copy_bytes_s or 0.0] if probe else []
    if probe and probe.flops_s.get(dtype) and max(read):
        return probe.flops_s[dtype], max(read), "measured"
    return None, None, None
