"""What a killed process leaves in shared memory and as named sockets is removed; what others hold stays."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from llmbench import leavings, nursery, reap

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


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and what it started, as a session is killed."""
    found = [psutil.Process(process.pid)]

    def alive() -> list[psutil.Process]:
        return [one for one in found if one.is_running() and one.status() != "zombie"]

    reap.kill(alive, os.getpid())
    process.communicate()


def test_a_killed_process_leaves_no_shared_memory_and_no_socket(tmp_path: Path) -> None:
    process, shared = holder(tmp_path / "socket")
    assert shared.exists()
    assert (tmp_path / "socket").exists()

    kill(process)

    assert not shared.exists()
    assert not (tmp_path / "socket").exists()


def test_what_another_process_still_maps_stays(tmp_path: Path, block: SharedMemory) -> None:
    process, shared = holder(tmp_path / "socket", block.name)

    kill(process)

    assert shared.exists()


def test_the_folders_of_a_session_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine, other = secrets.token_hex(16), secrets.token_hex(16)
    for session in (mine, other):
        (tmp_path / f"{leavings.prefix(session)}x").mkdir()
        (tmp_path / f"{leavings.prefix(session)}x" / "config.json").touch()

    reap.kill_session(mine, NOBODY, set())

    assert [path.name for path in tmp_path.iterdir()] == [f"llmbench-{other}-x"]


def test_a_worker_names_its_folders_by_what_its_launcher_calls_the_session() -> None:
    folder = Path(leavings.__file__).parent / "backends" / "_vllm_folder.py"

    assert f'os.environ.get("{nursery.SESSION_VARIABLE}")' in folder.read_text()


def test_an_ordinary_file_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    leavings.remove({tmp_path / "mine"})

    assert (tmp_path / "mine").exists()
