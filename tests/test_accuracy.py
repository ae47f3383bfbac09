"""Predicted beside measured: factors by the test's own arithmetic, in every format, and a run without predictions."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmbench import report
from llmbench.errors import RunError
from llmbench.report.views import predicted
from llmbench.results import accuracy, lines, store
from llmbench.results.prediction import Prediction

RESULTS = Path(__file__).parents[1] / "results"
RUN = RESULTS / "2026-11-30-xeon-2cpu-cpu-7b"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a copy of a real run whose plan says what its cells would need, LLaMA's right and MPT's twice."""
    shutil.copytree(RUN, tmp_path / "run")
    path = tmp_path / "run" / store.RECORDS
    plan = store.read(RUN).plan
    assert plan is not None
    said = {
        cell.id: Prediction(
            need_bytes=13_315 * 2**20,
            ttft_s=3.013 * factor,
            tpot_s=1.446 * factor,
            basis="a made-up | probe",
        )
        for cell, factor in zip(plan.cells, (1, 2), strict=True)
    }
    line = lines.seal(lines.encode(msgspec.structs.replace(plan, predictions=said)))
    path.write_bytes(line + b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    return tmp_path / "run"


def rendered(run: Path, format: str) -> str:
    return report.render(predicted.document(store.read(run)), format)


def test_factors_are_predicted_over_measured(run: Path) -> None:
    facts: dict[str, Any] = json.loads(rendered(run, "json"))

    llama, mpt = facts["cells"]
    assert llama["ttft_s_factor"] == pytest.approx(1, rel=0.01)
    assert mpt["tpot_s_measured"] == pytest.approx(1.371, rel=0.01)
    assert mpt["tpot_s_factor"] == pytest.approx(2 * 1.446 / 1.371, rel=0.01)
    assert facts["summary"]["tpot_s"]["within_share"] == 0.5
    assert facts["summary"]["tpot_s"]["worst_factor"] == mpt["tpot_s_factor"]
    assert llama["peak_bytes_factor"] == pytest.approx(1, rel=0.001)


def test_people_are_told_how_far_off_it_was(run: Path) -> None:
    text = rendered(run, "terminal")

    assert (
        "TPOT: 1 of 2 cells within a factor of 1.5; off by 1.55x in the median, 2.11x at worst."
        in " ".join(text.split())
    )
    assert text.splitlines()[2].startswith("model")


def test_markdown_escapes_what_comes_from_outside(run: Path) -> None:
    text = rendered(run, "markdown")

    assert r"`a made-up \| probe`" in text
    assert "\n| model " in text


def test_csv_has_every_column(run: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(rendered(run, "csv"))))

    assert len(rows) == 2
    assert float(rows[0]["ttft_s_predicted"]) == 3.013
    assert rows[0]["device"] == "cpu"


def test_too_small_is_as_far_off_as_too_large() -> None:
    facts = [{"ttft_s_factor": 0.25, "tpot_s_factor": None, "peak_bytes_factor": None}]

    assert accuracy.summary(facts)["ttft_s"] == {
        "cells": 1, "within_share": 0.0, "median_factor": 4.0, "worst_factor": 4.0,
    }  # fmt: skip


def test_a_run_without_predictions_says_so() -> None:
    earlier = Path(__file__).parent / "golden" / "protocol-1-november-23"

    with pytest.raises(RunError, match="holds no predictions"):
        rendered(earlier, "terminal")
