"""Probes kept between runs: found again on the same machine only, and never in the way of a sweep."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmbench.errors import RunError
from llmbench.machine import info, peaks
from llmbench.machine import state as machine_state
from llmbench.machine.peaks import Probe, Rate

CPU = Probe(
    device="cpu",
    name="a CPU",
    at="2026-01-01T00:00:00Z",
    torch="2.13.0",
    threads=2,
    copy_bytes_s=2e10,
    read_bytes_s={"float32": 1.5e10},
    flops_s={"float32": 1e11},
    rates=[Rate(dtype="float32", rows=1, inner=768, columns=3072, flops_s=5e9)],
    step_s=3e-6,
)
GPU = msgspec.structs.replace(CPU, device="cuda", name="a GPU", threads=None)


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    return info.machine()


def test_there_is_no_probe_before_one_was_made(here: dict[str, Any]) -> None:
    assert peaks.kept_probes(here) == ([], None)


def test_what_was_kept_is_found_again(here: dict[str, Any]) -> None:
    peaks.keep(here, [CPU])

    assert peaks.probes_of(here) == [CPU]
    assert peaks.probes_of(info.machine()) == [CPU]  # an hour later, with another load


def test_a_device_measured_again_replaces_itself_only(here: dict[str, Any]) -> None:
    newer = msgspec.structs.replace(CPU, copy_bytes_s=3e10)
    peaks.keep(here, [CPU, GPU])

    peaks.keep(here, [newer])

    assert peaks.probes_of(here) == [GPU, newer]


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "another CPU"},
        {"cpu_count": 4096},
        {"memory_bytes": 1},
        {"gpus": [{"name": "NVIDIA H200", "driver": "1"}]},
    ],
)
def test_a_probe_of_another_machine_is_not_used(
    here: dict[str, Any], change: dict[str, Any]
) -> None:
    peaks.keep({**here, **change}, [CPU])

    assert peaks.probes_of(here) == []


def test_neither_is_one_of_another_torch(
    here: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks.keep(here, [CPU])

    monkeypatch.setattr(info, "_version", lambda package: f"{package} 0.0")

    assert peaks.probes_of(here) == []


def test_nor_one_of_other_threads(here: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    peaks.keep(here, [CPU])

    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    assert peaks.probes_of(here) == []


def test_a_file_brought_from_another_machine_is_not_used(here: dict[str, Any]) -> None:
    theirs = peaks.keep({**here, "cpu": "another CPU"}, [CPU])
    theirs.rename(theirs.with_name(f"{peaks.key_of(here)}.json"))

    probes, notice = peaks.kept_probes(here)

    assert probes == []
    assert notice
    assert "measured on another machine" in notice


def spoil_with(text: str) -> Any:
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_with(""), "truncated"),
        (spoil_with('{"format": 1, "key": "x", "pro'), "truncated"),
        (spoil_with('{"format": 1}'), "missing required field"),
        (lambda path: path.write_bytes(b"\x00\xff" * 99), "malformed"),
        (lambda path: path.write_text(path.read_text().replace("3e-6", "0.0")), "0.0 is not a possible rate"),
        (lambda path: path.write_text(path.read_text().replace("100000000000.0", "-1.0")), "is not a possible rate"),
        (lambda path: path.write_text(path.read_text().replace("100000000000.0", "1e300")), "is not a possible rate"),
        (lambda path: path.write_text(path.read_text().replace("100000000000.0", "1e-300")), "is not a possible rate"),
        (lambda path: path.write_text(path.read_text().replace("3e-6", "1e300")), "is not a possible rate"),
        (lambda path: path.write_text(path.read_text().replace('"format": 1', '"format": 2')), "newer"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
    ],
)  # fmt: skip
def test_a_spoiled_file_costs_one_sentence(here: dict[str, Any], spoil: Any, reason: str) -> None:
    path = peaks.keep(here, [CPU])
    spoil(path)

    probes, notice = peaks.kept_probes(here)

    assert probes == []
    assert notice
    assert notice.startswith(f"{path}: the saved probe was ignored: ")
    assert reason in notice
    assert notice.endswith("measure again with llmbench machine --probe.")
    assert "\n" not in notice


def test_a_write_that_fails_leaves_the_old_one_whole(
    here: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = peaks.keep(here, [CPU])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the probe cannot be saved: No space left on device"):
        peaks.keep(here, [msgspec.structs.replace(CPU, torch="9")])
    monkeypatch.undo()
    os.environ[machine_state.STATE] = str(path.parents[1])

    assert msgspec.json.decode(path.read_bytes(), type=peaks.File).probes == [CPU]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made_is_one_line(here: dict[str, Any], state: Path) -> None:
    state.write_text("a file where the folder should be")

    with pytest.raises(RunError, match=f"Set {machine_state.STATE} to a writable folder."):
        peaks.keep(here, [CPU])
    assert peaks.probes_of(here) == []


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({machine_state.STATE: "/a", "XDG_STATE_HOME": "/b"}, "/a"),
        ({"XDG_STATE_HOME": "/b"}, "/b/llmbench"),
        ({"XDG_STATE_HOME": "b", "HOME": "/home/me"}, "/home/me/.local/state/llmbench"),
        ({"HOME": "/home/me"}, "/home/me/.local/state/llmbench"),
    ],
)
def test_the_folder_is_the_users(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (machine_state.STATE, "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert machine_state.folder() == Path(folder)


def test_nothing_secret_is_kept(here: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "sesame-open")

    path = peaks.keep(here, [msgspec.structs.replace(CPU, name="a CPU called sesame-open")])

    assert "sesame" not in path.read_text()
    assert json.loads(path.read_text())["probes"][0]["name"] == "a CPU called <redacted>"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
