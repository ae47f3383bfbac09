"""Learning from earlier runs: what is taken from them, what is not, and how near it comes on the real ones."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobs import job
from llmbench.machine.peaks import Probe
from llmbench.models import resolve
from llmbench.models.shape import shape_of
from llmbench.predict import estimate, history, roofline
from llmbench.predict.history import PastCell
from llmbench.results import store
from llmbench.results.record import Plan
from llmbench.spec.sweep import Protocol

RESULTS = Path(__file__).parents[1] / "results"
CPU_SMALL = RESULTS / "2026-11-23-xeon-2cpu-cpu-small"
PROBED = "2026-11-26-xeon-2cpu"
"""The runs of a machine that was probed first."""
WITHIN, SHARE = 1.5, 0.8
"""The promise: this share of cells is predicted within this factor, of TTFT and TPOT alike."""

PROBE = Probe(
    device="cpu", name="made up", at="today", torch="none", threads=2,
    copy_bytes_s=1e10, read_bytes_s={"float32": 1e10}, flops_s={"float32": 1e11}, step_s=2e-6,
)  # fmt: skip


def real_machine() -> dict[str, Any]:
    plan = store.read(CPU_SMALL).plan
    assert plan is not None
    return plan.machine


def predicted_from(past: list[PastCell], one: PastCell) -> tuple[float, float]:
    """Return how far TTFT and TPOT of a cell are off, as factors over 1, without any probe."""
    place = estimate.here(real_machine(), [], past)
    told = estimate.predictions([one.cell], {one.model.name: one.model}, Protocol(), place)[
        one.cell.id
    ]
    assert told.ttft_s
    assert told.tpot_s
    assert one.tpot_s
    return off(told.ttft_s / one.ttft_s), off(told.tpot_s / one.tpot_s)


def off(factor: float) -> float:
    return max(factor, 1 / factor)


def near_enough(pairs: list[tuple[float, float]]) -> float:
    return sum(max(pair) <= WITHIN for pair in pairs) / len(pairs)


def test_other_sweeps_predict_the_full_size_sweep() -> None:
    past = history.past_cells(RESULTS, real_machine())
    run = store.read(CPU_SMALL).plan
    assert run is not None
    mine = [one for one in past if one.run == run.run]
    others = history.past_cells(RESULTS, real_machine(), without=run.run)

    pairs = [predicted_from(others, one) for one in mine]

    assert len(mine) == 27
    assert len(others) == len(past) - 27
    assert near_enough(pairs) >= SHARE


def test_other_models_predict_a_model_that_was_never_run() -> None:
    past = history.past_cells(RESULTS, real_machine())
    mine = [one for one in past if one.cell.model in {"pythia-70m", "pythia-160m", "opt-125m"}]

    pairs = [
        predicted_from([other for other in past if other.cell.model != one.cell.model], one)
        for one in mine
    ]

    assert near_enough(pairs) >= SHARE


@pytest.mark.parametrize("teachers", [(), ("quickstart",), ("claims-cpu", "claims-cpu-edge")])
def test_a_probe_predicts_the_engines_sweep_whatever_small_models_taught(
    teachers: tuple[str, ...],
) -> None:
    plan = store.read(RESULTS / f"{PROBED}-cpu-engines").plan
    assert plan is not None
    seen = history.past_cells(RESULTS, plan.machine)
    run_of = {name: plan_of(f"{PROBED}-{name}").run for name in teachers}
    past = [one for one in seen if one.run in run_of.values()]
    mine = [one for one in seen if one.run == plan.run and one.cell.backend == "transformers"]
    place = estimate.here(plan.machine, plan.probes, past)
    models = {one.model.name: one.model for one in mine}
    told = estimate.predictions([one.cell for one in mine], models, plan.settings, place)

    pairs = [
        (off(told[one.cell.id].ttft_s / one.ttft_s), off(told[one.cell.id].tpot_s / one.tpot_s))  # type: ignore[operator]
        for one in mine
    ]

    assert len(mine) == 12
    assert bool(past) == bool(teachers)
    assert near_enough(pairs) >= SHARE


def plan_of(run: str) -> Plan:
    plan = store.read(RESULTS / run).plan
    assert plan is not None
    return plan


def test_without_what_was_learned_the_promise_breaks() -> None:
    past = history.past_cells(RESULTS, real_machine())
    one = next(one for one in past if one.cell.model == "pythia-70m")
    slow = [seen._replace(ttft_s=10 * seen.ttft_s) for seen in past]

    assert predicted_from(slow, one)[0] > WITHIN


def test_another_machine_teaches_nothing() -> None:
    other = {**real_machine(), "cpu_flags": ["avx2"]}

    assert history.past_cells(RESULTS, other) == []
    assert history.past_cells(RESULTS, real_machine())


def test_a_gpu_teaches_no_machine_without_one() -> None:
    assert history.past_cells(RESULTS, {**real_machine(), "gpus": [{"name": "NVIDIA H200"}]}) == []


def test_a_damaged_run_teaches_nothing_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / store.RECORDS).write_text('{"kind":"sweep","format":99,"x":1}\n')
    shutil.copytree(CPU_SMALL, tmp_path / "good")

    assert len(history.past_cells(tmp_path, real_machine())) == 27


def test_medians_are_those_of_the_file() -> None:
    name = "pythia-70m-transformers-bfloat16-b1-i512-o16-acbed61bd6"
    lines = [json.loads(line) for line in (CPU_SMALL / store.RECORDS).read_text().splitlines()]
    firsts = sorted(
        sorted(sample["token_ns"][0][0] for sample in line["outcome"]["samples"])
        for line in lines
        if line["kind"] == "end" and line["id"] == name and line["status"] == "ok"
    )
    middles = sorted((row[(len(row) - 1) // 2] + row[len(row) // 2]) / 2 for row in firsts)

    seen = next(one for one in history.past_cells(RESULTS, real_machine()) if one.cell.id == name)

    assert seen.ttft_s == pytest.approx(middles[len(middles) // 2] / 1e9)


def made_up(speed: dict[str, float], name: str = "pythia-160m") -> list[PastCell]:
    """Return cells measured on a machine whose costs are these multiples of the probe's."""
    found = resolve.resolve(name)
    shape = shape_of(found.model_type, found.config)
    assert shape is not None
    rates = roofline.Speeds(PROBE, "float32")
    seen = []
    for batch, length in itertools.product((1, 4, 16), (32, 128, 512)):
        (cell,) = job(name, batch_size=batch, input_len=length, output_len=9).cells
        factors = history.Factors(speed, 1, 1)
        times = (
            factors.priced(costs(shape, "gpt_neox", cell, rates), "float32", phase, "cpu")
            for costs, phase in (
                (roofline.prefill_costs, "prefill"),
                (roofline.step_costs, "decode"),
            )
        )
        seen.append(PastCell("run", cell, found, *times))
    return seen


