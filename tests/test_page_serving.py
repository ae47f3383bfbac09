"""The page of a served run: it leads with what was served, and its curves have their knees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmbench.report.document import Plot
from llmbench.report.figures.cells import ReportedRun, dots
from llmbench.report.views import report
from llmbench.results import store

if TYPE_CHECKING:
    from collections.abc import Mapping

RESULTS = Path(__file__).parents[1] / "results"
SERVED = next(RESULTS.glob("*-served"))


@pytest.fixture(scope="module")
def run() -> ReportedRun:
    return report.seen(store.read(SERVED), "served")


def plots_of(run: ReportedRun) -> Mapping[str, Mapping[str, Any]]:
    sections = report.document([run]).sections
    return {
        section.title: block.spec
        for section in sections
        for block in section.blocks
        if isinstance(block, Plot)
    }


def test_a_served_page_leads_with_what_was_served_and_leaves_batches_out(
    run: ReportedRun,
) -> None:
    document = report.document([run])

    found = [note.text for note in document.about]
    assert found[0].startswith("Goodput is highest at")
    assert "lowest" not in found[0].partition(";")[0]  # which only the least load has
    assert any("Served TTFT is lowest at" in text for text in found)
    titles = list(plots_of(run))
    assert titles == ["Served TTFT over load", "Served TPOT over load", "Goodput over load"]


def test_each_curve_has_one_knee_where_its_goodput_is_highest(run: ReportedRun) -> None:
    spec = plots_of(run)["Goodput over load"]

    rows = spec["data"]["values"]
    for curve in {row["curve"] for row in rows}:
        mine = [row for row in rows if row["curve"] == curve]
        rings = [row for row in mine if row["knee"]]
        if len(mine) > 2:
            assert [row["y"] for row in rings] == [max(row["y"] for row in mine)]
        else:
            assert not rings


def test_loads_are_no_series_of_their_own(run: ReportedRun) -> None:
    assert {dot.variant for dot in dots([run])} == {""}
    assert all("load " in dot.name for dot in dots([run]))


def test_each_dot_names_its_load_and_only_the_first_figure_says_what_dots_are(
    run: ReportedRun,
) -> None:
    specs = plots_of(run)
    abouts = [
        block.caption
        for section in report.document([run]).sections
        for block in section.blocks
        if isinstance(block, Plot)
    ]

    for spec in specs.values():
        assert {row["load"] for row in spec["data"]["values"]} <= {"1", "4", "16", "1/s"}
        assert any(layer["mark"].get("type") == "text" for layer in spec["layer"])
    assert ["Each dot is a load" in about for about in abouts] == [True, False, False]
