"""Export of a run to experiment trackers, MLflow and Weights & Biases: a tracker's run for each cell.

A tracker compares its runs by their parameters, one value each, and a cell is a point of parameters. What belongs to
the whole, with the records as they are, stands in one more run, the parent or group of the others.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import re
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from llmbench.errors import LlmbenchError, RunError, SpecError
from llmbench.redact import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from llmbench.results.store import Log
    from llmbench.spec.sweep import Protocol

RUN_ID, CELL = "llmbench.run_id", "llmbench.cell"
"""Tags by which an export is found again."""
LONGEST_KEY, LONGEST_VALUE = 250, 5000
"""MLflow's limits for the names of all, and the values of tags in its older versions."""
MOST_AT_ONCE = 100
"""Parameters that MLflow takes in one request; of metrics it takes ten times as many."""
NOT_IN_A_NAME = re.compile(r"[^\w\-. /:]")
"""Characters that MLflow refuses in a name."""

Columns: TypeAlias = "Iterable[tuple[str, Sequence[object]]]"


class Tracked(NamedTuple):
    """What a tracker's run says: of a cell, or of the whole run."""

    name: str
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    measured: bool = True


class Export(NamedTuple):
    """A run as a tracker takes it.

    Attributes:
        run_id: of the run, the same in every copy of it.
        at: when it began, in milliseconds since 1970; None if an imported run does not say.
        whole: what belongs to the whole.
        cells: each of the cells.
        files: the records, and what describes them.

    """

    run_id: str
    at: int | None
    whole: Tracked
    cells: Sequence[Tracked]
    files: Sequence[Path]


def build(
    log: Log, folder: Path, origin: Columns, coordinates: Columns, figures: Columns
) -> Export:
    """Return a run as a tracker takes it.

    Args:
        log: the run.
        folder: where it lies.
        origin: columns of machine, day and versions, which become tags.
        coordinates: columns of the cells' ids and coordinates, which become parameters.
        figures: all other columns; numbers become metrics, words tags.

    """
    made = log.plan or log.imported
    if made is None:
        raise RunError(f"{log.name}: has no plan, and so no name or settings to export.")
    settings = _settings(log.plan.settings) if log.plan else {}
    tags = [{RUN_ID: made.run, **row} for row in _rows(origin)]
    cells = [
        _cell(of, {**where, **settings}, row)
        for of, where, row in zip(tags, _rows(coordinates), _rows(figures), strict=True)
    ]
    shared = {**(tags[0] if tags else {RUN_ID: made.run}), "command": made.command}
    known = {key: str(value) for key, value in shared.items() if value}
    whole = Tracked(log.name, settings, {}, known)
    files = [path for path in (folder / "records.jsonl", folder / "run.json") if path.is_file()]
    return Export(made.run, _milliseconds(made.at), whole, cells, files)


