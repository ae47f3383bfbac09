"""Shares of ceilings and sides of the roofline: each figure reckoned here by hand, and never called what it is not."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llmbench.results import metrics, store, table, utilization
from llmbench.results.prediction import Prediction
from llmbench.spec.sweep import Protocol
from make_records import make_cell, make_plan, make_record, make_samples
from pages import shown

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.results.table import Table

CELL = make_cell(0, batch_size=2, input_len=32, output_len=11)
OTHER = make_cell(0, batch_size=4, input_len=32, output_len=11)

KNOWN = Prediction(
    prefill_flops=40_000, decode_flops=3_000, decode_bytes=80_000,
    flops_s=1e6, bytes_s=1e5, source="datasheet", least_prefill_s=0.04,
)  # fmt: skip
"""Prefill takes 0.04 s at least, for its operations; decoding 0.003 s for operations and 0.8 s for bytes."""


def known(**changes: Any) -> Prediction:
    facts = {name: getattr(KNOWN, name) for name in KNOWN.__struct_fields__}
    return Prediction(**{**facts, **changes})


@pytest.fixture
def built(tmp_path: Path) -> Any:
    """Return a function from predictions to the table of two sessions a cell: ttft 0.05 s, then 1.0 s for 10 tokens."""

    def build(chosen: Any = None, **predictions: Prediction) -> Table:
        cells = [CELL, OTHER][: max(1, len(predictions))]
        by_id = dict(zip([cell.id for cell in cells], predictions.values(), strict=False))
        with store.open_run(tmp_path / "run") as run:
            run.append(make_plan(cells, settings=Protocol(sessions=2), predictions=by_id))
            for cell in cells:
                for session in (1, 2):
                    samples = make_samples([1.05] * 3, 0.05, cell.output_len)
                    run.append(make_record(cell, session, samples))
        return table.build(store.read(tmp_path / "run"), chosen and metrics.named(chosen))

    return build


def middle(made: Table, key: str) -> float:
    [numbers] = [each for each in made.numbers if each.metric.key == key]
    return float(numbers.middle[0])


def test_shares_are_work_over_time_over_the_ceiling(built: Any) -> None:
    made = built(one=KNOWN)

    assert middle(made, "mfu_prefill") == pytest.approx(40_000 / 0.05 / 1e6)  # 80 %
    assert middle(made, "mfu_decode") == pytest.approx(3_000 / 1.0 / 1e6)  # 0.3 %
    assert middle(made, "mbu_decode") == pytest.approx(80_000 / 1.0 / 1e5)  # 80 %


@pytest.mark.parametrize("missing", [{"flops_s": None, "bytes_s": None}, {"source": None}])
def test_without_ceilings_there_are_no_shares(built: Any, missing: dict[str, Any]) -> None:
    made = built(one=known(**missing))

    assert not {*metrics.SHARES} & {numbers.metric.key for numbers in made.numbers}
    assert all(not words.values[0] for words in made.sides[:2])


def test_a_run_without_predictions_has_neither(built: Any) -> None:
    made = built()

    assert made.sides == ()
    assert "bound" not in shown(made, "csv")


def test_shares_are_not_shown_unless_asked_for(built: Any) -> None:
    text = shown(built(one=KNOWN), "markdown")

    assert "MFU" not in text
    assert "bound by" not in text


def test_a_share_says_of_what(built: Any) -> None:
    text = shown(built([*metrics.SHARES], one=KNOWN), "markdown")

    assert "| prefill MFU (% of peak) |" in text
    assert "as a share of the dense peak of the datasheet" in text
    assert "as a share of the bandwidth of the datasheet" in text
    assert "measured ceiling" not in text


@pytest.mark.parametrize("format", ["markdown", "terminal", "json"])
def test_a_share_of_a_measured_ceiling_never_looks_like_one_of_a_datasheet(
    built: Any, format: str
) -> None:
    text = shown(built([*metrics.SHARES], one=known(source="measured")), format)

    assert "share of the measured ceiling of operations" in " ".join(text.split())
    assert "datasheet" not in text
    assert "peak" not in text


def test_csv_names_the_source_beside_the_share(built: Any) -> None:
    made = built(one=known(source="measured"), two=KNOWN)

    rows = list(csv.DictReader(io.StringIO(shown(made, "csv"))))

    assert [row["ceilings"] for row in rows] == ["measured", "datasheet"]
    assert [row["mfu_prefill"] for row in rows] == ["0.8", "0.8"]
    assert [row["decode_bound"] for row in rows] == ["bandwidth", "bandwidth"]


def test_a_table_of_both_names_the_source_in_every_row(built: Any) -> None:
    text = shown(built(["mfu_prefill"], one=known(source="measured"), two=KNOWN), "markdown")

    assert "prefill MFU (% of ceiling)" in text
    rows = [line for line in text.splitlines() if "80.00" in line]
    assert ["measured" in row for row in rows] == [True, False]
    assert ["datasheet" in row for row in rows] == [False, True]


def test_json_carries_the_sides(built: Any) -> None:
    [cell] = json.loads(shown(built(one=KNOWN), "json"))["cells"]

    assert cell["values"]["mfu_prefill"]["value"] == pytest.approx(0.8)
    assert (cell["prefill_bound"], cell["decode_bound"]) == ("compute", "bandwidth")
    assert cell["ceilings"] == "datasheet"


@pytest.mark.parametrize(
    ("changes", "prefill", "decode"),
    [
        ({}, "compute", "bandwidth"),
        ({"decode_flops": 900_000}, "compute", "compute"),  # 0.9 s against 0.8 s
        ({"decode_bytes": 49_000}, "compute", "overhead"),  # 1.0 s is over twice 0.49 s
        ({"decode_bytes": 51_000}, "compute", "bandwidth"),
        ({"least_prefill_s": 0.045}, "bandwidth", "bandwidth"),  # bytes take longer than 0.04 s
        ({"prefill_flops": 20_000, "least_prefill_s": 0.02}, "overhead", "bandwidth"),
        ({"least_prefill_s": None}, "-", "bandwidth"),
        ({"bytes_s": None}, "compute", "-"),
    ],
)
def test_the_side_is_the_larger_bound_unless_neither_explains_the_time(
    built: Any, changes: dict[str, Any], prefill: str, decode: str
) -> None:
    text = shown(built(["mfu_prefill"], one=known(**changes)), "markdown")

    [row] = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert [part.strip() for part in row.strip("|").split("|")][-2:] == [prefill, decode]


def test_one_new_token_has_no_decode() -> None:
    nan = np.array([np.nan])

    assert utilization.side(nan, np.array([0.0]), np.array([0.0])) == ("",)
    assert utilization.side(np.array([1.0]), np.array([0.0]), np.array([0.0])) == ("",)


def test_a_share_above_one_is_shown_and_said(built: Any) -> None:
    made = built(["mbu_decode"], one=known(source="measured", bytes_s=6e4))

    text = shown(made, "markdown")

    assert "133.3" in text
    [notice] = made.notices
    assert notice.startswith("mbu_decode reaches 133% of the measured ceiling of memory (1 cell ")
    assert "llmbench machine --probe" in notice


@pytest.mark.parametrize("bytes_s", [8e4, 7.7e4])
def test_a_share_of_up_to_105_percent_is_not(built: Any, bytes_s: float) -> None:
    assert built(one=known(source="measured", bytes_s=bytes_s)).notices == ()


def test_each_source_has_its_own_words_for_a_wrong_ceiling() -> None:
    middles = np.array([1.2, 1.5, 0.9, np.nan])
    sources = ("measured", "datasheet", "datasheet", "")

    first, second = utilization.over_unity("mfu_prefill", middles, sources)

    assert first.startswith("mfu_prefill reaches 150% of the dense peak of the datasheet (1 cell ")
    assert second.startswith("mfu_prefill reaches 120% of the measured ceiling of operations")
    assert list(utilization.over_unity("ttft_s", middles, sources)) == []


def test_every_share_names_its_ceiling_in_words_that_are_replaced() -> None:
    for metric in metrics.named(metrics.SHARES):
        assert (utilization.OPERATIONS in metric.definition) != (
            utilization.MEMORY in metric.definition
        )
        for source in utilization.WORDS:
            said = utilization.worded(metric, [source, ""]).definition
            assert utilization.OPERATIONS not in said
            assert utilization.MEMORY not in said
