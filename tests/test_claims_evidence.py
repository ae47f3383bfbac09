"""What is read of a run: only valid sessions, beside the model, the chip, the ceilings and what the engine said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmbench import claims
from llmbench.claims import ClaimVerdict, Evidence
from llmbench.cost import prices
from llmbench.models import resolve
from llmbench.results import cells, store
from llmbench.results.prediction import Prediction
from llmbench.results.record import Status
from llmbench.spec.sweep import Point
from make_records import make_cell, make_plan, make_record, make_samples

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.results.cells import Measured
    from llmbench.results.record import Record

FOUND = resolve.resolve("llama-7b@small")
CELL = make_cell(0, model=FOUND.name, model_digest=FOUND.digest, batch_size=2, output_len=11)


def record(session: int, e2e_s: float = 2.0, **changes: Any) -> Record:
    """Return a session whose first token takes half of it, so that ten steps take the other half."""
    return make_record(CELL, session, make_samples([e2e_s] * 3, e2e_s / 2, 11), **changes)


def read(folder: Path, *records: Record, **plan: Any) -> list[Measured]:
    with store.open_run(folder) as run:
        run.append(make_plan(plan.pop("cells", [CELL]), models=[FOUND], **plan))
        for each in records:
            run.append(each)
    return cells.read(store.read(folder), folder.name)


def test_a_session_is_one_value_and_an_invalid_one_is_none(tmp_path: Path) -> None:
    bad = record(3, 9.0, status=Status.INVALID)

    [row] = read(tmp_path / "run", record(1, 2.0), record(2, 2.2), bad)

    assert row.values["e2e_s"] == pytest.approx((2.0, 2.2))
    assert row.values["tpot_s"] == pytest.approx((0.1, 0.11))
    assert row.counts is not None
    assert row.counts.layers == 8
    assert (row.run, row.where, row.scaled) == ("run", "cpu", True)


def test_a_run_without_a_valid_session_is_no_evidence(tmp_path: Path) -> None:
    assert read(tmp_path / "run", record(1, status=Status.OOM)) == []


def test_a_cell_of_another_tool_without_its_sizes_is_passed_over(tmp_path: Path) -> None:
    point = Point(**{**msgspec.structs.asdict(CELL), "batch_size": None})
    foreign = msgspec.structs.replace(record(1), cell=point)

    rows = read(tmp_path / "run", foreign, cells=[])

    assert rows == []


def test_each_valid_session_keeps_its_own_read_rate(tmp_path: Path) -> None:
    rates = [
        record(n, outcome={"engine": {"offload_read_bytes_s": rate}}, status=status)
        for n, rate, status in ((1, 7e9, Status.OK), (2, 1e9, Status.INVALID), (3, 8e9, Status.OK))
    ]

    [row] = read(tmp_path / "run", *rates)

    assert row.values["offload_read_bytes_s"] == (7e9, 8e9)


def test_a_gpu_is_named_by_its_chip(tmp_path: Path) -> None:
    gpu = {"name": "NVIDIA H200", "memory_bytes": 150_754_820_096}

    [row] = read(tmp_path / "run", record(1), machine={"name": "h200", "gpus": [gpu, gpu]})

    assert (row.machine.chip, row.machine.gpus) == ("h200", 2)


def predicted(**changes: Any) -> dict[str, Prediction]:
    """Return work and ceilings under which the prefill's second is compute and the steps' second bytes."""
    facts = {
        "prefill_flops": 800, "decode_flops": 10, "decode_bytes": 900, "flops_s": 1000.0,
        "bytes_s": 1000.0, "least_prefill_s": 0.8, "source": "measured", **changes,
    }  # fmt: skip
    return {CELL.id: Prediction(**facts)}


def test_ceilings_give_shares_and_sides(tmp_path: Path) -> None:
    records = [record(session, e2e) for session, e2e in enumerate((1.99, 2.0, 2.01), 1)]

    [row] = read(tmp_path / "run", *records, predictions=predicted())

    assert row.bound == {"prefill": "compute", "decode": "bandwidth"}
    assert row.ceilings == "measured"
    assert row.figure("mfu_prefill").value == pytest.approx(0.8, rel=1e-3)
    assert row.figure("mfu_decode").value == pytest.approx(0.01, rel=1e-3)


def test_claims_about_the_roofline_read_the_plans_ceilings(tmp_path: Path) -> None:
    records = [record(session, e2e) for session, e2e in enumerate((1.99, 2.0, 2.01), 1)]
    given = Evidence(
        read(tmp_path / "run", *records, predictions=predicted()), prices.PriceOptions()
    )

    side = claims.answer(claims.claim("compute-is-the-bottleneck"), given)
    half = claims.answer(claims.claim("half-utilisation"), given)

    assert [part.verdict for part in side.parts] == [
        ClaimVerdict.SUPPORTED,
        ClaimVerdict.INCONCLUSIVE,
    ]
    assert [part.verdict for part in half.parts] == [
        ClaimVerdict.SUPPORTED,
        ClaimVerdict.INCONCLUSIVE,
    ]


def test_without_ceilings_there_are_no_sides(tmp_path: Path) -> None:
    [row] = read(tmp_path / "run", record(1), predictions=predicted(source=None))

    assert row.bound == {}
    assert not row.has("mfu_prefill")
