"""Fixtures that several files share."""

import contextlib
import copy
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import forked
from lazily import torch
from llmbench.machine import state as machine_state
from llmbench.spec import yaml
from standin_cuda import guard
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


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking 4,000 collected tests and all imported modules again and again."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def _cuda() -> None:
    """Compile what the stand-in of a CUDA device needs, or skip without a compiler."""
    try:
        guard.library()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def heeded() -> None:
    """Let signals through that a shell has ignored for what it runs in the background: commands would inherit it."""
    defaults = {signal.SIGINT: signal.default_int_handler}
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, defaults.get(number, signal.SIG_DFL))


@pytest.fixture(scope="session", autouse=True)
def parsed_once() -> Iterator[None]:
    """Parse each YAML text once: commands in this process read the same files hundreds of times, 5 ms each."""
    reader = yaml._reader

    @lru_cache(maxsize=256)
    def parsed(text: str) -> Any:
        return reader().load(text)

    again = SimpleNamespace(load=lambda text: copy.deepcopy(parsed(text)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "_reader", lambda: again)
        yield


@pytest.fixture(scope="session", autouse=True)
def commands() -> Iterator[None]:
    """End the process that forks commands with the session."""
    yield
    forked.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return a sweep whose processes do not outlive the test."""
    made = Bench(tmp_path)
    yield made
    made.clear()
