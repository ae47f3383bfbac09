"""Utilization: the share of its device's ceilings that a cell reached, and its bottleneck on the roofline.

Work and ceilings of each cell are those predicted in the plan. A share of a measured ceiling is always labelled,
because a measured ceiling is not a datasheet's peak and may be too low.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmbench.results.metrics import PERCENT, SHARES, Unit
from llmbench.stats.intervals import estimates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.results.metrics import Metric
    from llmbench.results.aggregate import Tally
    from llmbench.results.prediction import Prediction
    from llmbench.results.record import Plan
    from llmbench.results.sessions import Sessions
    from llmbench.spec.sweep import Point

Reals: TypeAlias = NDArray[np.float64]

OVERHEAD_OVER = 2.0
"""A time over twice the larger bound is overhead: most of it went into dispatch, slow kernels, or traffic that the
bounds ignore."""

UNITY_OVER = 1.05
"""Above this share a ceiling is wrong; up to it, varying clocks explain the excess."""

OPERATIONS, MEMORY = "the ceiling of operations", "the ceiling of memory"
WORDS = {
    "datasheet": (
        "% of peak", "the dense peak of the datasheet", "the bandwidth of the datasheet",
    ),
    "measured": (
        "% of measured", "the measured ceiling of operations", "the measured ceiling of memory",
    ),
}  # fmt: skip
"""The unit of a share and the name of its ceilings, by the source of the ceilings."""


class Words(NamedTuple):
    """A column of words: its key in files, its two-line heading, and a text for each cell."""

    key: str
    head: tuple[str, str]
    values: tuple[str, ...]


class PredictedWork(NamedTuple):
    """The predicted work of every cell: columns of shape [cells], NaN if unknown.

    `sources` has the source of each cell's ceilings: `datasheet`, `measured`, or empty.
    """

    prefill_work: Reals
    decode_work: Reals
    decode_moved: Reals
    compute_ceiling: Reals
    memory_ceiling: Reals
    least_prefill_s: Reals
    sources: tuple[str, ...]


def columns(tally: Tally, plan: Plan | None) -> tuple[PredictedWork, Sessions]:
    """Return the predicted work of a run's cells and the columns of its sessions, with work and ceilings."""
    work = work_of(tally.cells, plan.predictions if plan else {})
    owners = tally.numbers_of_owners()
    per_session = np.stack(work[:5])[:, owners]
    return work, tally.gatherer.sessions(tally.cells, per_session, owners)


def work_of(cells: Sequence[Point], predictions: Mapping[str, Prediction]) -> PredictedWork:
    """Return the predicted work of the cells, ignoring figures whose ceilings have no source."""
    columns = np.full((6, len(cells)), np.nan)
    sources: list[str] = [""] * len(cells)
    for number, cell in enumerate(cells if predictions else ()):
        known = predictions.get(cell.id)
        if known is None or known.source is None:
            continue
        sources[number] = known.source
        columns[:, number] = np.array(
            (
                known.prefill_flops, known.decode_flops, known.decode_bytes,
                known.flops_s, known.bytes_s, known.least_prefill_s,
            ),
            dtype=np.float64,  # None becomes NaN
        )  # fmt: skip
    return PredictedWork._make((*columns, tuple(sources)))


def worded(metric: Metric, sources: Sequence[str]) -> Metric:
    """Return a share metric with its ceiling in unit and definition; any other metric unchanged."""
    if metric.unit is not PERCENT:
        return metric
    kinds = {source for source in sources if source}
    if len(kinds) != 1:
        return metric
    unit, peak, bandwidth = WORDS[kinds.pop()]
    text = metric.definition.replace(OPERATIONS, peak).replace(MEMORY, bandwidth)
    return metric._replace(unit=Unit(unit, PERCENT.factor), definition=text)


def sides(work: PredictedWork, sessions: Sessions, owners: NDArray[np.int64]) -> tuple[Words, ...]:
    """Return each cell's side of the roofline, by its sessions' typical times, and the source of its ceilings.

    The result is empty if no ceilings are known.
    """
    if not any(work.sources):
        return ()
    count = len(work.sources)
    ttft_s, decode_s = (
        estimates(column, owners, count).middle for column in (sessions.ttft_s, sessions.decode_s)
    )
    prefill_s = work.prefill_work / work.compute_ceiling
    # The larger bound is the least time: that of operations or else that of bytes.
    moving_s = np.where(work.least_prefill_s > prefill_s * (1 + 1e-9), work.least_prefill_s, 0.0)
    moving_s[np.isnan(work.least_prefill_s)] = np.nan
    computing_s = work.decode_work / work.compute_ceiling
    reading_s = work.decode_moved / work.memory_ceiling
    return (
        Words("prefill_bound", ("prefill", "bound by"), side(ttft_s, prefill_s, moving_s)),
        Words("decode_bound", ("decode", "bound by"), side(decode_s, computing_s, reading_s)),
        Words("ceilings", ("ceilings", ""), work.sources),
    )


def side(measured_s: Reals, compute_s: Reals, bandwidth_s: Reals) -> tuple[str, ...]:
    """Return the bottleneck behind each time, from the two bounds; empty where one of the three is unknown."""
    least_s = np.maximum(compute_s, bandwidth_s)  # NaN if either is NaN
    larger = np.where(compute_s >= bandwidth_s, "compute", "bandwidth")
    named = np.where(measured_s > OVERHEAD_OVER * least_s, "overhead", larger)
    known = np.isfinite(measured_s) & (least_s > 0)
    return tuple(np.where(known, named, "").tolist())


def over_unity(key: str, middle: Reals, sources: Sequence[str]) -> Iterator[str]:
    """Yield warnings about cells that beat their ceilings, which shows that a ceiling is wrong."""
    if key not in SHARES:
        return
    for source, (_, peak, bandwidth) in WORDS.items():
        mine = middle[np.array([each == source for each in sources], dtype=bool)]
        over = mine[mine > UNITY_OVER]
        if over.size:
            what = bandwidth if key.startswith("mbu") else peak
            cells = f"{over.size} cell{'' if over.size == 1 else 's'}"
            yield f"{key} reaches {over.max():.0%} of {what} ({cells} over {UNITY_OVER:.0%}): {WHY[source]}."


WHY = {
    "datasheet": "the time or the peak is wrong, or the weights came out of a cache",
    "measured": (
        "the probe was too low, or the weights came out of a cache; "
        "measure again with llmbench machine --probe on an idle machine"
    ),
}
"""The reason why a share can be above one, by the source of the ceilings."""
