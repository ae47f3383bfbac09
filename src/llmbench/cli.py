"""The command line: a table of commands, each loaded only when it is invoked or completed.

Nothing here imports numpy, scipy, msgspec, ruamel or psutil, so that `--help` answers in a blink.
"""

import contextlib
import errno
import os
import sys
from importlib import import_module
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from llmbench import COMPLETION, __version__
from llmbench.errors import ExitCode, LlmbenchError, WriteError, did_you_mean
from llmbench.redact import screen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

COMMANDS = {
    "sweep": "Measure every cell of a sweep and keep each result as it comes.",
    "table": "Show a run as a table.",
    "builds": "Measure a sweep in environments in turn, and compare them.",
    "compare": "Say what is slower, faster or the same, cell by cell.",
    "audit": "Check llmbench's promises on a fake engine or on a sweep.",
    "calibrate": "Measure how much this machine's numbers vary, and keep it.",
    "export": "Write a run as JSON, Parquet, to a tracker, or anonymously.",
    "import": "Read other tools' result files into a run.",
    "fit": "Show the largest batch that fits, by model and context.",
    "report": "Write runs as one page of plots for any browser.",
    "cost": "Say what a token costs at a price per hour.",
    "claims": "Check the claims of published reports against measured runs.",
    "cell": "Print the job of one cell as its worker receives it.",
    "sweeps": "List the sweeps that come with llmbench.",
    "backends": "List the engines, or the options of one.",
    "models": "List the models of the catalogue, or show one model.",
    "agent": "Measure on this machine for a sweep that runs elsewhere.",
    "machine": "Say what this machine is, and what its chip can do at most.",
}
"""Each command and its help; `llmbench.commands.<name>` holds it as the function `command`."""

INTERRUPTED = 130  # 128 + SIGINT, as shells count
PIPE_CLOSED = 141  # 128 + SIGPIPE
HUNG_UP = 129  # 128 + SIGHUP

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

RED, PLAIN = "\x1b[31m", "\x1b[0m"

DENIED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors about a file that the user can correct, wherever it was met."""

MOST_CELLS = {"COLUMNS": 10_000, "LINES": 10_000}
"""The largest terminal that a variable is believed to speak of, by the variable's name."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors about a full disk; without a file's name it is the one of our output."""

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The error of typer for arguments that it cannot read; it exports only this descendant."""


def main() -> None:
    """Run llmbench with this process's arguments and exit with the code of its outcome."""
    sys.excepthook = screen.show_exception
    sys.exit(run(sys.argv[1:]))


def run(arguments: "Sequence[str]") -> int:
    """Run one command, which shows no secret, and return its exit code."""
    accept_any_text(sys.stdout)
    forget_impossible_sizes()
    with screen.guarded():
        return outcome(arguments)


def outcome(arguments: "Sequence[str]") -> int:
    """Run one command and return its exit code; a user's mistake becomes one line on stderr."""
    try:
        code = dispatch(list(arguments) or ["--help"])
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a closed pipe can still be met quietly
    except LlmbenchError as mistake:
        complain(str(mistake))
        return mistake.exit_code
    except UsageError as mistake:
        complain(usage(mistake))
        return ExitCode.MISTAKE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except (OSError, SystemExit) as error:
        told = refusal(error) if isinstance(error, OSError) else None
        code = told.exit_code if told else gone(error)
        if told is None or isinstance(told, WriteError):
            discard_output()
        if told:
            complain(str(told))
    return code


def refusal(error: OSError) -> LlmbenchError | None:
    """Return a system's error as a mistake that the user can correct; None for anything else."""
    if error.errno in TOO_MANY_FILES:
        return LlmbenchError(f"{error.strerror}: allow more of them, with 'ulimit -n 1024'.")
    if error.errno in DENIED and error.filename:
        return LlmbenchError(f"{error.filename}: cannot be used: {error.strerror}.")
    if error.errno in FULL and not error.filename:
        return WriteError(f"standard output: cannot be written: {error.strerror}.")
    return None


def dispatch(arguments: list[str]) -> int:
    """Hand the arguments to their command; a command returns its exit code, None meaning 0."""
    group = command_group()
    if COMPLETION in os.environ:
        group.main(arguments, prog_name="llmbench", complete_var=COMPLETION)
    try:
        with group.make_context("llmbench", arguments) as context:
            return group.invoke(context) or 0
    except typer.Exit as leaving:
        return leaving.exit_code


