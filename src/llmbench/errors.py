"""The mistakes a user can make, one class each.

    LlmbenchError            2  usage: caught once, in `cli.main`, and printed as one line
    ├── SpecError            2  a sweep, model or flag has an invalid value
    ├── NothingToRun         2  the sweep is empty, or nothing in it is supported
    ├── Unconvertible        2  a file of another tool is damaged, or has nothing to import
    ├── RunError             2  a run directory cannot be used as asked
    │   ├── RunLocked        2  another process holds it
    │   └── FormatError      2  its records have a newer or unknown format
    └── WriteError           4  a record could not be written durably

A cell's misfortune is not an error: it is a record with a status (`record.Status`). Inside a worker, an engine
raises `LoadFailed` or `Unsupported` for the two that only it can detect.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class LlmbenchError(Exception):
    """An error that the user can fix; its message is one line: where, what, what instead."""

    exit_code = 2


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


class WriteError(LlmbenchError):
    """A record could not be written durably; the file was rolled back to its last complete record."""

    exit_code = 4


class LoadFailed(Exception):  # noqa: N818 - reads as the sentence it is
    """Weights could not be loaded; the message says why and which flag, if any, would allow it."""


class Unsupported(Exception):  # noqa: N818 - reads as the sentence it is
    """The installed engine cannot run this; the message says what can."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known word, else the list of known words."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(words)}." if words else ""
