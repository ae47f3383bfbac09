"""The roofline: operations a second over operations a byte, below the ceilings of the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmbench.report import plots
from llmbench.report.figures.cells import MOST_POINTS, thinned
from llmbench.results.metrics import BY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.report.document import Section
    from llmbench.report.figures.cells import Dot
    from llmbench.report.plots import Row, Spec
    from llmbench.results.prediction import Prediction

TTFT, TPOT = BY_KEY["ttft_s"], BY_KEY["tpot_s"]
GIGA = 1e9
TITLE = "Roofline"
ABOUT = (
    "Each cell's prefill and decode: the operations that it must do for each byte that it must read, and how many "
    "a second it did; a prefill reads the weights once. The roof is what the device can do: its memory's slope, "
    "then the level of its arithmetic. Work and roof were worked out before the run; the times are measured. A cell "
    "can lie above a roof: weights that fit into a cache are read faster than memory, and a probe can measure too low."
)


class Roof(NamedTuple):
    """The ceilings of a device for a dtype, and where they come from."""

    name: str
    flops_s: float
    bytes_s: float


class Phase(NamedTuple):
    """One phase of one cell: FLOP for each byte, and FLOP a second."""

    dot: Dot
    name: str
    intensity: float
    flops_s: float
    roof: Roof | None

    @property
    def limit(self) -> float | None:
        """Return the height of the roof at this intensity, if there is a roof."""
        return self.roof and min(self.roof.flops_s, self.roof.bytes_s * self.intensity)


def figures(dots: Sequence[Dot]) -> Iterator[Section]:
    """Yield the figure."""
    phases = [phase for dot in dots for phase in _phases(dot)]
    if not phases:
        yield plots.section(
            TITLE, "Left out: the plan of the run holds no predicted work for its cells."
        )
        return
    roofs = list(dict.fromkeys(phase.roof for phase in phases if phase.roof))
    rows, colour = plots.arranged(
        [_row(phase) for phase in thinned(phases, MOST_POINTS)],
        "all",
        "series",
        [dot.series for dot in dots],
    )
    missing = () if roofs else ("No ceilings: the device is not a known chip and was not probed.",)
    spec, left = _spec(rows, colour, roofs), ("cell", "phase", "roof", "warnings")
    notes = (*plots.thinning(len(rows), len(phases), "phases of cells"), *missing)
    yield plots.figure(TITLE, ABOUT, spec, rows, notes, left)


def _phases(dot: Dot) -> Iterator[Phase]:
    """Yield the phases whose work was predicted and whose time was measured."""
    plan = dot.run.table.plan
    work = plan.predictions.get(dot.cell.id) if plan else None
    if work is None:
        return
    roof = _roof(dot, work)
    ttft, tpot = dot.number(TTFT), dot.number(TPOT)
    if work.prefill_flops and work.weights_bytes and ttft:
        time_s = ttft.value / TTFT.unit.factor
        rate = work.prefill_flops / time_s
        yield Phase(dot, "prefill", work.prefill_flops / work.weights_bytes, rate, roof)
    if work.decode_flops and work.decode_bytes and tpot and dot.cell.output_len:
        time_s = tpot.value / TPOT.unit.factor * (dot.cell.output_len - 1)
        rate = work.decode_flops / time_s
        yield Phase(dot, "decode", work.decode_flops / work.decode_bytes, rate, roof)


def _roof(dot: Dot, work: Prediction) -> Roof | None:
    if not (work.flops_s and work.bytes_s):
        return None
    ceilings = f"{work.bytes_s / GIGA:,.4g} GB/s, {work.flops_s / GIGA:,.4g} GFLOP/s"
    return Roof(f"{dot.cell.dtype}, {work.source}: {ceilings}", work.flops_s, work.bytes_s)


def _row(phase: Phase) -> Row:
    record = {
        "phase": phase.name,
        "FLOP/byte": f"{phase.intensity:,.3g}",
        "GFLOP/s": f"{phase.flops_s / GIGA:,.4g}",
    }
    if phase.roof and phase.limit:
        record |= {"of the roof": f"{phase.flops_s / phase.limit:.0%}", "roof": phase.roof.name}
    return {
        "all": "",
        "series": phase.dot.series,
        "phase": phase.name,
        "x": plots.rounded(phase.intensity),
        "y": plots.rounded(phase.flops_s / GIGA),
        "record": plots.record(phase.dot, record),
    }


def _spec(rows: Sequence[Row], colour: Spec, roofs: Sequence[Roof]) -> Spec:
    corners = list(_corners([row["x"] for row in rows], roofs))
    x = plots.logarithmic("x", "FLOP per byte read", (one["x"] for one in (*rows, *corners)))
    y = plots.logarithmic("y", "GFLOP/s", (one["y"] for one in (*rows, *corners)))
    roof = {"field": "roof"}
    line = {"type": "line", "strokeWidth": 1.5, "opacity": 0.7}
    lines = {"data": {"values": corners}, **plots.layer(line, x=x, y=y, detail=roof)}
    names = {
        "data": {"values": [corner for corner in corners if corner["named"]]},
        **plots.layer({"type": "text", "align": "right", "dy": -7}, x=x, y=y, text=roof),
    }
    point = {"type": "point", "size": 55, "filled": False, "strokeWidth": 1.5}
    phase = plots.nominal("phase", sort=None)
    marks = plots.layer(point, rows, x=x, y=y, color=colour, shape=phase)
    named = [names] if len({row["panel"] for row in rows}) == 1 else []  # else no panel has room
    return plots.panels(rows, [lines, *named, marks] if corners else [marks])


def _corners(intensities: Sequence[float], roofs: Sequence[Roof]) -> Iterator[Row]:
    """Yield three dots of each roof: where the dots begin, its ridge, and where it ends."""
    least, most = min(intensities) / 2, max(intensities) * 2
    for roof in roofs:
        ridge = roof.flops_s / roof.bytes_s
        ends = sorted({min(least, ridge / 2), ridge, max(most, ridge * 2)})
        for number, x in enumerate(ends):
            y = min(roof.flops_s, roof.bytes_s * x) / GIGA
            named = number == len(ends) - 1
            yield {
                "roof": roof.name,
                "x": plots.rounded(x),
                "y": plots.rounded(y),
                "named": named,
            }