def test_a_slower_dispatch_is_found() -> None:
    factors = history.fitted(made_up({"dispatch": 3.0}, "pythia-160m@tiny"), PROBE, probed=True)

    assert factors.of["dispatch"] == pytest.approx(3, rel=0.1)
    assert factors.of["compute float32"] == pytest.approx(1, rel=0.2)


def test_one_wild_record_moves_little() -> None:
    seen = made_up({})
    seen[4] = seen[4]._replace(ttft_s=100 * seen[4].ttft_s)

    factors = history.fitted(seen, PROBE, probed=True)

    assert all(off(factor) < 1.2 for factor in factors.of.values())


def test_nothing_seen_changes_nothing() -> None:
    factors = history.fitted([], PROBE, probed=True)

    costs = roofline.Costs(1.0, 2.0, 3.0, 4.0, 5.0)
    assert factors.priced(costs, "float32", "decode", "cpu") == 15
    assert factors.priced(costs, "float32", "decode", "cuda") == 10  # the host dispatches meanwhile


def test_a_probe_is_believed_more_than_typical_rates() -> None:
    twice = made_up({"dispatch": 2.0, "compute float32": 2.0})[:1]

    near, far = (history.fitted(twice, PROBE, probed=probed) for probed in (True, False))

    assert math.prod(near.of.values()) < math.prod(far.of.values())


def test_records_of_another_type_of_number_are_not_enough() -> None:
    past = [
        seen._replace(cell=msgspec.structs.replace(seen.cell, dtype="bfloat16"))
        for seen in made_up({})
    ]

    assert history.enough(past, "bfloat16")
    assert not history.enough(past, "float32")
