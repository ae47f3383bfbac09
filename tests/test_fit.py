"""The largest batch that fits: measured, inferred and predicted are three things."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmbench import cli
from llmbench.predict import capacity
from llmbench.predict.oom import GIB
from llmbench.results import store
from llmbench.results.prediction import Prediction
from llmbench.results.record import Line, Outcome, Record, Status
from llmbench.spec.sweep import Cell, Point
from make_records import make_cell, make_plan, make_record
from sweeps import Bench

OK, OOM, SKIPPED, CRASH = Status.OK, Status.OOM, Status.SKIPPED, Status.CRASH


def a_cell(batch_size: int, input_len: int = 128, number: int = 0, **changes: Any) -> Cell:
    return make_cell(number, batch_size=batch_size, input_len=input_len, output_len=128, **changes)


def a_run(
    folder: Path,
    ended: list[tuple[Cell, list[Status]]],
    predictions: dict[str, Prediction] | None = None,
    **engine: Any,
) -> Path:
    """Write a run in which every session was a process of its own."""
    plan = make_plan([cell for cell, _ in ended], predictions=predictions or {})
    lines: list[Line] = [plan]
    for number, (cell, statuses) in enumerate(ended):
        for session, status in enumerate(statuses, 1):
            record: Record = make_record(cell, session, status=status)
            lines.append(
                msgspec.structs.replace(
                    record,
                    worker={"pid": 100 * number + session},
                    outcome=Outcome(cell=cell.id, engine=engine),
                )
            )
    with store.open_run(folder) as run:
        for line in lines:
            run.append(line)
    return folder


def shown(folder: Path, capsys: pytest.CaptureFixture[str], format: str = "terminal") -> str:
    assert cli.run(["fit", str(folder), "--format", format]) == 0
    return capsys.readouterr().out


def one(folder: Path) -> capacity.Fit:
    (row,) = capacity.fits(store.read(folder))
    return row


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        ({8: [OK, OK], 16: [OK], 32: [OOM, OOM]}, (16, 1, 32, 2, None)),
        ({8: [OK], 16: [Status.INVALID], 32: [SKIPPED]}, (16, 1, None, 0, None)),
        ({8: [OK], 16: [CRASH]}, (8, 1, None, 0, None)),
        ({8: [OOM, OOM], 16: [SKIPPED]}, (None, 0, 8, 2, 16)),
        ({8: [OK], 16: [OOM, OOM], 64: [SKIPPED]}, (8, 1, 16, 2, 64)),
        ({8: [OK], 16: [OOM], 64: []}, (8, 1, 16, 1, None)),
        ({8: [], 16: []}, (None, 0, None, 0, None)),
    ],
)
def test_what_was_measured_is_counted_and_the_rest_is_inferred(
    ended: dict[int, list[Status]], expected: tuple[object, ...], tmp_path: Path
) -> None:
    row = one(a_run(tmp_path / "run", [(a_cell(size), how) for size, how in ended.items()]))

    assert (row.largest, row.sessions, row.oom, row.ooms, row.inferred) == expected
    assert bool(row.why) == bool(row.inferred)


def test_an_edge_that_is_not_sharp_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_run(
        tmp_path / "run", [(a_cell(8), [OK]), (a_cell(16), [OOM, OK]), (a_cell(32), [OOM])]
    )

    row = one(folder)

    assert (row.largest, row.ooms_up_to_it, row.oom, row.ooms) == (16, 1, 32, 1)
    assert "oom 1x at 16 or below, too" in shown(folder, capsys)


def lines_of(text: str) -> list[list[str]]:
    """Return the rows of a terminal's table, split at their gaps."""
    return [line.split("  ") for line in text.splitlines()]


