"""The flags that several commands share, and what a command says on stderr, because stdout is for the answer."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from llmbench import COMPLETION, backends, report
from llmbench.errors import SpecError
from llmbench.redact import shown
from llmbench.results import store
from llmbench.spec import configs

Format = Annotated[
    report.Format,
    typer.Option("--format", help="Output format; html writes a page to a file."),
]
CheckedFormat = Annotated[
    report.CheckedFormat,
    typer.Option(
        "--format",
        help="Output format; html writes a page to a file, junit is XML for CI systems, a test a row.",
    ),
]
UsdPerHour = Annotated[
    float | None, typer.Option(help="Price of an hour of the whole machine, in dollars.")
]
UsdPerGpuHour = Annotated[
    float | None, typer.Option(help="Price of an hour of one GPU, in dollars.")
]
Price = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[@DATE]|CHIP=USD",
        help="Take the chip's listed price of a provider (aws, lambda), or this price of a GPU-hour of a chip; "
        "separate several with commas.",
    ),
]
PerSession = Annotated[
    bool, typer.Option("--per-session", help="Give each session a row, instead of each cell.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Page to write with --format html. [default: COMMAND.html]",
    ),
]


def completed(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what a shell completes an argument with: these names, also as the last word of a list with commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, word = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in sorted(names()) if name.startswith(word)]

    return complete


def of_folder(name: str) -> Callable[[str], list[str]]:
    """Return what completes the name of a file in a folder of configs."""
    return completed(lambda: (path.stem for path in configs.folder(name).glob("*.yaml")))


of_models, of_chips, of_sweeps, of_claims = map(
    of_folder, ("models", "machines", "sweeps", "claims")
)
of_backends = completed(backends.known)


def tell(text: str) -> None:
    """Say what goes on, or what a reader of the answer must know."""
    print(shown(text), file=sys.stderr)


def newest_run() -> Path:
    """Return the newest run under results/, and say which it is; raise SpecError if there is none."""
    if COMPLETION in os.environ:
        return store.RESULTS
    if run := store.newest():
        tell(f"{run}: the newest run under {store.RESULTS}/.")
        return run
    raise SpecError(f"RUN: there is no run under {store.RESULTS}/. Give the folder of one.")


NEWEST = "[default: the newest under results/]"
Run = Annotated[
    Path,
    typer.Argument(
        metavar="[RUN]",
        help=f"Folder of a run. {NEWEST}",
        default_factory=newest_run,
        show_default=False,
    ),
]
Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="[RUN]...",
        help=f"Folders of runs. {NEWEST}",
        default_factory=lambda: [newest_run()],
        show_default=False,
    ),
]


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Hold the garbage collector off: what is read has no cycles, and looking for them takes a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
