"""The progress display of a sweep, which is only drawn between measurements."""

from __future__ import annotations

import contextlib
import errno
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Self, cast

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llmbench.numbers import digits, plural
from llmbench.redact import shown
from llmbench.results.metrics import BY_KEY
from llmbench.results.record import Status
from llmbench.results.sessions import Gatherer
from llmbench.spec.load import LOAD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from llmbench.results.record import Record
    from llmbench.results.sessions import RecordedOutcome
    from llmbench.spec.sweep import Cell

RECENT = 8
COLOURS = {
    Status.OK: "green",
    Status.INVALID: "yellow",
    Status.SKIPPED: "dim",
    Status.UNSUPPORTED: "dim",
}
FAILED = "red"
FIGURES = {
    "TTFT ms": (BY_KEY["ttft_s"], BY_KEY["served_ttft_s"]),
    "TPOT ms": (BY_KEY["tpot_s"], BY_KEY["served_tpot_s"]),
    "tok/s": (BY_KEY["output_tok_s"], BY_KEY["steady_output_tok_s"]),
}
"""The metrics shown of a session that has ended, by their heads, which name the unit: of a batch, or of a server."""
LINE = 120
"""Characters of a line without a terminal: what logs of a CI show without scrolling."""
LEAST_NAME = 24
"""Characters of such a line that are kept for the digest of a cell's id and its shape before a reason is cut."""


class Screen:
    """A live table on a terminal; elsewhere one line per session."""

    def __init__(self, console: Console, name: str) -> None:
        """Begin without sessions; the runner sets how many are planned, ended before, and may be added."""
        self.console, self.name = console, shown(name)
        self.planned = self.before = self.further = 0
        self.began = time.monotonic()
        self.ended = 0
        self.counts: Counter[Status] = Counter()
        self.recent: deque[tuple[Record, list[str]]] = deque(maxlen=RECENT)
        self.cells = self.ended_before_round = 0
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

    def begin_round(self, cells: int) -> None:
        """Begin to count the cells of a round, of which there are so many."""
        self.cells, self.ended_before_round = cells, self.ended

    def loading(self, cell: Cell, session: int) -> None:
        """Show that a worker has been started for a group."""
        what = f"loading {shown(cell.model)} on {cell.backend} ({cell.dtype}, {cell.device})"
        self._enter(session, what)

    def measuring(self, cell: Cell, session: int) -> None:
        """Show that a cell begins; the display pauses until it ends."""
        self._enter(session, f"measuring {short(cell)}")

    def _enter(self, session: int, what: str) -> None:
        number = self.ended - self.ended_before_round + 1
        since = time.strftime("%H:%M:%S")
        self.now = f"session {session}, cell {number} of {self.cells}, since {since}: {what}"
        self._draw()

    def ended_with(self, record: Record) -> None:
        """Show a saved record."""
        self.ended += record.final  # an interrupted session is measured again
        self.counts[record.status] += 1
        self.recent.append((record, figures(record)))
        if not self.live:
            left = self._left().removeprefix(", about ").rpartition(" to ")[2]
            done = f"[{self.before + self.ended}/{self.planned}{left and ', '}{left}] "
            with unless_hung_up():
                self.console.print(line(*self.recent[-1], done), soft_wrap=True)
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
        done = self.before + self.ended
        most = f" to {self.planned + self.further}" if self.further else ""
        elapsed = about(time.monotonic() - self.began)
        head = Text(
            f"{self.name}  {done} of {self.planned}{most} sessions, {elapsed} elapsed{self._left()}  ",
            style="bold",
        )
        for status, count in sorted(self.counts.items()):
            head.append(f" {count} {status}", style=COLOURS.get(status, FAILED))
        foot = Text(
            f"{self.now}\nThe display stands still on purpose while a cell is timed.",
            style="dim",
        )
        table = [_table(self.recent, self.console.width)] if self.recent else []
        with unless_hung_up():
            self.live.update(Group(head, *table, foot), refresh=True)

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
    if time_s > 90 * 60:
        return f"{time_s / 3600:.1f} h"
    return f"{time_s / 60:.0f} min" if time_s > 90 else f"{time_s:.0f} s"


