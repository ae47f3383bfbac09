"""The command line: help, one-line mistakes, exit codes, completion, and hostile surroundings."""

import inspect
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmbench import __version__, cli
from llmbench.errors import LlmbenchError, WriteError

LLMBENCH = (sys.executable, "-m", "llmbench")

Fake = Callable[[Callable[[], int | None]], None]


@pytest.fixture
def as_table(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a function in the place of the `table` command."""

    def put(command: Callable[[], int | None]) -> None:
        module = SimpleNamespace(command=command)
        monkeypatch.setitem(sys.modules, "llmbench.commands.table", module)

    return put


def spawn(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*LLMBENCH, *arguments),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run([])

    assert code == 0
    assert "Usage: llmbench" in capsys.readouterr().out


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["--help"])

    text = " ".join(capsys.readouterr().out.split())
    for name, sentence in cli.COMMANDS.items():
        assert f"{name} {sentence}" in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_says_of_itself_what_the_table_says(name: str) -> None:
    command = import_module(f"llmbench.commands.{name}").command

    assert (inspect.getdoc(command) or "").splitlines()[0] == cli.COMMANDS[name]


@pytest.mark.parametrize("arguments", [["--version"], ["table", "--version"]])
def test_the_version_is_everywhere(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.run(arguments)

    assert code == 0
    assert capsys.readouterr().out == f"llmbench {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["tabel"], "No such command 'tabel'. Did you mean 'table'? See 'llmbench --help'."),
        (["-x"], "No such option: -x. See 'llmbench --help'."),
        (
            ["table", "--fromat", "csv"],
            "No such option: --fromat. Did you mean '--format'? See 'llmbench table --help'.",
        ),
        (
            ["table", "run", "--format", "yaml"],
            (
                "Invalid value for '--format': 'yaml' is not one of 'terminal', 'markdown', "
                "'csv', 'json', 'html', 'junit'. See 'llmbench table --help'."
            ),
        ),
        (["compare"], "Missing argument 'BASELINE [CANDIDATE]...'. See 'llmbench compare --help'."),
    ],
)
def test_a_usage_mistake_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.run(arguments)

    assert code == 2
    assert capsys.readouterr().err == f"llmbench: {line}\n"


@pytest.mark.parametrize(("mistake", "code"), [(LlmbenchError("no"), 2), (WriteError("full"), 4)])
def test_a_users_mistake_is_one_line_with_its_own_exit_code(
    mistake: LlmbenchError, code: int, as_table: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise mistake

    as_table(command)

    assert cli.run(["table"]) == code
    assert capsys.readouterr().err == f"llmbench: {mistake}\n"


def test_hostile_text_is_shown_and_cannot_act(
    as_table: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise LlmbenchError("org/model[/bold]\x1b[2J\nsecond \u202eline \ud800 \U0001f600")

    as_table(command)
    cli.run(["table"])

    assert capsys.readouterr().err == (
        "llmbench: org/model[/bold]\\x1b[2J\\nsecond \\u202eline \\ud800 \U0001f600\n"
    )


@pytest.mark.parametrize("command", ["table", "fit", "report", "audit", "calibrate"])
def test_a_name_too_long_for_a_file_is_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.run([command, "x" * 300])

    shown = capsys.readouterr()
    assert (code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert "cannot be used: File name too long." in shown.err


def test_an_error_of_our_own_keeps_its_traceback(as_table: Fake) -> None:
    def command() -> None:
        raise RuntimeError("ours")

    as_table(command)

    with pytest.raises(RuntimeError, match="ours"):
        cli.run(["table"])


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_returns_its_exit_code(returned: int | None, code: int, as_table: Fake) -> None:
    def command() -> int | None:
        return returned

    as_table(command)

    assert cli.run(["table"]) == code


def test_an_interrupted_command_exits_130_in_silence(
    as_table: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    as_table(command)

    assert cli.run(["table"]) == 130
    assert capsys.readouterr().err == ""


def test_ctrl_c_while_it_still_loads_exits_130_in_silence(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"
    )

    done = spawn("--help", PYTHONPATH=str(tmp_path))

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("x.yaml", "--batch-size", "1", "8"), "--batch-size 1,8"),
        (("x.yaml", "--dry-run", "-m", "a", "b", "--seed", "3"), "-m a,b"),
    ],
)
def test_a_list_that_was_written_with_spaces_is_shown_with_commas(
    arguments: tuple[str, ...], meant: str
) -> None:
    done = spawn("sweep", *arguments)

    assert done.returncode == 2
    assert done.stderr == (
        f"llmbench: Got unexpected extra argument(s) ({meant[-1]}). The values of a list are separated by "
        f"commas: {meant}. See 'llmbench sweep --help'.\n"
    )


def test_an_extra_word_alone_is_no_list() -> None:
    assert "commas" not in spawn("sweep", "x.yaml", "y.yaml").stderr


def test_a_value_of_a_list_is_not_taken_for_a_file() -> None:
    done = spawn("sweep", "--model", "llama-7b@tiny", "--batch-size", "1", "8")

    assert done.returncode == 2
    assert done.stderr == (
        "llmbench: sweep: '8' is not a file. If it is part of a list, separate the values by commas: "
        "--batch-size 1,8.\n"
    )


def test_a_closed_pipe_is_met_in_silence() -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        (*LLMBENCH, "--help"), stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_a_mistake_is_red_only_on_a_terminal_that_wants_colour(environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()

    subprocess.run(
        (*LLMBENCH, "tabel"),
        stderr=theirs,
        check=False,
        env={**os.environ, "NO_COLOR": "", **environment},
    )
    os.close(theirs)
    text = os.read(ours, 4096)
    os.close(ours)

    assert text.startswith(b"llmbench: " if environment else b"\x1b[31mllmbench: ")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "dumb", "COLUMNS": "20"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_a_poor_terminal_is_enough(environment: dict[str, str]) -> None:
    shown = spawn("--help", **environment)
    refused = spawn("modèle-\U0001f600", **environment)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert refused.returncode == 2
    assert refused.stderr.startswith("llmbench: No such command")
    assert refused.stderr.count("\n") == 1


def test_a_deleted_working_directory_is_no_obstacle(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd "{gone}" && rmdir "{gone}" && exec "$@"'

    done = subprocess.run(
        ("bash", "-c", script, "bash", *LLMBENCH, "--version"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, f"llmbench {__version__}\n")


def test_closed_standard_streams_keep_the_exit_code() -> None:
    done = subprocess.run(("bash", "-c", '"$@" >&- 2>&-', "bash", *LLMBENCH, "tabel"), check=False)

    assert done.returncode == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("llmbench ta", "table"),
        ("llmbench table --for", "--format"),
        ("llmbench nothing ", " ".join(cli.COMMANDS)),
    ],
)
def test_a_shell_can_complete(words: str, expected: str) -> None:
    position = str(words.count(" "))

    done = spawn(_LLMBENCH_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=position)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == expected.split()


def test_the_completion_of_a_shell_can_be_shown() -> None:
    done = spawn(_LLMBENCH_COMPLETE="source_bash")

    assert done.returncode == 0
    assert "_LLMBENCH_COMPLETE" in done.stdout