def test_a_table_tells_measured_from_inferred(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_run(
        tmp_path / "run",
        [
            (a_cell(8, 128), [OK, OK]), (a_cell(32, 128), [OK]),
            (a_cell(8, 1024), [OK]), (a_cell(32, 1024), [OOM, OOM]),
            (a_cell(8, 2048), [OOM]), (a_cell(32, 2048), [SKIPPED]),
            (a_cell(32, 4096), [SKIPPED]),
        ],
    )  # fmt: skip

    text = shown(folder, capsys)

    figures = [[part.strip() for part in row if part.strip()] for row in lines_of(text)]
    by_context = {row[1]: row for row in figures if len(row) > 2}
    assert by_context["256"][2:] == ["≥ 32", "1", "-"]
    assert by_context["1152"][2:] == ["8", "1", "32: oom 2x"]
    assert by_context["2176"][2] == "< 8 (oom 1x)"
    assert by_context["4224"][2] == "< 32 (inferred)"
    assert (
        "32: inferred, needs at least as much memory as the OOM at batch 32, context 1152 (seen 2 times)"
        in text
    )
    assert "≥: it fitted, and nothing larger has been tried." in text


def predicted(batch_size: int, fits: str = "fits") -> Prediction:
    """Return the prediction of 14 GiB and 4 a sequence, of which 110 are there: for 24."""
    need = (14 + 4 * batch_size) * GIB
    return msgspec.convert({"need_bytes": need, "have_bytes": 110 * GIB, "fits": fits}, Prediction)


def test_what_nobody_measured_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = a_cell(8), a_cell(16)
    folder = a_run(
        tmp_path / "run", [(few, []), (many, [])], {few.id: predicted(8), many.id: predicted(16)}
    )

    row = one(folder)

    assert (row.largest, row.predicted) == (None, 24)
    assert "predicted 24" in shown(folder, capsys)


def test_a_prediction_that_forbids_is_an_inference(tmp_path: Path) -> None:
    few, many = a_cell(8), a_cell(64)
    predictions = {few.id: predicted(8), many.id: predicted(64, "no")}
    folder = a_run(tmp_path / "run", [(few, [OK]), (many, [SKIPPED])], predictions)

    row = one(folder)

    assert (row.largest, row.inferred, row.predicted) == (8, 64, 24)
    assert (row.why or "").startswith("predicted to need 270.0 GiB of 110.0")


def test_an_engine_that_takes_memory_in_advance_stands_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_run(tmp_path / "run", [(a_cell(8), [OK])], preallocates=True)

    assert one(folder).preallocates
    assert "\n\nEngines that take memory in advance" in shown(folder, capsys)


def test_engines_are_rows_of_their_own(tmp_path: Path) -> None:
    folder = a_run(
        tmp_path / "run",
        [
            (a_cell(8), [OK]),
            (a_cell(8, number=4, dtype="float16"), [OOM]),
            (a_cell(8, number=8, options={"a": 1}), [OOM]),
        ],
    )

    assert [row.largest for row in capacity.fits(store.read(folder))] == [8, None, None]


def test_numbers_for_programs_are_bare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_run(tmp_path / "run", [(a_cell(8), [OK]), (a_cell(16), [OOM])])

    (row,) = csv.DictReader(io.StringIO(shown(folder, capsys, "csv")))
    (same,) = json.loads(shown(folder, capsys, "json"))

    assert (row["largest"], row["oom"], row["ooms"], row["inferred"]) == ("8", "16", "1", "")
    assert (same["largest"], same["oom"], same["ooms"], same["inferred"]) == (8, 16, 1, None)


def test_a_number_without_its_lengths_is_left_out(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", [(a_cell(8), [OK])])
    elsewhere = make_record(a_cell(16, number=4), 1, status=OK)
    point = msgspec.convert(
        {**msgspec.structs.asdict(elsewhere.cell), "input_len": None}, type=Point
    )
    with store.open_run(folder) as run:
        run.append(msgspec.structs.replace(elsewhere, cell=point))

    assert [row.batches for row in capacity.fits(store.read(folder))] == [[8]]


def test_a_name_from_anywhere_stays_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_run(tmp_path / "run", [(a_cell(8, model="=x|[b]\x1b[31m"), [OK])])

    assert "\x1b" not in shown(folder, capsys)
    assert "| `=x" in shown(folder, capsys, "markdown")
    assert "'=x" in shown(folder, capsys, "csv")


def test_a_real_run_has_its_edge(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write(axes={"batch_size": [1, 2, 4, 8]}, fault="oom", when="batch_size>=4")
    bench.sweep()

    row = one(bench.run)

    assert (row.largest, row.sessions) == (2, 2)
    assert row.oom == 4
    assert "4: oom" in shown(bench.run, capsys)