def mlflow(export: Export, folder: Path | None) -> str:
    """Log a run to MLflow: a SQLite file in a folder, or without one the store of MLFLOW_TRACKING_URI; return where.

    Raises:
        SpecError: neither says where.
        RunError: the run is there already, or the store cannot be written.
        LlmbenchError: MLflow is not installed.

    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if folder is None and not uri:
        raise SpecError("export: --to mlflow needs a store: -o FOLDER, or MLFLOW_TRACKING_URI.")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # seven take minutes
    module = _module("mlflow")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    if folder is not None:
        _make(folder)
        uri = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    try:
        _to_mlflow(export, module, uri, folder)
    except (module.exceptions.MlflowException, OSError) as error:
        raise RunError(f"export: MLflow at {_said(uri)}: {_said(str(error))}") from error
    return f"{len(export.cells) + 1} runs in the experiment {export.whole.name} of {_said(uri)}"


def _to_mlflow(export: Export, module: Any, uri: str, folder: Path | None) -> None:
    client = module.MlflowClient(uri)
    name = export.whole.name
    kept = client.get_experiment_by_name(name)
    if kept is None:
        at = (folder / "artifacts").resolve().as_uri() if folder else None
        experiment = client.create_experiment(name, artifact_location=at)
    else:
        experiment = kept.experiment_id
        mine = f"tags.`{RUN_ID}` = '{export.run_id}' and attributes.status = 'FINISHED'"
        if client.search_runs([experiment], mine, max_results=1):
            raise RunError(f"export: {name} is in MLflow at {_said(uri)} already.")
    whole = _mlflow_run(client, module, export, export.whole, experiment)
    for path in export.files:
        client.log_artifact(whole, str(path))
    for cell in export.cells:
        child = _mlflow_run(client, module, export, cell, experiment, whole)
        status = "FINISHED" if cell.measured else "FAILED"
        client.set_terminated(child, status, end_time=export.at)
    client.set_terminated(whole, "FINISHED", end_time=export.at)


def _mlflow_run(
    client: Any, module: Any, export: Export, told: Tracked, experiment: str, parent: str = ""
) -> str:
    """Create a run and log what it says; return its id."""
    entities = module.entities
    tags = {_key(key): value[:LONGEST_VALUE] for key, value in told.tags.items()}
    if parent:
        tags["mlflow.parentRunId"] = parent
    run = client.create_run(experiment, export.at, tags, told.name)
    params = [entities.Param(_key(k), str(v)[:LONGEST_VALUE]) for k, v in told.params.items()]
    at = export.at or 0
    metrics = [entities.Metric(_key(k), value, at, 0) for k, value in told.metrics.items()]
    identifier: str = run.info.run_id
    client.log_batch(identifier, metrics=metrics)
    for first in range(0, len(params), MOST_AT_ONCE):
        client.log_batch(identifier, params=params[first : first + MOST_AT_ONCE])
    return identifier


def wandb(export: Export, folder: Path | None) -> str:
    """Log a run for Weights & Biases into a folder, offline unless WANDB_MODE says otherwise; return where.

    Raises:
        SpecError: there is no folder.
        RunError: the run is there already, or it cannot be written.
        LlmbenchError: wandb is not installed.

    """
    if folder is None:
        raise SpecError("export: --to wandb writes into a folder; say which: -o FOLDER.")
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.resolve()))  # files wait there for the upload
    module = _module("wandb")
    _make(folder)
    mode = os.environ.get("WANDB_MODE", "offline")
    if list(folder.glob(f"wandb/*run-*-{_id(export, export.whole)}")):
        raise RunError(f"export: {export.whole.name} is in {folder} already.")
    try:
        for told in (*export.cells, export.whole):
            _wandb_run(module, export, told, folder, mode)
    except (module.errors.Error, OSError) as error:
        raise RunError(f"export: wandb in {folder}: {_said(str(error))}") from error
    return f"{len(export.cells) + 1} runs in {folder}; wandb sync {folder}/wandb/offline-run-* uploads them"


def _wandb_run(module: Any, export: Export, told: Tracked, folder: Path, mode: str) -> None:
    """Log one run, without what wandb else collects of machine, user and code."""
    quiet = module.Settings(
        silent=True, console="off", save_code=False, disable_git=True, disable_job_creation=True,
        x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
    )  # fmt: skip
    run = module.init(
        project="llmbench", group=export.whole.name, name=told.name, id=_id(export, told),
        job_type="run" if told is export.whole else "cell",
        config={**told.params, **told.tags}, mode=mode, dir=str(folder), settings=quiet,
    )  # fmt: skip
    run.summary.update(told.metrics)
    if told is export.whole:
        records = module.Artifact(f"records-{export.run_id}", type="records")
        for path in export.files:
            records.add_file(str(path))
        run.log_artifact(records)
    run.finish(exit_code=0 if told.measured else 1)


TRACKERS: Mapping[str, Callable[[Export, Path | None], str]] = {"mlflow": mlflow, "wandb": wandb}


def _id(export: Export, told: Tracked) -> str:
    """Return the id of a run in wandb, the same in every export, so that a second one is no second run."""
    return sha256(f"{export.run_id} {told.name}".encode()).hexdigest()[:16]


def _cell(
    tags: Mapping[str, object], params: Mapping[str, object], row: Mapping[str, object]
) -> Tracked:
    numbers = {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    said = {key: value for key, value in row.items() if isinstance(value, str)}
    name = str(params["cell"])
    told = {**tags, CELL: name, **said}
    return Tracked(
        name,
        {key: value for key, value in params.items() if value not in {"", None}},
        numbers,
        {key: str(value) for key, value in told.items() if value},
        measured=bool(row.get("sessions_valid", 1)),
    )


def _rows(columns: Columns) -> Iterator[dict[str, object]]:
    """Yield the rows of columns; an array's numbers are Python's."""
    named = {
        key: values.tolist() if hasattr(values, "tolist") else values for key, values in columns
    }
    for row in zip(*named.values(), strict=True):
        yield dict(zip(named, row, strict=True))


def _settings(protocol: Protocol) -> dict[str, object]:
    """Return a protocol's settings under dotted names."""
    return dict(_flat(msgspec.to_builtins(protocol), "protocol"))


def _flat(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}")
    elif value is not None:
        yield name, value


def _milliseconds(at: str) -> int | None:
    try:
        return round(1e3 * datetime.fromisoformat(at).timestamp())
    except ValueError:
        return None


def _key(name: str) -> str:
    return NOT_IN_A_NAME.sub("_", name)[:LONGEST_KEY]


def _said(text: str) -> str:
    """Return another program's words as one line."""
    return shown(text.strip().partition("\n")[0])


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}.") from error


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LlmbenchError(
            f"export: --to {name} needs {name}, which is not installed: pip install 'llmbench[{name}]'."
        ) from error
