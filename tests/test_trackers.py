"""A run in MLflow and in wandb: what is logged, and the same read back through the trackers' own code.

What needs a tracker is skipped without it: `pip install '.[mlflow,wandb]'`, then `scripts/test-slow`.
"""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from llmbench import cli
from llmbench.report.views import table as views_table
from llmbench.results import store, table, tracking
from llmbench.results.record import Status
from make_records import make_cell, make_plan, make_record, make_samples, write_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD, LOST = make_cell(0, batch_size=4, options={"attention": "eager"}), make_cell(1)
AT = 1748779200000
"""The moment of the plan, 2025-06-01T12:00:00Z, in milliseconds."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    environment = {"llmbench": "0.1.0", "packages": {"torch": "2.13.0"}}
    plan = make_plan([GOOD, LOST], machine={"name": "xeon-2cpu"}, environment=environment)
    records = [
        *(make_record(GOOD, n, make_samples([1 + n / 10], 0.25, 16)) for n in (1, 2, 3)),
        *(make_record(LOST, n, status=Status.OOM, reason="no room") for n in (1, 2, 3)),
    ]
    write_lines(tmp_path / "mine", [plan, *records])
    return tmp_path / "mine"


def packaged(name: str) -> Any:
    """Return a tracker's package; skip the test without it."""
    return pytest.importorskip(name, reason=f"needs {name}: pip install '.[{name}]'")


def figures(run: Path) -> dict[str, float]:
    """Return the numbers of the only measured cell, by the table's own columns."""
    (e2e,) = (n for n in table.build(store.read(run)).numbers if n.metric.key == "e2e_s")
    middle, half = float(e2e.middle[0]), float(e2e.half_width[0])
    return {"e2e_s": middle, "e2e_s_low": middle / (1 + half), "e2e_s_high": middle * (1 + half)}


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the only line of a command that ends as a mistake."""
    assert cli.run(["export", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_a_cell_is_a_run_with_its_coordinates_numbers_and_origin(run: Path) -> None:
    log = store.read(run)
    built = table.build(log)
    origin, where = (dict(views_table.provenance(built, 2)), dict(views_table.coordinates(built)))
    rest = [one for one in views_table.sheet(built) if one[0] not in {*origin, *where}]

    made = tracking.build(log, run, origin.items(), where.items(), rest)

    good, lost = made.cells
    wanted = {"batch_size": 4, "attention": "eager", "protocol.sessions": 3, "cell": GOOD.id}
    assert {key: good.params[key] for key in wanted} == wanted
    assert {key: good.metrics[key] for key in figures(run)} == figures(run)
    assert (good.tags["machine"], good.tags["torch"]) == ("xeon-2cpu", "2.13.0")
    assert (good.measured, lost.measured) == (True, False)
    assert "e2e_s" not in lost.metrics
    assert lost.tags["failures"] == "3 oom"
    assert made.at == AT
    assert [path.name for path in made.files] == ["records.jsonl"]


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_without_its_package_one_line_names_the_extra(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)

    said = refused(capsys, run, "--to", name, "-o", run.parent / "x")

    assert f"pip install 'llmbench[{name}]'" in said
    assert not (run.parent / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--to", "mlflow"), "-o FOLDER, or MLFLOW_TRACKING_URI"),
        (("--to", "wandb"), "-o FOLDER"),
        (("--to", "wandb", "--per-session"), "takes no --per-session"),
        (("--to", "mlflow", "--format", "parquet", "--anonymous"), "no --anonymous or --format parquet"),
    ],
)  # fmt: skip
def test_what_cannot_be_logged_gets_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refused(capsys, run, *arguments)


def held(mlflow: Any, uri: str, run: Path) -> None:
    """Hold what MLflow's own client reads to what was measured."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("mine")
    found = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"mine", GOOD.id, LOST.id}
    whole, good, lost = found["mine"], found[GOOD.id], found[LOST.id]
    assert good.data.params["batch_size"] == "4"
    assert {key: good.data.metrics[key] for key in figures(run)} == figures(run)
    assert good.data.tags["machine"] == "xeon-2cpu"
    assert good.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert (good.info.status, lost.info.status) == ("FINISHED", "FAILED")
    assert (good.info.start_time, good.info.end_time) == (AT, AT)
    path = client.download_artifacts(whole.info.run_id, "records.jsonl", str(run.parent))
    with open(path, "rb") as stream:  # noqa: PTH123 - MLflow's own name
        assert stream.read() == (run / "records.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_back_what_was_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mlflow = packaged("mlflow")
    arguments = ("export", str(run), "--to", "mlflow", "-o", str(run.parent / "store"))

    code = cli.run([*arguments])

    assert code == 0
    assert "3 runs in the experiment mine" in capsys.readouterr().err
    held(mlflow, f"sqlite:///{run.parent / 'store' / 'mlflow.db'}", run)
    assert "already" in refused(capsys, *arguments[1:])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Start an MLflow server on SQLite, and return its address."""
    packaged("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path / 's.db'}", "--artifacts-destination", str(tmp_path / "s"),
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        uri = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while not answers(uri):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield uri
    finally:
        process.terminate()
        process.wait(30)


def answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:  # noqa: S310 - http, ours
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_mlflow_server_reads_back_what_was_measured(
    run: Path, server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.replace("//", "//me:secret@"))

    code = cli.run(["export", str(run), "--to", "mlflow"])

    said = capsys.readouterr()
    assert (code, said.out) == (0, "")
    assert "secret" not in said.err
    held(packaged("mlflow"), server, run)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_absent_mlflow_server_gets_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")

    said = refused(capsys, run, "--to", "mlflow")

    assert "MLflow at http://" in said
    assert "secret" not in said


def records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline run: a log of blocks, whose messages are wandb's own protobuf."""
    pb = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:
            yield pb.Record.FromString(whole)
            whole = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_holds_what_was_measured_offline(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packaged("wandb")
    folder = run.parent / "w"
    arguments = ("export", str(run), "--to", "wandb", "-o", str(folder))

    code = cli.run([*arguments])

    assert (code, capsys.readouterr().out) == (0, "")
    told: dict[str, dict[str, Any]] = {}
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        lines = list(records(path))
        (first,) = (line.run for line in lines if line.WhichOneof("record_type") == "run")
        config = {one.key: json.loads(one.value_json) for one in first.config.update}
        updates = (one for line in lines for one in line.summary.update)
        summary = {one.key or one.nested_key[0]: json.loads(one.value_json) for one in updates}
        exits = [line.exit.exit_code for line in lines if line.WhichOneof("record_type") == "exit"]
        artifacts = [entry.path for line in lines for entry in line.artifact.manifest.contents] or [
            entry.path
            for line in lines
            for entry in line.request.log_artifact.artifact.manifest.contents
        ]
        told[first.display_name] = {"group": first.run_group, "config": config, "summary": summary,
                                    "exits": exits, "artifacts": artifacts}  # fmt: skip
    assert set(told) == {"mine", GOOD.id, LOST.id}
    good = told[GOOD.id]
    assert {key: good["summary"][key] for key in figures(run)} == figures(run)
    assert (good["config"]["batch_size"], good["config"]["machine"]) == (4, "xeon-2cpu")
    assert {one["group"] for one in told.values()} == {"mine"}
    assert (good["exits"], told[LOST.id]["exits"]) == ([0], [1])
    assert "records.jsonl" in told["mine"]["artifacts"]
    staged = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in staged] == [(run / "records.jsonl").read_bytes()]
    assert "already" in refused(capsys, *arguments[1:])
