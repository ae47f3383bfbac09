"""Verdicts on committed runs, worked out once more from the raw lines of their records, by this file's own arithmetic.

Nothing here is shared with what it checks but the file format: times are read from JSON, medians, logarithms
and t quantiles are written out.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from llmbench import claims
from llmbench.claims import Answer, ClaimVerdict, Evidence, Part
from llmbench.cost import prices
from llmbench.models import resolve
from llmbench.results import cells as results_cells
from llmbench.results import store
from make_records import make_cell, make_plan, make_record, make_samples

RESULTS = Path(__file__).parents[1] / "results"
SMALL = RESULTS / "2026-11-30-xeon-2cpu-cpu-small"
CPU_7B = RESULTS / "2026-11-30-xeon-2cpu-cpu-7b"
TIERS = RESULTS / "2026-11-30-xeon-2cpu-claims-cpu-tiers"
T = {1: 12.706205, 2: 4.302653}
"""The 97.5 % quantile of Student's t, from a printed table."""
HOUR_USD = 0.10


def answered(name: str, *runs: Path) -> Answer:
    rows = [row for run in runs for row in results_cells.read(store.read(run), run.name)]
    given = Evidence(rows, prices.PriceOptions(usd_per_hour=HOUR_USD))
    return claims.answer(claims.claim(name), given)


