"""optimum-benchmark: its iterations are taken, and what it counts twice or ends early is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llmbench import importers
from test_importers import changed, load, taken, values

if TYPE_CHECKING:
    from pathlib import Path


def test_optimum_benchmark_is_recomputed_from_its_iterations() -> None:
    held = load("optimum_benchmark.json")
    report, scenario = held["report"], held["config"]["scenario"]
    batch = scenario["input_shapes"]["batch_size"]
    n = scenario["generate_kwargs"]["max_new_tokens"]
    seconds = {
        name: np.array(report[name]["latency"]["values"])
        for name in ("prefill", "decode", "generate")
    }

    reading = taken("optimum_benchmark.json")

    assert [sample.e2e_ns for sample in reading.samples] == [
        round(s * 1e9) for s in seconds["generate"]
    ]
    assert seconds["prefill"] + seconds["decode"] == pytest.approx(seconds["generate"])
    assert values(reading) == {
        "first_logits_s": pytest.approx(np.median(seconds["prefill"])),
        "after_logits_tok_s": pytest.approx(batch * (n - 1) / np.median(seconds["decode"])),
    }
    assert reading.load_s == pytest.approx(report["load_model"]["latency"]["p50"])
    assert reading.memory is not None
    assert reading.memory.host_peak_rss_generate_bytes == pytest.approx(
        max(report[name]["memory"]["max_ram"] for name in ("prefill", "decode")) * 1e6
    )
    assert reading.memory.device_used_bytes is None


def test_optimum_benchmark_counts_gaps_of_earlier_calls_again() -> None:
    held = load("optimum_benchmark.json")
    calls = len(held["report"]["generate"]["latency"]["values"])
    n = held["config"]["scenario"]["generate_kwargs"]["max_new_tokens"]

    gaps = len(held["report"]["per_token"]["latency"]["values"])

    assert gaps == sum(k * n - 1 for k in range(1, calls + 1)) > calls * (n - 1)
    assert "itl_s" not in taken("optimum_benchmark.json").given


def test_optimum_benchmark_untracked_says_not_where_its_prefill_ends(tmp_path: Path) -> None:
    path = changed(tmp_path, "optimum_benchmark.json", lambda held: held["report"].pop("per_token"))

    reading = importers.read(path, {})[2][0]

    assert reading.given == {}
    assert "does not say whether it ends" in reading.refused["prefill"]


def test_optimum_benchmark_without_its_configuration_has_no_shape(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(load("optimum_benchmark.json")["report"]))

    bare = importers.read(path, {})[2][0]
    told = importers.read(path, {"batch_size": 2, "output_len": 12})[2][0]

    assert set(bare.given) == {"first_logits_s"}
    assert values(told) == values(taken("optimum_benchmark.json"))