class Commands(TyperGroup):
    """The commands by name: stubs for help and completion, the real one once it is asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Load the command that the first argument names."""
        if ctx.resilient_parsing and args[0] not in self.commands:
            return None, None, []
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], self.commands)}")
        name, _, rest = super().resolve_command(ctx, args)
        return name, self.load(str(name)), rest

    def load(self, name: str) -> Any:
        """Import a command's module and build its parser."""
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        module = import_module(f"llmbench.commands.{name}")
        app.command(name, epilog=getattr(module, "EXIT_CODES", None))(module.command)
        command = get_command(app)
        command.params += [param for param in self.params if param.name == "version"]
        return command


def command_group() -> Any:
    """Return the group of all commands, none of them loaded."""
    app = typer.Typer(cls=Commands, rich_markup_mode=None, context_settings=HELP_OPTIONS)
    app.callback()(root)
    group = get_command(app)
    assert isinstance(group, Commands)
    for param in group.params:
        param.expose_value = False  # so that every command can share it without taking a value
    for name, help_text in COMMANDS.items():
        group.add_command(TyperCommand(name, help=help_text, rich_markup_mode=None))
    return group


def show_version(asked: bool) -> None:  # noqa: FBT001 - typer passes the flag by position
    """Print the version and leave, if asked."""
    if asked:
        typer.echo(f"llmbench {__version__}")
        raise typer.Exit


def root(
    version: Annotated[  # noqa: FBT002 - typer reads the flag's default here
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Measure how fast open language models run, and how far each number can be trusted."""


def usage(mistake: Any) -> str:
    """Say in one line what is wrong with the arguments and where to read on."""
    context = mistake.ctx
    if near := getattr(mistake, "possibilities", None):
        text = f"No such option: {mistake.option_name}. Did you mean {near[0]!r}?"
    else:
        text = " ".join(mistake.format_message().split())
    if text.startswith("Got unexpected extra argument") and (meant := as_list(context)):
        text = f"{text.rstrip('.')}. The values of a list are separated by commas: {meant}"
    path = context.command_path if context else "llmbench"
    return f"{text.rstrip('.')}{'' if text.endswith('?') else '.'} See '{path} --help'."


def as_list(context: Any) -> str | None:
    """Return the first list that was written with spaces, `--batch-size 1 8`, as it should be: with commas."""
    flags = {
        flag
        for param in context.command.params
        if getattr(param, "multiple", False)
        for flag in param.opts
    }
    for place, word in enumerate(sys.argv):
        values = list(takewhile(lambda other: not other.startswith("-"), sys.argv[place + 1 :]))
        if word in flags and len(values) > 1:
            return f"{word} {','.join(values)}"
    return None


def complain(message: str) -> None:
    """Print one line on stderr, red on a terminal, whatever the message holds."""
    stream = sys.stderr
    if stream is None:
        return  # started with stderr closed: the exit code says it
    line = printable(f"llmbench: {message}")
    colour = stream.isatty() and not os.environ.get("NO_COLOR")
    with contextlib.suppress(OSError):  # a terminal that was closed, a disk that is full
        print(f"{RED}{line}{PLAIN}" if colour else line, file=stream, flush=True)


def printable(text: str) -> str:
    r"""Escape what could move a cursor or break the line: `\n`, ANSI codes, right-to-left marks."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def accept_any_text(stream: "TextIO | None") -> None:
    """Escape what the terminal's encoding cannot say, instead of failing on it."""
    if reconfigure := getattr(stream, "reconfigure", None):
        reconfigure(errors="backslashreplace")


def forget_impossible_sizes() -> None:
    """Take a size that no terminal has out of the environment: what draws would believe it, and fail."""
    for name, most in MOST_CELLS.items():
        told = os.environ.get(name, "1")
        if not (told.isascii() and told.isdigit() and 0 < int(told[:9]) <= most):
            del os.environ[name]


def gone(error: OSError | SystemExit) -> int:
    """Return the exit code that fits where whoever read our output has gone; raise anything else again."""
    if isinstance(error, SystemExit):  # rich meets a closed pipe itself, and leaves with 1
        error = error.__context__ if isinstance(error.__context__, OSError) else error
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return HUNG_UP
    raise error


def discard_output() -> None:
    """Send what is still buffered nowhere: the reader has gone, and Python flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