def raw(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the valid records of a run by cell."""
    found = defaultdict(list)
    for line in (run / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "end" and record["status"] == "ok":
            found[record["id"]].append(record)
    return found


def e2e_s(record: dict[str, Any]) -> float:
    return (
        float(statistics.median(sample["e2e_ns"] for sample in record["outcome"]["samples"])) / 1e9
    )


def step_s(record: dict[str, Any]) -> float:
    samples = record["outcome"]["samples"]
    after = [sample["e2e_ns"] - sample["token_ns"][0][0] for sample in samples]
    return float(statistics.median(after)) / 1e9 / (int(record["cell"]["output_len"]) - 1)


def interval(values: list[float]) -> tuple[float, float, float]:
    logs = [math.log(value) for value in values]
    middle, reach = statistics.mean(logs), 0.0
    if len(logs) > 1:
        reach = T[len(logs) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)


def part(answer: Answer, begins: str) -> Part:
    [found] = [each for each in answer.parts if each.where.startswith(begins)]
    return found


@pytest.mark.parametrize(
    ("run", "name", "verdict"),
    [
        (SMALL, "pythia-160m", ClaimVerdict.SUPPORTED),
        (CPU_7B, "llama-7b", ClaimVerdict.CONTRADICTED),
    ],
)
def test_reading_speed_on_a_device(run: Path, name: str, verdict: ClaimVerdict) -> None:
    by_cell = [
        found for found in raw(run).values()
        if found[0]["cell"]["model"] == name and found[0]["cell"]["batch_size"] == 1
    ]  # fmt: skip
    paces = [interval([1 / step_s(record) for record in found]) for found in by_cell]
    value, low, high = max(paces)
    needed = max(
        record["outcome"]["memory"]["host_peak_rss_bytes"] for found in by_cell for record in found
    )

    found = part(answered("edge-models", run), name)

    assert needed < 16e9
    by_hand = (
        ClaimVerdict.SUPPORTED if low >= 10 else ClaimVerdict.CONTRADICTED if high < 10 else None
    )
    assert found.verdict is verdict is by_hand
    assert found.figure == pytest.approx((value, low, high), rel=1e-6)


def test_keys_and_values_over_the_context() -> None:
    held = {
        found[0]["cell"]["input_len"]: found[0]["outcome"]["memory"]["kv_cache_bytes"]
        for found in raw(SMALL).values()
        if found[0]["cell"]["model"] == "opt-125m" and found[0]["cell"]["batch_size"] == 1
    }
    # The 16th new token is never fed: 143 tokens against 1,039.
    by_hand = (held[1024] / held[128]) / (1039 / 143)

    found = part(answered("context-is-memory", SMALL), "opt-125m")

    assert found.figure is not None
    assert found.figure.value == pytest.approx(by_hand)
    assert abs(by_hand - 1) < 0.05
    assert found.verdict is ClaimVerdict.SUPPORTED


def test_the_month_of_a_subscriber() -> None:
    [records] = [found for found in raw(CPU_7B).values() if found[0]["cell"]["model"] == "llama-7b"]
    tokens = 300 * 300 * 30
    usd = [HOUR_USD / 3600 * e2e_s(record) / 8 * tokens for record in records]  # 8 tokens a call

    found = part(answered("copilot-economics", CPU_7B), "llama-7b")

    by_hand = interval(usd)
    assert found.figure == pytest.approx(by_hand, rel=1e-6)
    assert by_hand[1] > 20
    assert found.verdict is ClaimVerdict.INCONCLUSIVE, "one sequence at a time is no frontier"


def test_the_month_of_a_copilot() -> None:
    [records] = [found for found in raw(CPU_7B).values() if found[0]["cell"]["model"] == "llama-7b"]
    usd = [HOUR_USD / 3600 * e2e_s(record) / 8 * 100 * 300 * 30 for record in records]

    found = part(answered("copilot-at-thirty", CPU_7B), "llama-7b")

    by_hand = interval(usd)
    assert found.figure == pytest.approx(by_hand, rel=1e-6)
    assert by_hand[1] > 30
    assert found.verdict is ClaimVerdict.INCONCLUSIVE  # batch 1 is not the frontier of batch sizes


def test_the_gpus_that_hold_train_and_serve_gpt_3(tmp_path: Path) -> None:
    """Written out for one A100 that makes 16 tokens in 1.0, 1.05 and 0.97 s with LLaMA-7B."""
    seconds = (1.00, 1.05, 0.97)
    write_run(tmp_path / "run", {"llama-7b": seconds}, device="cuda")
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)
    size = 2 * 32000 * 4096 + layers + 4096
    tokens = [16 / second for second in seconds]

    hold, train, serve = answered("gpt3-needs-thousands", tmp_path / "run").parts

    needed = interval([100e3 / (pace * size / 175e9) for pace in tokens])
    assert hold.figure == pytest.approx((math.ceil(175e9 * 2 / 80e9),) * 3)
    assert train.figure is not None
    assert train.figure.value == pytest.approx(6 * 175e9 * 300e9 / (125e12 * 0.3) / (30 * 86400))
    assert serve.figure == pytest.approx(needed, rel=1e-3)
    assert needed[1] > 1000
    assert serve.verdict is ClaimVerdict.SUPPORTED


def test_passes_before_an_answer() -> None:
    cells = [
        found for found in raw(SMALL).values() if found[0]["cell"]["model"] == "pythia-70m"
    ]  # fmt: skip
    quickest = max(
        cells, key=lambda f: interval([r["cell"]["batch_size"] / e2e_s(r) for r in f])[0]
    )
    batch = quickest[0]["cell"]["batch_size"]
    in_ten_seconds = interval([10 * batch / e2e_s(record) for record in quickest])
    for_a_cent = 0.01 / (
        HOUR_USD / 3600 * math.exp(statistics.mean(math.log(e2e_s(r)) for r in quickest)) / batch
    )

    found = part(answered("verify-budget", SMALL), "pythia-70m")

    assert for_a_cent > in_ten_seconds[0] > 10
    assert found.figure == pytest.approx(in_ten_seconds, rel=1e-6)
    assert found.verdict is ClaimVerdict.SUPPORTED


def test_a_level_down_at_each_sessions_own_rate() -> None:
    records = [
        found for found in raw(TIERS).values() if "device_map" in found[0]["cell"]["options"]
    ]
    [below] = [found for found in records if found[0]["cell"]["options"]["device_map"] != "none"]
    shares = [
        step_s(record)
        * record["outcome"]["engine"]["offload_read_bytes_s"]
        / record["outcome"]["memory"]["weights_bytes"]
        for record in below
    ]

    found = part(answered("tiered-memory", TIERS), "llama-7b")

    by_hand = interval(shares)
    assert by_hand == pytest.approx((0.836, 0.802, 0.871), abs=0.001)
    assert by_hand[2] < 1  # faster than the level was read before: that rate is no ceiling
    assert found.figure == pytest.approx(by_hand, rel=1e-6)
    assert found.verdict is ClaimVerdict.INCONCLUSIVE


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_lines_does_not_change_a_verdict(seed: int, tmp_path: Path) -> None:
    first, *others = (TIERS / "records.jsonl").read_text().splitlines(keepends=True)
    random.Random(seed).shuffle(others)  # noqa: S311 - an order, not a secret
    shuffled = tmp_path / TIERS.name
    shuffled.mkdir()
    (shuffled / "records.jsonl").write_text(first + "".join(others))

    [part] = answered("tiered-memory", shuffled).parts
    [kept] = answered("tiered-memory", TIERS).parts

    assert part.figure == pytest.approx(kept.figure, rel=1e-12)
    assert (part.verdict, part.said) == (kept.verdict, kept.said)


def test_thirty_billion_against_sixty_five(tmp_path: Path) -> None:
    """No committed run has both, so this one writes records of its own, and reads their lines."""
    seconds: dict[str, tuple[float, ...]] = {
        "llama-65b@small": (1.00, 1.05, 0.97),
        "llama-30b@small": (0.52, 0.50, 0.55),
        "llama-7b@small": (0.11, 0.12, 0.1),
    }
    write_run(tmp_path / "run", seconds)
    by_model = {
        found[0]["cell"]["model"]: [e2e_s(record) for record in found]
        for found in raw(tmp_path / "run").values()
    }
    large = by_model.pop("llama-65b@small")
    ratios = {name: welch(times, large) for name, times in by_model.items()}
    dearest = max(ratios, key=lambda name: ratios[name][2])

    found = part(answered("sub-50b-cheaper-than-llama", tmp_path / "run"), "batch 1,")

    assert dearest == "llama-30b@small"
    assert dearest in found.said
    assert found.figure == pytest.approx(ratios[dearest], rel=0.003)
    assert ratios[dearest][2] < 1
    assert found.verdict is ClaimVerdict.SUPPORTED


def write_run(folder: Path, seconds: dict[str, tuple[float, ...]], device: str = "cpu") -> None:
    cells = [
        make_cell(
            number,
            model=name,
            model_digest=resolve.resolve(name).digest,
            batch_size=1,
            device=device,
        )
        for number, name in enumerate(seconds)
    ]
    with store.open_run(folder) as run:
        run.append(make_plan(cells, models=[resolve.resolve(name) for name in seconds]))
        for cell in cells:
            for session, e2e in enumerate(seconds[cell.model], 1):
                run.append(
                    make_record(cell, session, make_samples([e2e] * 3, e2e / 4, cell.output_len))
                )


def welch(times: list[float], others: list[float]) -> tuple[float, float, float]:
    """Return the ratio of two sides of three, with t looked up at Satterthwaite's degrees of freedom."""
    sides = [[math.log(value) for value in side] for side in (times, others)]
    a, b = (statistics.variance(side) / 3 for side in sides)
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 2)
    table = {2.0: 4.302653, 2.5: 3.558, 3.0: 3.182446, 3.5: 2.940, 4.0: 2.776445}
    below = max(each for each in table if each <= freedom + 1e-9)
    above = min((each for each in table if each >= freedom - 1e-9), default=4.0)
    part = 0.0 if above == below else (freedom - below) / (above - below)
    t = table[below] ** (1 - part) * table[above] ** part
    middle, reach = statistics.mean(sides[0]) - statistics.mean(sides[1]), t * math.sqrt(a + b)
    return math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)
