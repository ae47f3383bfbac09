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


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_loads_no_engine(name: str) -> None:
    assert loaded_by(name, "--help").isdisjoint(ENGINES)


def test_help_takes_little_longer_than_its_libraries() -> None:
    pairs = [(duration_s(HELP), duration_s(BARE)) for _ in range(7)]

    ratio = min(seen for seen, _ in pairs) / min(bare for _, bare in pairs)

    assert ratio <= SLOWEST
