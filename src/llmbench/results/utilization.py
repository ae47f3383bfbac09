"""How near a cell came to what its device can do at most, and what held it back: the roofline's side.

Work and ceilings are those that the plan predicted, a set a cell. A share of a measured ceiling is always
called so: a ceiling that someone measured is no peak of a datasheet, and may turn out too low.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmbench.results.metrics import PERCENT, SHARES, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.results.metrics import Metric
    from llmbench.results.prediction import Prediction
    from llmbench.spec.sweep import Point

Reals: TypeAlias = NDArray[np.float64]

OVERHEAD_OVER = 2.0
"""Measured over twice the larger bound: most of the time went into neither operations nor bytes at their
ceilings, but into dispatch, kernels far from them, or traffic that the bounds leave out."""

UNITY_OVER = 1.05
"""Above this share a ceiling is wrong; below it, clocks and a better moment explain it."""

OPERATIONS, MEMORY = "the ceiling of operations", "the ceiling of memory"
WORDS = {
    "datasheet": (
        "% of peak", "the dense peak of the datasheet", "the bandwidth of the datasheet",
    ),
    "measured": (
        "% of measured", "the measured ceiling of operations", "the measured ceiling of memory",
    ),
}  # fmt: skip
"""By where the ceilings come from: the unit of a share, and what it is a share of."""


class Words(NamedTuple):
    """A column of words: its key in files, its head of two lines for people, and a text a cell."""

    key: str
    head: tuple[str, str]
    values: tuple[str, ...]


class PredictedWork(NamedTuple):
    """What was predicted of every cell: columns of shape [cells], NaN where it is not known.

    `sources` says where a cell's ceilings come from: `datasheet`, `measured`, or nothing.
    """

    prefill_work: Reals
    decode_work: Reals
    decode_moved: Reals
    compute_ceiling: Reals
    memory_ceiling: Reals
    least_prefill_s: Reals
    sources: tuple[str, ...]

    def of_sessions(self, owners: NDArray[np.int64]) -> Reals:
        """Return the work and the ceilings of sessions, given their cells; shape [5, sessions]."""
        return np.stack(self[:5])[:, owners]


def work_of(cells: Sequence[Point], predictions: Mapping[str, Prediction]) -> PredictedWork:
    """Return what was predicted of the cells; a figure without a source for its ceilings counts for nothing."""
    columns = np.full((6, len(cells)), np.nan)
    sources: list[str] = [""] * len(cells)
    for number, cell in enumerate(cells):
        known = predictions.get(cell.id)
        if known is None or known.source is None:
            continue
        sources[number] = known.source
        columns[:, number] = [
            np.nan if figure is None else figure
            for figure in (
                known.prefill_flops, known.decode_flops, known.decode_bytes,
                known.flops_s, known.bytes_s, known.least_prefill_s,
            )
        ]  # fmt: skip
    return PredictedWork._make((*columns, tuple(sources)))


def worded(metric: Metric, sources: Sequence[str]) -> Metric:
    """Return a metric whose unit and definition say what it is a share of; any other as it is."""
    if metric.unit is not PERCENT:
        return metric
    kinds = {source for source in sources if source}
    if len(kinds) != 1:
        return metric
    unit, peak, bandwidth = WORDS[kinds.pop()]
    text = metric.definition.replace(OPERATIONS, peak).replace(MEMORY, bandwidth)
    return metric._replace(unit=Unit(unit, PERCENT.factor), definition=text)


def sides(work: PredictedWork, ttft_s: Reals, decode_s: Reals) -> tuple[Words, ...]:
    """Return each cell's side of the roofline and the source of its ceilings; nothing if none are known.

    Args:
        work: what was predicted.
        ttft_s: measured, of shape [cells].
        decode_s: all steps after the first token, likewise.

    """
    if not any(work.sources):
        return ()
    prefill_s = work.prefill_work / work.compute_ceiling
    # The least time is the larger bound: where it is not that of operations, it is that of bytes.
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
    """Return what a time was spent on, by the two least times; nothing where one of the three is not known."""
    least_s = np.maximum(compute_s, bandwidth_s)  # NaN if either is
    larger = np.where(compute_s >= bandwidth_s, "compute", "bandwidth")
    named = np.where(measured_s > OVERHEAD_OVER * least_s, "overhead", larger)
    known = np.isfinite(measured_s) & (least_s > 0)
    return tuple(np.where(known, named, "").tolist())


def over_unity(key: str, middle: Reals, sources: Sequence[str]) -> Iterator[str]:
    """Yield what is to be said of cells that beat their ceilings: such a share is a wrong ceiling."""
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
"""Why a share can be above one."""
