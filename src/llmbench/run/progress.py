"""The progress display of a sweep, which is only drawn between measurements."""

from __future__ import annotations

import contextlib
import errno
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llmbench.redact import shown
from llmbench.results.record import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from llmbench.results.record import Record
    from llmbench.spec.sweep import Cell

RECENT = 8
COLOURS = {
    Status.OK: "green",
    Status.INVALID: "yellow",
    Status.SKIPPED: "dim",
    Status.UNSUPPORTED: "dim",
}
FAILED = "red"


class Screen:
    """A live table on a terminal; elsewhere one line per session."""

    def __init__(self, console: Console, name: str) -> None:
        """Begin without sessions; the runner sets how many are planned, ended before, and may be added."""
        self.console, self.name = console, shown(name)
        self.planned = self.before = self.further = 0
        self.began = time.monotonic()
        self.ended = 0
        self.counts: Counter[Status] = Counter()
        self.recent: deque[Record] = deque(maxlen=RECENT)
        self.now = "starting"
        self.live = (
            Live(console=console, auto_refresh=False, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        """Take the terminal."""
        if self.live:
            with unless_hung_up():
                self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the terminal."""
        if self.live:
            with unless_hung_up():
                self.live.stop()

    def loading(self, cell: Cell, session: int) -> None:
        """Show that a worker has been started for a group."""
        self.now = f"session {session}: loading {shown(cell.model)} on {cell.backend} ({cell.dtype}, {cell.device})"
        self._draw()

    def measuring(self, cell: Cell, session: int) -> None:
        """Show that a cell begins; the display pauses until it ends."""
        self.now = f"session {session}: measuring {shown(cell.id)}"
        self._draw()

    def ended_with(self, record: Record) -> None:
        """Show a saved record."""
        self.ended += 1
        self.counts[record.status] += 1
        self.recent.append(record)
        if not self.live:
            with unless_hung_up():
                self.console.print(
                    Text(f"[{self.before + self.ended}/{self.planned}] ").append_text(
                        line(record, record.id)
                    ),
                    soft_wrap=True,
                )
        self._draw()

    def note(self, text: str) -> None:
        """Show a notice once, above the table."""
        with unless_hung_up():
            self.console.print(Text(shown(text), style="yellow"), soft_wrap=True)

    def more_planned(self, sessions: int, further: int) -> None:
        """Add sessions, because intervals are still too wide; up to `further` more may follow."""
        self.planned += sessions
        self.further = further

    def _draw(self) -> None:
        if not self.live:
            return
        table = Table.grid()
        table.add_column(no_wrap=True, overflow="ellipsis")
        for record in self.recent:
            table.add_row(line(record, short(record.cell)))
        done = self.before + self.ended
        most = f" to {self.planned + self.further}" if self.further else ""
        head = Text(
            f"{self.name}  {done} of {self.planned}{most} sessions{self._left()}  ", style="bold"
        )
        for status, count in sorted(self.counts.items()):
            head.append(f" {count} {status}", style=COLOURS.get(status, FAILED))
        foot = Text(f"{self.now}\nThe display pauses while a cell is timed.", style="dim")
        with unless_hung_up():
            self.live.update(Group(head, table, foot), refresh=True)

    def _left(self) -> str:
        least = self.planned - self.before - self.ended
        if not self.ended or not least + self.further:
            return ""
        pace_s = (time.monotonic() - self.began) / self.ended
        ends = dict.fromkeys(about(pace_s * left) for left in (least, least + self.further))
        return f", about {' to '.join(ends)} left"


@contextlib.contextmanager
def unless_hung_up() -> Iterator[None]:
    """Ignore that the terminal is gone: a sweep that was told to ignore hangups measures on without it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def about(time_s: float) -> str:
    """Return a time in words."""
    return f"{time_s / 60:.0f} min" if time_s > 90 else f"{time_s:.0f} s"


def line(record: Record, name: str) -> Text:
    """Return one record as one line: status, time per call or the reason for none, cell."""
    times = sorted(s.e2e_ns for s in record.outcome.samples if s.e2e_ns and not s.discarded)
    text = Text(f"{record.status:<12}", style=COLOURS.get(record.status, FAILED))
    text.append(f"session {record.session}  ", style="default")
    if record.status is Status.OK:
        text.append(f"{times[len(times) // 2] / 1e6:>10,.2f} ms a call  ", style="bold")
    else:
        text.append(f"{shown(record.reason or '')}  ", style="default")
    text.append(shown(name), style="dim")
    codes = ", ".join(finding.code for finding in record.warnings)
    return text.append(f"  ({codes})" if codes else "", style="yellow")


def short(cell: Cell) -> str:
    """Return a cell's name, with the most varying axes first because a narrow terminal cuts the end."""
    shape = f"b{cell.batch_size} i{cell.input_len} o{cell.output_len}"
    options = (f"{key}={value}" for key, value in cell.options.items())
    return " ".join((cell.model, shape, cell.backend, cell.dtype, *options))
