"""What a killed process leaves in shared memory and as named sockets is removed; what others hold stays."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from llmbench.machine import leftovers, processes
from llmbench.machine.leftovers import Existing

NOBODY = 2**22 + 1
"""No process has this id: Linux ends at 2²²."""

HOLDER = """
import socket, sys, time
from multiprocessing import shared_memory, resource_tracker
block = shared_memory.SharedMemory(name=sys.argv[1] or None, create=not sys.argv[1], size=4096)
resource_tracker.unregister(block._name, "shared_memory")
here = socket.socket(socket.AF_UNIX)
here.bind(sys.argv[2])
print(block.name, flush=True)
time.sleep(3600)
"""


@pytest.fixture
def block() -> Iterator[SharedMemory]:
    """Return shared memory of this process, which lives on."""
    made = SharedMemory(create=True, size=4096)
    yield made
    made.close()
    made.unlink()


def holder(place: Path, shared: str = "") -> tuple[subprocess.Popen[str], Path]:
    """Start a process that holds a socket at `place` and shared memory, of its own or that of this name."""
    process = subprocess.Popen(
        (sys.executable, "-c", HOLDER, shared, place), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, Path("/dev/shm") / process.stdout.readline().strip()  # noqa: S108


def kill(process: subprocess.Popen[str], before: Existing | None) -> None:
    """Kill a process and what it started, as a session is killed, or what is left over from one."""
    found = [psutil.Process(process.pid)]

    def alive() -> list[psutil.Process]:
        return [one for one in found if one.is_running() and one.status() != "zombie"]

    processes.kill(alive, os.getpid(), before)
    process.communicate()


@pytest.mark.parametrize("before", [Existing.now(), None], ids=["a session", "left over"])
def test_a_killed_process_leaves_no_shared_memory_and_no_socket(
    tmp_path: Path, before: Existing | None
) -> None:
    process, shared = holder(tmp_path / "socket")
    assert shared.exists()
    assert (tmp_path / "socket").exists()

    kill(process, before)

    assert not shared.exists()
    assert not (tmp_path / "socket").exists()


def test_what_another_process_still_maps_stays(tmp_path: Path, block: SharedMemory) -> None:
    process, shared = holder(tmp_path / "socket", block.name)

    kill(process, None)

    assert shared.exists()


def test_the_folders_of_a_session_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine, other = secrets.token_hex(16), secrets.token_hex(16)
    for session in (mine, other):
        (tmp_path / f"{leftovers.prefix(session)}x").mkdir()
        (tmp_path / f"{leftovers.prefix(session)}x" / "config.json").touch()

    family = processes.SessionProcesses(mine, None, frozenset(), Existing.now())
    processes.kill_session(family, NOBODY)

    assert [path.name for path in tmp_path.iterdir()] == [f"llmbench-{other}-x"]


def test_a_worker_names_its_folders_by_what_its_launcher_calls_the_session() -> None:
    folder = Path(leftovers.__file__).parent.parent / "backends" / "vllm" / "model_folder.py"

    assert f'os.environ.get("{processes.SESSION_VARIABLE}")' in folder.read_text()


MAPPER = """
import mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print("mapped", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def in_shared_memory() -> Iterator[Path]:
    """Return a folder of the user's in shared memory."""
    folder = Path(tempfile.mkdtemp(dir=leftovers.SHARED, prefix="mine-"))
    yield folder
    shutil.rmtree(folder)


def mapper(path: Path) -> subprocess.Popen[str]:
    """Start a process that maps a file and nothing else."""
    process = subprocess.Popen(
        (sys.executable, "-c", MAPPER, path), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "mapped\n"
    return process


@pytest.mark.parametrize("known", [True, False], ids=["a session", "left over"])
@pytest.mark.parametrize("name", ["model.safetensors", "psm_1a2b3c4d", "torch_1_2_3"])
def test_a_file_of_the_user_is_never_removed(
    in_shared_memory: Path, name: str, *, known: bool
) -> None:
    path = in_shared_memory / name
    path.write_bytes(b"weights")

    kill(mapper(path), Existing.now() if known else None)

    assert path.read_bytes() == b"weights"


@pytest.mark.parametrize("name", ["weights.safetensors", "site-packages.so", "blobs"])
def test_a_file_that_a_worker_put_there_to_stay_stays(name: str) -> None:
    before = Existing.now()
    path = leftovers.SHARED / f"{secrets.token_hex(4)}-{name}"
    path.write_bytes(b"downloaded")

    kill(mapper(path), before)

    assert path.exists()
    path.unlink()


@pytest.mark.parametrize("known", [True, False], ids=["a session", "left over"])
def test_shared_memory_that_was_there_before_stays(*, known: bool) -> None:
    path = leftovers.SHARED / f"psm_{secrets.token_hex(4)}"
    path.write_bytes(b"somebody's")
    time.sleep(leftovers.CLOCKS_WITHIN_S + 0.05)

    kill(mapper(path), Existing.now() if known else None)

    assert path.exists()
    path.unlink()


def test_a_socket_that_somebody_else_has_bound_since_stays(tmp_path: Path) -> None:
    before = Existing.now()
    process, _ = holder(tmp_path / "socket")
    (tmp_path / "socket").unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "socket"))

        kill(process, before)

        assert (tmp_path / "socket").exists()
