"""The exit codes of every command, and the mistakes a user can make, one class each.

    LlmbenchError            2  usage: caught once, in `cli.main`, and printed as one line
    ├── SpecError            2  a sweep, model or flag has an invalid value
    ├── NothingToRun         2  the sweep is empty, or nothing in it is supported
    ├── Unconvertible        2  a file of another tool is damaged, or has nothing to import
    ├── RunError             2  a run directory cannot be used as asked
    │   ├── RunLocked        2  another process holds it
    │   ├── FormatError      2  its records have a newer or unknown format
    │   └── NotComparable    5  a comparison would mislead
    └── WriteError           4  a record could not be written durably

A cell's misfortune is not an error: it is a record with a status (`record.Status`). Inside a worker, an engine
raises `LoadFailed` or `Unsupported` for the two that only it can detect.
"""

from __future__ import annotations

import difflib
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ExitCode(IntEnum):
    """How a command ended; `cli` adds those of signals, 128 and the signal's number.

    Attributes:
        DONE: it did what it was asked, and its answer is positive.
        NEGATIVE: its answer is negative: a verdict of --fail-on, a broken promise, a sweep to be measured again.
        MISTAKE: an argument or a file is wrong, or there is nothing to run.
        INCOMPLETE: sessions have no number, or a comparison is undecided.
        NOT_WRITTEN: a record could not be written.
        REFUSED: a comparison would mislead.

    """

    DONE = 0
    NEGATIVE = 1
    MISTAKE = 2
    INCOMPLETE = 3
    NOT_WRITTEN = 4
    REFUSED = 5


MEASURED = (ExitCode.DONE, ExitCode.NEGATIVE, ExitCode.INCOMPLETE)
"""How a sweep ends that has measured what it could; its records say what is wrong with them."""


class LlmbenchError(Exception):
    """An error that the user can fix; its message is one line: where, what, what instead."""

    exit_code = ExitCode.MISTAKE


class SpecError(LlmbenchError):
    """A sweep, model or flag has an invalid value."""


class NothingToRun(LlmbenchError):  # noqa: N818 - reads as the sentence it is
    """The sweep is empty, or nothing in it is supported here."""


class Unconvertible(LlmbenchError):  # noqa: N818 - reads as the sentence it is
    """A file of another tool is damaged, contradicts itself, or holds no number that can be converted."""


class RunError(LlmbenchError):
    """A run directory cannot be used as asked."""


class RunLocked(RunError):  # noqa: N818 - reads as the sentence it is
    """Another process holds the run directory."""


class FormatError(RunError):
    """The records have a format that this version does not know."""


class NotComparable(RunError):  # noqa: N818 - reads as the sentence it is
    """A comparison would mislead, because its sides differ in more than the change."""

    exit_code = ExitCode.REFUSED


class WriteError(LlmbenchError):
    """A record could not be written durably; the file was rolled back to its last complete record."""

    exit_code = ExitCode.NOT_WRITTEN


class LoadFailed(Exception):  # noqa: N818 - reads as the sentence it is
    """Weights could not be loaded; the message says why and which flag, if any, would allow it."""


class Unsupported(Exception):  # noqa: N818 - reads as the sentence it is
    """The installed engine cannot run this; the message says what can."""


MOST_NAMED, NEAREST = 12, 5
"""Known words that a message lists, and of more the nearest."""


def did_you_mean(word: str, known: Iterable[str], listed_by: str = "") -> str:
    """Return " Did you mean 'x'?" for near words, else the known ones: of many the nearest, and what lists all."""
    words = sorted(known)
    begun = [each for each in words if word and each.startswith(word)]
    alike = begun or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if 0 < len(alike) <= NEAREST:
        *others, last = map(repr, alike)
        return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    if len(words) <= MOST_NAMED:
        return f" Known: {', '.join(words)}." if words else ""
    near = alike[:NEAREST] or difflib.get_close_matches(word, words, n=NEAREST, cutoff=0.0)
    all_of_them = f"; {listed_by!r} lists all" if listed_by else ""
    return f" Nearest of {len(words)}: {', '.join(near)}{all_of_them}."
