"""What `table`, `compare` and `cost` say of the committed runs, recomputed from their lines in plain numpy.

Nothing of llmbench is used but the command that is held to it: a rule that is wrong in one place only is seen here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as students

from llmbench.results import requests_file
from sweeps import asked

RESULTS = Path(__file__).parents[1] / "results"
ALL = sorted(path.name for path in RESULTS.iterdir() if (path / "records.jsonl").is_file())
SERVED = [name for name in ALL if (RESULTS / name / "requests").is_dir()]
RUNS = [name for name in ALL if name not in SERVED]
CLOSE = 1e-9


def sessions_of(run: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the valid sessions of a run, by cell and session, as the lines say them."""
    valid: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in (RESULTS / run / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "end" and record["status"] == "ok":
            valid[record["id"]].setdefault(record["session"], record)
    return valid


def figures(record: dict[str, Any]) -> dict[str, float]:
    """Return every number of one session that follows from its samples alone."""
    cell, outcome = record["cell"], record["outcome"]
    batch, new = cell["batch_size"], cell["output_len"]
    prompts = sum(cell.get("input_lens") or [cell["input_len"]] * batch)
    samples = [one for one in outcome["samples"] if not one.get("discarded")]
    e2e = [one["e2e_ns"] / 1e9 for one in samples]
    ttft = [max(row[0] for row in one["token_ns"]) / 1e9 for one in samples]
    decode = np.median(np.subtract(e2e, ttft))
    known = {
        "e2e_s": np.median(e2e),
        "ttft_s": np.median(ttft),
        "prefill_tok_s": prompts / np.median(ttft),
        "output_tok_s": batch * new / np.median(e2e),
        "total_tok_s": (prompts + batch * new) / np.median(e2e),
        "load_s": outcome["load_s"],
        "first_call_s": outcome["warmup_ns"][0] / 1e9 if outcome["warmup_ns"] else np.nan,
    }
    if new > 1:
        gaps = [np.diff(row) for one in samples for row in one["token_ns"]]
        known["tpot_s"] = decode / (new - 1)
        known["itl_s"] = np.median(np.concatenate(gaps)) / 1e9
        known["decode_tok_s"] = batch * (new - 1) / decode
    return {key: float(value) for key, value in known.items()}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean and the two ends of Student's 95 % interval of the logarithms."""
    y = np.log(values)
    if len(y) < 2:
        return float(np.exp(y.mean())), np.nan, np.nan
    reach = students.ppf(0.975, len(y) - 1) * y.std(ddof=1) / np.sqrt(len(y))
    return tuple(float(np.exp(y.mean() + side)) for side in (0, -reach, reach))  # type: ignore[return-value]


@pytest.mark.parametrize("run", RUNS)
def test_a_table_says_what_its_lines_say(run: str) -> None:
    valid = sessions_of(run)

    table = json.loads(asked("table", RESULTS / run, "--format", "json", "--metric", "all").out)

    checked = 0
    for cell in table["cells"]:
        measured = [figures(record) for record in valid.get(cell["id"], {}).values()]
        for key in {key for one in measured for key in one} & set(cell["values"]):
            value, low, high = interval([one[key] for one in measured])
            told = cell["values"][key]
            assert told["value"] == pytest.approx(value, rel=CLOSE), (cell["id"], key)
            if np.isfinite(low):
                assert (told["low"], told["high"]) == pytest.approx((low, high), rel=CLOSE)
            checked += 1
    assert checked >= 5 * sum(bool(valid.get(cell["id"])) for cell in table["cells"]) > 0


@pytest.mark.parametrize(
    ("run", "by"),
    [("2026-11-30-xeon-2cpu-cpu-engines", "backend"), ("2026-11-30-xeon-2cpu-quickstart", "model")],
)
@pytest.mark.parametrize("metric", ["e2e_s", "ttft_s", "tpot_s", "output_tok_s"])
def test_a_ratio_is_that_of_paired_sessions(run: str, by: str, metric: str) -> None:
    valid = sessions_of(run)
    alike: dict[tuple[object, ...], dict[str, dict[int, float]]] = defaultdict(dict)
    for sessions in valid.values():
        cell = next(iter(sessions.values()))["cell"]
        shape = tuple(
            str(cell[axis])
            for axis in ("model", "backend", "batch_size", "input_len", "output_len", "dtype")
            if axis != by
        )
        alike[shape][cell[by]] = {
            number: figures(record)[metric] for number, record in sessions.items()
        }

    made = json.loads(
        asked("compare", RESULTS / run, "--by", by, "--metric", metric, "--format", "json").out
    )

    for candidate in made["candidates"]:
        base, other = made["baseline"].split()[-1], candidate["name"].split()[-1]
        ratios = []
        for cell in candidate["cells"]:
            shape = tuple(
                str(cell[axis])
                for axis in ("model", "backend", "batch_size", "input_len", "output_len", "dtype")
                if axis != by
            )
            sides = alike[shape]
            both = sorted(set(sides[base]) & set(sides[other]))
            ratio = np.exp(np.mean([np.log(sides[other][n] / sides[base][n]) for n in both]))
            assert cell["ratio"] == pytest.approx(float(ratio), rel=CLOSE)
            ratios.append(ratio)
        assert ratios
        assert candidate["overall"]["ratio"] == pytest.approx(
            float(np.exp(np.mean(np.log(ratios)))), rel=1e-6
        )


@pytest.mark.parametrize("run", RUNS)
def test_a_token_costs_its_share_of_an_hour(run: str) -> None:
    valid = sessions_of(run)

    told = json.loads(asked("cost", RESULTS / run, "--usd-per-hour", "3.6", "--format", "json").out)

    assert told["cells"]
    for cell in told["cells"]:
        rates = [figures(record)["output_tok_s"] for record in valid[cell["cell"]].values()]
        cost = 3.6 / 3600 / interval(rates)[0] * 1e6
        assert cell["usd_per_1m_output"] == pytest.approx(cost, rel=CLOSE)


@pytest.mark.parametrize("run", SERVED)
def test_a_served_session_says_what_its_requests_say(run: str) -> None:
    """From the file of requests alone: those due in the window, from when they were due."""
    checked = 0
    for line in (RESULTS / run / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] != "end" or record["status"] != "ok":
            continue
        served, given = record["outcome"]["served"], record["outcome"]["given"]
        read = requests_file.load(RESULTS / run / served["requests"]["file"])
        inside = (read.due_s >= 0) & (read.due_s < served["window_s"])
        first = [
            times[0] - due
            for times, due, mine in zip(read.token_s, read.due_s, inside, strict=True)
            if mine
        ]
        whole = [
            times[-1] - due
            for times, due, mine in zip(read.token_s, read.due_s, inside, strict=True)
            if mine
        ]
        arrived = sum(((times >= 0) & (times < served["window_s"])).sum() for times in read.token_s)
        assert served["due"] == inside.sum()
        assert given["served_ttft_s"]["value"] == pytest.approx(np.median(first), abs=3e-6)
        assert given["served_e2e_s"]["value"] == pytest.approx(np.median(whole), abs=1e-5)
        assert given["steady_output_tok_s"]["value"] == pytest.approx(
            arrived / served["window_s"], rel=1e-3
        )
        checked += 1
    assert checked
