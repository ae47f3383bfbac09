"""Cells that need not run are recorded as inferred: beyond an OOM, or too big by prediction (FAULTS 1)."""

from typing import Any

import msgspec
import pytest

from llmbench.machine import state as machine_state
from llmbench.predict.oom import GIB
from llmbench.results.prediction import Prediction
from llmbench.results.record import Record, Status
from llmbench.run.inferred import InferredOutcomes
from llmbench.run.pending import CellSessions
from llmbench.run.plan import Planned
from llmbench.spec.sweep import Axes, Sweep
from make_records import make_cell
from sweeps import Bench, Done, assert_complete

EDGE: dict[str, Any] = {"fault": "oom", "when": "batch_size>=4"}
"""An engine that runs out of memory from batch 4 on."""
AXES = {"batch_size": [1, 2, 4, 8, 16]}
THREE = {"sessions": 3, "max_sessions": 3}


def statuses(records: list[Record], batch_size: int) -> list[Status]:
    """Return how a batch size ended, session by session."""
    return [record.status for record in records if record.cell.batch_size == batch_size]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Return a sweep of three sessions that met its edge."""
    made = Bench(tmp_path_factory.mktemp("edge"))
    made.write(axes=AXES, protocol=THREE, **EDGE)
    return made.sweep(environment={machine_state.STATE: str(made.folder / "state")})


def test_what_is_beyond_two_ooms_is_skipped_with_its_reason(edge: Done) -> None:
    done = edge

    assert done.code == 3
    assert_complete(done)
    for batch_size in (1, 2):
        assert statuses(done.records, batch_size) == [Status.OK] * 3
    beyond = [record for record in done.records if record.cell.batch_size >= 4]
    ooms = [record for record in beyond if record.status is Status.OOM]
    skipped = [record for record in beyond if record.status is Status.SKIPPED]
    assert len(ooms) + len(skipped) == 9
    assert len({record.worker["pid"] for record in ooms}) == len(ooms)
    assert statuses(done.records, 4) == [Status.OOM, Status.OOM, Status.SKIPPED]
    assert statuses(done.records, 16)[1:] == [Status.SKIPPED] * 2
    assert skipped[-1].reason
    assert all(
        (record.reason or "").startswith("needs at least as much memory as the OOM")
        for record in skipped
    )
    assert all(record.phase == "plan" and not record.outcome.samples for record in skipped)
    assert "needs at least as much memory as the OOM at batch" in done.out


def test_an_oom_that_was_seen_once_skips_nothing(bench: Bench) -> None:
    bench.write(axes=AXES, fault="oom", when="batch_size=2,session=1")

    done = bench.sweep()

    assert Status.SKIPPED not in {record.status for record in done.records}
    assert [record.status for record in done.records].count(Status.OOM) == 1


def test_another_engine_is_not_concerned(bench: Bench) -> None:
    bench.write(fault=["none", "oom"], when="batch_size>=1")

    done = bench.sweep()

    unharmed = [record for record in done.records if "fault" not in record.cell.options]
    assert len(unharmed) == 6
    assert {record.status for record in unharmed} == {Status.OK}


def test_with_run_anyway_every_cell_is_measured(bench: Bench) -> None:
    bench.write(axes=AXES, **EDGE)

    done = bench.sweep("--run-anyway")

    assert done.code == 3
    for batch_size in (4, 8, 16):
        assert statuses(done.records, batch_size) == [Status.OOM] * 2


def test_what_was_skipped_is_measured_when_run_anyway_continues_the_run(
    bench: Bench, edge: Done
) -> None:
    bench.write(axes=AXES, protocol=THREE, **EDGE)
    bench.copy(edge.bench.run)
    skipped = statuses_of(bench.records()).count(Status.SKIPPED)
    before = bench.raw()

    done = bench.sweep("--run-anyway")
    again = bench.sweep()

    assert bench.raw().startswith(before)
    assert skipped
    assert statuses_of(done.records).count(Status.OOM) == 9
    assert done.out.splitlines()[-1].startswith("6 ok, 9 oom  ->")
    assert "Without a number: 9 sessions" in done.out
    assert again.records == done.records


def test_what_cannot_run_is_not_run_anyway(bench: Bench) -> None:
    bench.write(fault="unsupported", at="load")
    before = [bench.sweep().records, bench.raw()]

    done = bench.sweep("--run-anyway")

    assert [done.records, bench.raw()] == before
    assert set(statuses_of(done.records)) == {Status.UNSUPPORTED, Status.SKIPPED}


def statuses_of(records: list[Record]) -> list[Status]:
    return [record.status for record in records]


def test_a_resumed_sweep_comes_to_the_same_conclusions(bench: Bench, edge: Done) -> None:
    bench.write(axes=AXES, protocol=THREE, **EDGE)
    bench.copy(edge.bench.run)
    whole = bench.records()
    rows = bench.raw().splitlines(keepends=True)
    first_skip = next(number for number, row in enumerate(rows) if b'"status":"skipped"' in row)
    bench.rows.write_bytes(b"".join(rows[:first_skip]))

    resumed = bench.sweep()

    assert resumed.code == 3
    assert_complete(resumed)
    assert {(record.id, record.session, record.status, record.reason) for record in whole} == {
        (record.id, record.session, record.status, record.reason) for record in resumed.records
    }


PREDICTED = Prediction(need_bytes=148 * GIB, have_bytes=139 * GIB, fits="no")


def foregone(
    standings: dict[str, CellSessions] | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return what is said of two cells, of which the larger is predicted not to fit."""
    small = make_cell(0, options=options or {})
    large = msgspec.structs.replace(small, id="large", batch_size=512)
    planned = Planned(
        sweep=Sweep(name="x", why="y", axes=Axes(model="m")),
        cells=[small, large], models={}, refused={}, warnings=[],
    )  # fmt: skip
    known = {small.id: CellSessions(), large.id: CellSessions(), **(standings or {})}
    settings = {"run_anyway": False, **changes}
    return InferredOutcomes(planned, {"large": PREDICTED}, known, **settings).outcomes(
        planned.cells
    )


def test_what_is_predicted_not_to_fit_is_skipped_with_the_figures() -> None:
    outcomes = foregone()

    assert set(outcomes) == {"large"}
    assert outcomes["large"].status is Status.SKIPPED
    assert outcomes["large"].error.startswith("predicted to need 148.0 GiB of 139.0")


def test_a_prediction_is_not_believed_against_what_was_seen() -> None:
    standing = CellSessions()
    standing.met.note(Status.OK, 1, {})

    assert foregone({"large": standing}) == {}


def test_a_model_that_is_not_whole_in_one_place_may_fit() -> None:
    assert set(foregone(options={"device_map": "none"})) == {"large"}
    assert foregone(options={"device_map": "disk_offload"}) == {}


def test_with_run_anyway_no_prediction_is_believed() -> None:
    assert foregone(run_anyway=True) == {}
