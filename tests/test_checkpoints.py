"""Checkpoints that cannot be loaded: each is a record with its reason, and none of their code runs (FAULTS 22)."""

from __future__ import annotations

import http.server
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest

from hubs import Refusing
from jobs import family, job
from llmbench import backends
from llmbench.results.record import Record, Status
from sweeps import Bench, asked, assert_complete
from test_backend_transformers_loading import (
    AUTO_MAP,
    REMOTE,
    Trap,
    configured,
    cut,
    set_by_torch,
    without_weights,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENT = {"deadlines": {"start_s": 55, "load_s": 55}, "sessions": 1, "max_sessions": 1}


class Hub(Refusing):
    """A hub on which every repository is gated, or missing."""

    def refusal(self) -> tuple[int, str]:
        """Return what is said of the repository that was asked for."""
        return (403, "GatedRepo") if "gated" in self.path else (404, "RepoNotFound")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the environment in which a refusing hub is the hub."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny checkpoint, to be copied."""
    folder = tmp_path_factory.mktemp("whole") / "whole"
    engine: Any = backends.load(job(family("llama")))
    engine._model.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoints(whole: Path, tmp_path: Path) -> dict[str, str]:
    """Return folders of one tiny checkpoint, each bad in its own way, and two hub ids, by what they are."""
    found = {"missing": "nobody/missing", "gated": "nobody/gated"}
    for name in ("truncated", "malicious", "remote"):
        found[name] = str(shutil.copytree(whole, tmp_path / name))
    cut(tmp_path / "truncated")
    without_weights(tmp_path / "malicious")
    set_by_torch(Trap(tmp_path / "sprung"), tmp_path / "malicious")
    configured(model_type="own", auto_map=AUTO_MAP)(tmp_path / "remote")
    (tmp_path / "remote" / "own.py").write_text(REMOTE.format(sprung=str(tmp_path / "sprung")))
    return found


def swept(
    bench: Bench, checkpoints: dict[str, str], environment: dict[str, str], *arguments: str
) -> dict[str, Record]:
    """Sweep over checkpoints that cannot be loaded; return each one's record."""
    bench.write(
        axes={
            "model": list(checkpoints.values()),
            "backend": "transformers",
            "batch_size": 1,
            "dtype": "float32",
        },
        protocol=PATIENT,
    )
    done = bench.sweep(*arguments, environment=environment)
    assert_complete(done)
    assert done.code == 3
    names = {location: name for name, location in checkpoints.items()}
    return {names[record.cell.model]: record for record in done.records}


REFUSED = {
    "missing": "is not on the hub, or it is private; set HF_TOKEN to read a private one.",
    "gated": "is gated: accept its terms on the hub and set HF_TOKEN.",
    "truncated": "a weight file is truncated or damaged",
    "malicious": "has only pickled weights (pytorch_model.bin), which can contain code; use --allow-pickle",
    "remote": "needs its own Python code, which was not run; use --trust-remote-code to run it.",
}


def test_what_cannot_be_loaded_says_why_and_what_would_allow_it(
    bench: Bench, checkpoints: dict[str, str], hub: dict[str, str]
) -> None:
    records = swept(bench, checkpoints, hub)

    assert records.keys() == REFUSED.keys()
    for name, record in records.items():
        assert (record.status, record.phase) == (Status.LOAD_FAILED, "load"), name
        assert REFUSED[name] in (record.reason or "")
        assert checkpoints[name] in (record.reason or "")
    assert not (bench.folder / "sprung").exists()


def test_what_no_flag_allows_stays_refused(
    bench: Bench, checkpoints: dict[str, str], hub: dict[str, str]
) -> None:
    asked = {name: checkpoints[name] for name in ("missing", "malicious")}

    records = swept(bench, asked, hub, "--allow-pickle", "--offline")

    assert "none of their code was run" in (records["malicious"].reason or "")
    assert "is not in the local cache and the hub " in (records["missing"].reason or "")
    assert not (bench.folder / "sprung").exists()


WAYS = ("{here}/{name}", "link-to-{name}", "../here/{name}/")


def test_no_way_to_name_a_model_runs_its_code(
    bench: Bench, checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, names = bench.folder / "here", ("malicious", "remote")
    here.mkdir()
    for name in names:
        shutil.move(checkpoints[name], here / name)
        (here / f"link-to-{name}").symlink_to(here / name)
    ways = [way.format(here=here, name=name) for way in WAYS for name in names]
    monkeypatch.chdir(here)
    bench.write(
        axes={"model": ways[-2:], "backend": "transformers", "batch_size": 1}, protocol=PATIENT
    )

    dry = asked("sweep", bench.file, "--dry-run", "--model", ",".join(ways))
    measured = bench.sweep("--model", ",".join(ways))
    answers = [
        asked("fit", bench.run),
        asked("cell", bench.file, "x"),
        *(asked("models", way) for way in ways),
    ]

    assert dry.code == 0
    assert [record.status for record in measured.records] == [Status.LOAD_FAILED] * len(ways)
    assert all(answer.code in (0, 1, 2, 3) for answer in answers)
    assert not (bench.folder / "sprung").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["malicious", "remote"])
def test_a_check_of_parity_runs_no_code_of_a_model(
    bench: Bench, checkpoints: dict[str, str], name: str
) -> None:
    axes = {"model": checkpoints[name], "backend": "transformers", "batch_size": 1}
    bench.write(axes=axes, protocol=PATIENT)

    answer = asked("audit", "--parity", bench.file)

    assert answer.code in (0, 1, 2, 3)
    assert not (bench.folder / "sprung").exists()
