"""What a command says beside its answer: on stderr, because stdout is for the facts."""

import sys
from pathlib import Path

from rich.console import Console

from llmbench import report
from llmbench.redact import shown
from llmbench.results import store, table


def tell(text: str) -> None:
    """Say what goes on, or what a reader of the answer must know."""
    print(shown(text), file=sys.stderr)


def show_table(folder: Path, console: Console) -> None:
    """Show a run as a table on a console."""
    report.show(table.build(store.read(folder)), "terminal", console)
