"""Factors for each kind of cost, fitted to the medians of earlier runs on this machine.

A factor of one means that the probe's rates explain a run. The fit prefers factors near one: two records change an
estimate a little, and a hundred decide it. Without a probe, costs use typical rates of a processor, and factors may
be far from one.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from llmbench.errors import LlmbenchError
from llmbench.machine.peaks import Probe
from llmbench.models.shape import shape_of
from llmbench.predict import roofline
from llmbench.results import sessions, store
from llmbench.results.record import Plan, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llmbench.models.resolve import Model
    from llmbench.spec.sweep import Cell

MATCHING = ("cpu", "cpu_count", "cpu_flags")
"""Facts that two machines must share, besides GPU names, for the records of one to apply to the other."""

DISPATCH = "dispatch"

MOST_RUNS = 30
"""At most this many of a folder's runs are read, the newest first."""

PROBED_SPREAD, TYPICAL_SPREAD = 0.7, 2.0
"""The deviation of a factor's logarithm that weighs as much as a residual of `RESIDUAL`."""
RESIDUAL = 0.2
"""The spread of a measured time's logarithm around its estimate that counts as one unit."""
STEPS, LONGEST_STEP = 50, 0.5
"""Limits of the fit: far more steps than it needs, each of which changes a factor by at most 1.6."""
FEWEST = 2
"""Without a probe, the number of cells of the same dtype needed for an estimate."""

TYPICAL_FLOPS_S, TYPICAL_BYTES_S, TYPICAL_STEP_S = 1e11, 1e10, 2e-6
"""Rates of a processor core, its memory and a dispatch, to the nearest power of ten; records correct them."""


Reals: TypeAlias = "NDArray[np.float64]"
Bools: TypeAlias = "NDArray[np.bool_]"


class PastCell(NamedTuple):
    """The measurements of one cell: medians over all its valid sessions, in seconds."""

    run: str
    cell: Cell
    model: Model
    ttft_s: float
    tpot_s: float | None


class Factors(NamedTuple):
    """The factor of each kind of cost, by its name and dtype, and the cells behind it."""

    of: Mapping[str, float]
    cells: int
    runs: int

    def priced(self, costs: roofline.Costs, dtype: str, phase: str, device: str) -> float:
        """Return the seconds of one pass."""
        named = _named(costs, dtype, phase)
        dispatch = self.of.get(DISPATCH, 1.0) * named.pop(DISPATCH)
        rest = sum(self.of.get(name, 1.0) * value for name, value in named.items())
        return float(together(rest, dispatch, device))


NONE = Factors({}, 0, 0)


def together(rest: Any, dispatch: Any, device: str) -> Any:
    """Return the combined seconds; a GPU works while its host dispatches, and the longer of the two counts."""
    return rest + dispatch if device == "cpu" else np.maximum(rest, dispatch)


def past_cells(
    results: Path, facts: Mapping[str, Any], without: str | None = None
) -> list[PastCell]:
    """Return the measurements of a folder's runs on a machine like this; `without` excludes one run."""
    folders = [path.parent for path in results.glob(f"*/{store.RECORDS}")]
    newest = sorted(folders, key=lambda path: path.name, reverse=True)[:MOST_RUNS]
    return [cell for folder in newest for cell in _of_run(folder, facts, without)]


def typical(facts: Mapping[str, Any], dtypes: Iterable[str]) -> Probe:
    """Return typical rates for a machine without a probe; they are never stored as a measurement."""
    flops_s = TYPICAL_FLOPS_S * (facts.get("cpu_count") or 1)
    return Probe(
        device="cpu", name="typical", at="", torch="",
        copy_bytes_s=TYPICAL_BYTES_S, flops_s=dict.fromkeys(dtypes, flops_s), step_s=TYPICAL_STEP_S,
    )  # fmt: skip


def fitted(past: Sequence[PastCell], probe: Probe, *, probed: bool) -> Factors:
    """Return the factors with which the probe's rates best match the measurements."""
    observations = list(_observed(past, probe))
    if not observations:
        return NONE
    names = sorted({name for costs, _ in observations for name in costs})
    table = np.array([[costs.get(name, 0.0) for name in names] for costs, _ in observations])
    dispatched = np.array([name == DISPATCH for name in names])
    measured = np.log([time_s for _, time_s in observations])
    spread = PROBED_SPREAD if probed else TYPICAL_SPREAD

    logs = _nearest(table, dispatched, measured, spread, probe.device)
    factors = dict(zip(names, np.exp(logs).tolist(), strict=True))
    return Factors(factors, len(past), len({one.run for one in past}))


