"""Fixtures that several files share."""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazily import torch
from llmbench.machine import state as machine_state
from sweeps import Bench

SCRIPTS = Path(__file__).parents[1] / "scripts"
QUICK = (
    "--steps",
    "120",
    "--hidden",
    "64",
    "--layers",
    "2",
    "--vocabulary",
    "1024",
    "--length",
    "64",
)
"""Settings that take three seconds; the loss still falls from 6.95 to 4.95."""

# The tests start llmbench a thousand times, and compiling its modules takes a seventh of each start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


with contextlib.suppress(ImportError):  # a bare machine with a GPU has none
    from hypothesis import settings

    settings.register_profile("short", derandomize=True, deadline=None, max_examples=50)
    settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
    settings.load_profile("short")  # --hypothesis-profile chooses, as scripts/fuzz does


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty state folder, and remove settings of this machine's user and terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)  # set by a test runner with several processes
    monkeypatch.setenv(machine_state.STATE, str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="session")
def trained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small trained checkpoint with its own tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoints") / "trained"
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.syspath_prepend(SCRIPTS)
        patch.setattr(sys, "argv", ["make_checkpoint.py", str(folder), *QUICK])
        torch.set_num_threads(1)  # two would wait for each other on a busy machine
        assert importlib.import_module("make_checkpoint").main() == 0
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a bench's default sweep, to be copied."""
    made = Bench(tmp_path_factory.mktemp("measured"))
    made.write()
    done = made.sweep(environment={machine_state.STATE: str(made.folder / "state")})
    assert done.code == 0, done.err
    return made.run


@pytest.fixture(scope="session", autouse=True)
def heeded() -> None:
    """Let signals through that a shell has ignored for what it runs in the background: commands would inherit it."""
    defaults = {signal.SIGINT: signal.default_int_handler}
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, defaults.get(number, signal.SIG_DFL))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return a sweep whose processes do not outlive the test."""
    made = Bench(tmp_path)
    yield made
    made.clear()
