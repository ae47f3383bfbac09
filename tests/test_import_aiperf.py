"""AIPerf: its medians are those of its requests."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llmbench import importers
from llmbench.errors import Unconvertible
from test_importers import FILES, changed, load, taken, values

if TYPE_CHECKING:
    from pathlib import Path


def test_aiperf_is_recomputed_from_its_requests() -> None:
    lines = (FILES / "raw" / "aiperf_requests.jsonl").read_text().splitlines()
    requests = [json.loads(line)["metrics"] for line in lines]
    ms = {
        key: np.array([request[key]["value"] for request in requests])
        for key in (
            "time_to_first_token",
            "request_latency",
            "output_sequence_length",
            "input_sequence_length",
        )
    }
    ttft, whole, n = ms["time_to_first_token"], ms["request_latency"], ms["output_sequence_length"]
    gaps = np.concatenate([request["inter_chunk_latency"]["value"] for request in requests])
    start, end = (
        datetime.fromisoformat(load("aiperf.json")[key]) for key in ("start_time", "end_time")
    )
    duration_s = (end - start).total_seconds()

    got = values(taken("aiperf.json"))

    assert len(requests) == 8
    assert got == {
        "request_ttft_s": pytest.approx(np.median(ttft) / 1e3),
        "request_tpot_s": pytest.approx(np.median((whole - ttft) / (n - 1)) / 1e3),
        "request_itl_s": pytest.approx(np.median(gaps) / 1e3),
        "request_e2e_s": pytest.approx(np.median(whole) / 1e3),
        "served_output_tok_s": pytest.approx(n.sum() / duration_s),
        "served_total_tok_s": pytest.approx((n + ms["input_sequence_length"]).sum() / duration_s),
    }


def test_tokens_counted_in_the_text_are_told_from_those_made() -> None:
    lines = (FILES / "raw" / "aiperf_requests.jsonl").read_text().splitlines()
    requests = [json.loads(line)["metrics"] for line in lines]
    made = sum(request["usage_completion_tokens"]["value"] for request in requests)
    counted = sum(request["output_sequence_length"]["value"] for request in requests)

    reading = taken("aiperf.json")

    assert (counted, made) == (94, 96)
    assert [finding.code for finding in reading.warnings] == ["tokens_recounted"]
    assert "94 new tokens in the text, and the server made 96" in reading.warnings[0].detail
    assert reading.where["output_len"] is None
    assert reading.where["input_len"] == 32


def test_a_cancelled_run_is_no_run(tmp_path: Path) -> None:
    path = changed(tmp_path, "aiperf.json", lambda held: held.update(was_cancelled=True))

    with pytest.raises(Unconvertible, match="was cancelled after 8 requests"):
        importers.read(path, {})


def test_another_unit_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, "aiperf.json", lambda held: held["request_latency"].update(unit="sec"))

    with pytest.raises(Unconvertible, match=r"request_latency\.unit: 'sec' is not 'ms'"):
        importers.read(path, {})
