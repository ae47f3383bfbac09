"""What earlier runs of this machine teach about time: a factor for each kind of cost, fitted to their medians.

A factor of one means that the probe's rates explain a run. Each is held near one until runs pull it away, so
two records move an estimate a little and a hundred decide it. Where nobody probed, the costs are at rates
that any processor has, and the factors are free to go far.
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
"""What two machines must share for the records of one to teach about the other, besides the GPUs' names."""

DISPATCH = "dispatch"

MOST_RUNS = 30
"""The newest so many runs of a folder are read."""

PROBED_SPREAD, TYPICAL_SPREAD = 0.7, 2.0
"""How far a factor's logarithm may stray before it weighs as much as a residual of `RESIDUAL`."""
RESIDUAL = 0.2
"""The spread of a measured time's logarithm around its estimate that counts as one."""
STEPS, LONGEST_STEP = 50, 0.5
"""Of the fit: far more than it takes to settle, none of which changes a factor by more than 1.6."""
FEWEST = 2
"""Without a probe, cells of the same type of number needed before anything is estimated."""

TYPICAL_FLOPS_S, TYPICAL_BYTES_S, TYPICAL_STEP_S = 1e11, 1e10, 2e-6
"""A processor's core, its memory, and a dispatch: to the nearest power of ten; records decide."""


Reals: TypeAlias = "NDArray[np.float64]"
Bools: TypeAlias = "NDArray[np.bool_]"


class PastCell(NamedTuple):
    """One cell as it was measured: medians over all its valid sessions, in seconds."""

    run: str
    cell: Cell
    model: Model
    ttft_s: float
    tpot_s: float | None


class Factors(NamedTuple):
    """By what each kind of cost is multiplied, by its name and the type of number; and the cells behind it."""

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
    """Return the seconds of both; a GPU works while its host dispatches, so the longer of the two counts."""
    return rest + dispatch if device == "cpu" else np.maximum(rest, dispatch)


def past_cells(
    results: Path, found: Mapping[str, Any], without: str | None = None
) -> list[PastCell]:
    """Return what the runs under a folder measured on a machine like this; `without` leaves one run out."""
    folders = [path.parent for path in results.glob(f"*/{store.RECORDS}")]
    newest = sorted(folders, key=lambda path: path.name, reverse=True)[:MOST_RUNS]
    return [cell for folder in newest for cell in _of_run(folder, found, without)]


def typical(found: Mapping[str, Any], dtypes: Iterable[str]) -> Probe:
    """Return rates to begin with where nobody probed: no measurement, and never stored as one."""
    flops_s = TYPICAL_FLOPS_S * (found.get("cpu_count") or 1)
    return Probe(
        device="cpu", name="typical", at="", torch="",
        copy_bytes_s=TYPICAL_BYTES_S, flops_s=dict.fromkeys(dtypes, flops_s), step_s=TYPICAL_STEP_S,
    )  # fmt: skip


def fitted(past: Sequence[PastCell], probe: Probe, *, probed: bool) -> Factors:
    """Return the factors under which the probe's rates come nearest to what was measured."""
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
    """Return the factors' logarithms, shape [costs], that bring the sums of a table nearest to what was measured.

    Gauss-Newton on the logarithms, where one wild record weighs little: by 1 / sqrt(1 + r^2) of its residual r.
    By hand, because importing scipy.optimize takes longer than planning a sweep.

    Args:
        table: seconds, of shape [observations, costs].
        dispatched: which of the costs are dispatch.
        measured: logarithms of seconds, of shape [observations].
        spread: how far a factor's logarithm may stray.
        device: a GPU works while its host dispatches.

    """
    logs = np.zeros(table.shape[1])
    for _ in range(STEPS):
        priced = table * np.exp(logs)
        rest, dispatch = priced[:, ~dispatched].sum(axis=1), priced[:, dispatched].sum(axis=1)
        whole = together(rest, dispatch, device)
        if device != "cpu":  # the part that is hidden behind the other takes no time
            priced *= np.where(dispatched, (dispatch >= rest)[:, None], (dispatch < rest)[:, None])
        off = (np.log(whole) - measured) / RESIDUAL
        weight = 1 / np.sqrt(1 + off**2)
        slope = priced / whole[:, None] / RESIDUAL
        bend = slope.T @ (weight[:, None] * slope) + np.diag(np.full(len(logs), spread**-2.0))
        change = np.linalg.solve(bend, slope.T @ (weight * off) + logs / spread**2)
        logs -= np.clip(change, -LONGEST_STEP, LONGEST_STEP)
    return logs


def _of_run(folder: Path, found: Mapping[str, Any], without: str | None) -> Iterator[PastCell]:
    try:
        log = store.read(folder)
        plan = log.plan
        if plan is None or plan.run == without or not _alike(plan.machine, found):
            return
        yield from _medians(plan, log.records(sessions.Ended))
    except LlmbenchError:
        return  # a run that cannot be read teaches nothing


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two machines have the same processors and the same GPUs."""
    gpus = [[gpu.get("name") for gpu in facts.get("gpus") or ()] for facts in (one, other)]
    return gpus[0] == gpus[1] and all(one.get(key) == other.get(key) for key in MATCHING)


def _medians(plan: Plan, ended: Iterable[sessions.Ended]) -> Iterator[PastCell]:
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


def _session(samples: Sequence[sessions.Timed]) -> tuple[float, float | None] | None:
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
    """Yield the costs of each phase that was measured, by name, and its seconds."""
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

    Matrices beneath the probe's have factors of their own: the tiny ones of results/2026-11-26-*-quickstart had
    taught that the prompts of *-cpu-engines would take 1.8 times as long as they do.
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
    """Return whether records alone, without a probe, say something about a type of number."""
    return sum(one.cell.dtype == dtype for one in past) >= FEWEST
