"""A command starts quickly because it loads only what it needs: seen in fresh interpreters."""

import subprocess
import sys
import time

import pytest

from llmbench.cli import COMMANDS

ENGINES = ("torch", "transformers", "vllm", "accelerate")
HEAVY = (*ENGINES, "numpy", "scipy", "msgspec", "ruamel", "psutil", "pydantic")

REPORT_LOADED = """
import sys
sys.argv = ["llmbench", *sys.argv[1:]]
from llmbench.cli import main
try:
    main()
finally:
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""

HELPS = """
import sys
from llmbench.cli import run
for name in sys.argv[1:]:
    assert run([name, "--help"]) == 0
    print(f"{name}:", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
"""The help of each command, one after the other, and what has been loaded by then."""

SLOWEST = 1.5
"""`llmbench --help` takes at most this many times what its two libraries take to import."""

BARE = (sys.executable, "-c", "import typer, rich.table")
HELP = (sys.executable, "-m", "llmbench", "--help")


def loaded_by(*arguments: str) -> set[str]:
    """Return the top-level modules that one run of llmbench leaves loaded."""
    command = (sys.executable, "-c", REPORT_LOADED, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("loaded:")[2].split())


def duration_s(command: tuple[str, ...]) -> float:
    start_s = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start_s


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"llmbench", "typer"} <= loaded_by("--help")


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_first_look_loads_nothing_heavy(argument: str) -> None:
    assert loaded_by(argument).isdisjoint(HEAVY)


def test_the_help_of_no_command_loads_an_engine() -> None:
    done = subprocess.run(
        (sys.executable, "-c", HELPS, *COMMANDS), capture_output=True, text=True, check=True
    )

    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == list(COMMANDS)
    for line in done.stderr.splitlines():
        name, _, loaded = line.partition(":")
        assert set(loaded.split()).isdisjoint(ENGINES), name


def test_help_takes_little_longer_than_its_libraries() -> None:
    pairs = [(duration_s(HELP), duration_s(BARE)) for _ in range(7)]

    ratio = min(seen for seen, _ in pairs) / min(bare for _, bare in pairs)

    assert ratio <= SLOWEST


@pytest.mark.parametrize(
    "imports",
    [
        "import llmbench.commands.sweep",
        "from llmbench.run import worker; worker.prepare('server')",
    ],
    ids=["sweep", "worker"],
)
def test_the_first_request_to_a_server_waits_for_no_numpy(imports: str) -> None:
    code = f"{imports}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert "msgspec" in loaded
    assert loaded.isdisjoint({*ENGINES, "numpy", "scipy"})