def _nearest(table: Reals, dispatched: Bools, measured: Reals, spread: float, device: str) -> Reals:
    """Return the factors' logarithms, shape [costs], with which the sums of a table best match the measurements.

    Gauss-Newton on the logarithms, in which an outlier weighs little: 1 / sqrt(1 + r^2) of its residual r. Written
    by hand because importing scipy.optimize takes longer than planning a sweep.

    Args:
        table: seconds, of shape [observations, costs].
        dispatched: which costs are dispatch.
        measured: logarithms of seconds, of shape [observations].
        spread: the expected deviation of a factor's logarithm.
        device: on a GPU, work and dispatch overlap.

    """
    logs = np.zeros(table.shape[1])
    for _ in range(STEPS):
        priced = table * np.exp(logs)
        rest, dispatch = priced[:, ~dispatched].sum(axis=1), priced[:, dispatched].sum(axis=1)
        whole = together(rest, dispatch, device)
        if device != "cpu":  # the part hidden behind the other takes no time
            priced *= np.where(dispatched, (dispatch >= rest)[:, None], (dispatch < rest)[:, None])
        off = (np.log(whole) - measured) / RESIDUAL
        weight = 1 / np.sqrt(1 + off**2)
        slope = priced / whole[:, None] / RESIDUAL
        bend = slope.T @ (weight[:, None] * slope) + np.diag(np.full(len(logs), spread**-2.0))
        change = np.linalg.solve(bend, slope.T @ (weight * off) + logs / spread**2)
        logs -= np.clip(change, -LONGEST_STEP, LONGEST_STEP)
    return logs


def _of_run(folder: Path, facts: Mapping[str, Any], without: str | None) -> Iterator[PastCell]:
    try:
        log = store.read(folder)
        plan = log.plan
        if plan is None or plan.run == without or not _alike(plan.machine, facts):
            return
        yield from _medians(plan, log.records(sessions.RecordedSession))
    except LlmbenchError:
        return  # ignore a run that cannot be read


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two machines have the same processors and the same GPUs."""
    gpus = [[gpu.get("name") for gpu in facts.get("gpus") or ()] for facts in (one, other)]
    return gpus[0] == gpus[1] and all(one.get(key) == other.get(key) for key in MATCHING)


def _medians(plan: Plan, ended: Iterable[sessions.RecordedSession]) -> Iterator[PastCell]:
    cells, models = {cell.id: cell for cell in plan.cells}, {one.name: one for one in plan.models}
    times: defaultdict[str, list[tuple[float, float | None]]] = defaultdict(list)
    for record in ended:
        if record.status is Status.OK and record.id in cells:
            session = _session(record.outcome.samples)
            times[record.id].extend([session] if session else [])
    for name, measured in times.items():
        cell = cells[name]
        steps = [step for _, step in measured if step]
        first = statistics.median(first for first, _ in measured)
        step = statistics.median(steps) if steps else None
        yield PastCell(plan.run, cell, models[cell.model], first, step)


def _session(samples: Sequence[sessions.RecordedSample]) -> tuple[float, float | None] | None:
    """Return a session's median TTFT and TPOT in seconds."""
    pairs = [
        (max(row[0] for row in one.token_ns) / 1e9, one.e2e_ns / 1e9, len(one.token_ns[0]))
        for one in samples
        if one.e2e_ns and not one.discarded and one.token_ns and all(one.token_ns)
    ]
    if not pairs:
        return None
    steps = [(whole - first) / (count - 1) for first, whole, count in pairs if count > 1]
    first = statistics.median(first for first, _, _ in pairs)
    return first, statistics.median(steps) if steps else None


def _observed(past: Iterable[PastCell], probe: Probe) -> Iterator[tuple[dict[str, float], float]]:
    """Yield the costs of each measured phase, by name, and its seconds."""
    for one in past:
        shape = shape_of(one.model.model_type, one.model.config)
        if shape is None or one.cell.dtype not in probe.flops_s:
            continue
        kind, dtype = str(one.model.model_type), one.cell.dtype
        speeds = roofline.Speeds(probe, dtype)
        costs = roofline.prefill_costs(shape, kind, one.cell, speeds)
        yield _named(costs, dtype, "prefill"), one.ttft_s
        if one.tpot_s:
            yield (
                _named(roofline.step_costs(shape, kind, one.cell, speeds), dtype, "decode"),
                one.tpot_s,
            )


def _named(costs: roofline.Costs, dtype: str, phase: str) -> dict[str, float]:
    """Return costs by the names of their factors: products by type of number, attention by phase.

    Matrices smaller than the probe's have factors of their own. Without this, the tiny ones of
    results/2026-11-26-*-quickstart made the prompts of *-cpu-engines 1.8 times too slow.
    """
    size = " beneath the probe" if costs.beneath else ""
    return {
        f"compute {dtype}{size}": costs.compute,
        f"weights {dtype}{size}": costs.weights,
        f"attention {phase}{size}": costs.attention,
        f"traffic{size}": costs.traffic,
        DISPATCH: costs.dispatch,
    }


def enough(past: Sequence[PastCell], dtype: str) -> bool:
    """Return whether there are enough records to estimate a dtype without a probe."""
    return sum(one.cell.dtype == dtype for one in past) >= FEWEST