def figures(record: Record) -> list[str]:
    """Return what a session measured, a text for each of FIGURES, empty where it is absent."""
    gatherer = Gatherer()
    gatherer.take(cast("RecordedOutcome", record.outcome))  # which has these fields and more
    session = gatherer.sessions([record.cell])
    with np.errstate(divide="ignore", invalid="ignore"):  # n = 1 has no gaps: absent over 0
        known = [
            [float(of.value(session)[0]) * of.unit.factor for of in either]
            for either in FIGURES.values()
        ]
    values = [next(filter(np.isfinite, either), None) for either in known]
    return ["" if value is None else digits(value) for value in values]


def line(record: Record, numbers: Sequence[str], before: str) -> Text:
    """Return one record as one line of at most LINE characters: status, figures or the reason for none, cell."""
    text = Text(before)
    text.append(f"{record.status:<8} ", style=COLOURS.get(record.status, FAILED))
    text.append(f"session {record.session}  ")
    if record.status is Status.OK:
        said = zip(FIGURES, numbers, strict=True)
        text.append("  ".join(_named(head, number) for head, number in said if number), "bold")
    else:
        text.append(_cut(shown(record.reason or ""), LINE - len(text) - LEAST_NAME - 2))
    codes = _codes(record)
    if len(text) + len(codes) + LEAST_NAME + 4 > LINE:
        codes = codes and f"({plural(len(record.warnings), 'warning')})"
    room = LINE - len(text) - 2 - (len(codes) + 2 if codes else 0)
    digest, cell = record.id.rpartition("-")[2], record.cell
    name = shown(f"{digest} {_shape(cell)} {cell.model}")
    text.append(f"  {_cut(name, room)}", style="dim")
    return text.append(f"  {codes}" if codes else "", style="yellow")


def _cut(text: str, room: int) -> str:
    """Return a text without its end if it is too long."""
    return text if len(text) <= room else f"{text[: room - 3]}..."


def _named(head: str, number: str) -> str:
    """Return a figure with its head and unit: `TTFT 1.63 ms`, `1,040 tok/s`."""
    label, _, unit = head.rpartition(" ")
    return f"{label} {number} {unit}".strip()


def _codes(record: Record) -> str:
    codes = ", ".join(finding.code for finding in record.warnings)
    return f"({codes})" if codes else ""


def _table(recent: Iterable[tuple[Record, list[str]]], width: int) -> Table:
    """Return records with their figures as a table of this width."""
    rows = [[str(record.status), str(record.session), *numbers] for record, numbers in recent]
    heads = ["", "session", *FIGURES]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    room = max(width - sum(widths) - 2 * len(heads), 8)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for place, head in enumerate(heads):
        table.add_column(head, no_wrap=True, justify="right" if place else "left")
    table.add_column("cell", no_wrap=True)
    for (record, _), (status, *texts) in zip(recent, rows, strict=True):
        name = Text(short(record.cell), style="dim")
        name.append(f"  {shown(record.reason)}" if record.reason else "", style="default")
        name.append(f"  {_codes(record)}" if record.warnings else "", style="yellow")
        name.truncate(room, overflow="ellipsis")
        table.add_row(Text(status, COLOURS.get(record.status, FAILED)), *texts, name)
    return table


def short(cell: Cell) -> str:
    """Return a cell's name, with the most varying axes first because a narrow terminal cuts the end."""
    options = (f"{key}={value}" for key, value in cell.options.items())
    return shown(" ".join((cell.model, _shape(cell), cell.backend, cell.dtype, *options)))


def _shape(cell: Cell) -> str:
    load = cell.options.get(LOAD)
    many = f"b{cell.batch_size}" if load is None else f"load {load}"
    return f"{many} i{cell.input_len} o{cell.output_len}"
