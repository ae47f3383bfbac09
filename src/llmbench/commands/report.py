"""The `report` command: runs as one page with plots, in a file of its own."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llmbench import compare, sides, store
from llmbench.commands.compare import kept_of
from llmbench.commands.table import without_collection
from llmbench.compare import Comparison
from llmbench.conditions import Asked
from llmbench.errors import LlmbenchError, WriteError
from llmbench.metrics import BY_KEY
from llmbench.reports import _words, html
from llmbench.reports.html._dots import short

E2E = BY_KEY["e2e_s"]
"""What runs are compared by: the metric that `llmbench compare` takes unless asked."""

HEAD_BYTES = 1024
"""A report says within so many bytes that it is one."""


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The folders of runs.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a file that is not a report, too.")
    ] = False,
) -> None:
    """Write runs as one page of plots for any browser."""
    check(output, force=force)
    script = html.library()
    with without_collection():
        found = [html.seen(store.read(run), label) for run, label in labelled(runs)]
        page = html.render(found, script, compared(runs) if len(runs) > 1 else None).encode()
    write(output, page)
    cells = _words.plural(sum(len(run.table.cells) for run in found), "cell")
    print(f"{output}: {len(page) / 1e6:.1f} MB, {cells} of {_words.plural(len(found), 'run')}.")


def labelled(runs: list[Path]) -> list[tuple[Path, str]]:
    """Return each run with its folder's name, or with as much of its path as tells it from the others."""
    paths = [run.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise LlmbenchError(f"{path}: is named twice. Name each run once.")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        labels = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(labels)) == len(labels):
            break
    return list(zip(runs, short(labels).values(), strict=True))


def compared(runs: list[Path]) -> Comparison | str:
    """Return what `llmbench compare` says of the runs, or why it refuses them."""
    read = [sides.read(label, store.read(run), E2E) for run, label in labelled(runs)]
    try:
        return compare.runs(read, Asked(E2E, calibration=kept_of(read).calibration))
    except LlmbenchError as refused:
        return str(refused)


def check(output: Path, *, force: bool) -> None:
    """Raise LlmbenchError, before any work is done, if the page would destroy something or has no folder."""
    if output.is_dir():
        raise LlmbenchError(f"{output}: is a folder. Name a file in it: {output / 'report.html'}.")
    if not output.parent.is_dir():
        raise LlmbenchError(f"{output}: there is no folder {output.parent}.")
    if output.exists() and not force and not written_by_us(output):
        raise LlmbenchError(
            f"{output}: exists and is not a report of llmbench. Name another file, or overwrite it with --force."
        )


def written_by_us(path: Path) -> bool:
    """Return whether a file says at its top that it is a report."""
    try:
        with path.open("rb") as stream:
            return html.GENERATOR.encode() in stream.read(HEAD_BYTES)
    except OSError as error:
        raise LlmbenchError(f"{path}: cannot be read: {error.strerror}.") from error


def write(path: Path, page: bytes) -> None:
    """Write the page whole or not at all; raise WriteError."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        new.write_bytes(page)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}.") from error
