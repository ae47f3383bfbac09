"""What a killed process leaves in shared memory and as named sockets is removed; what others hold stays."""

import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from llmbench import leavings, reap

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


def test_an_ordinary_file_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    leavings.remove({tmp_path / "mine"})

    assert (tmp_path / "mine").exists()
