"""Standard output and standard error that show no secret, whoever writes to them: tables, progress, errors, traces."""

from __future__ import annotations

import sys
import traceback
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from llmbench.redact import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import TextIO


class Guarded:
    """A stream that takes secrets out of what is written; all else is the stream's own affair."""

    def __init__(self, stream: TextIO) -> None:
        """Stand before a stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text without its secrets; each write is looked at by itself, and ours hold whole lines."""
        self._stream.write(without_secrets(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines, likewise."""
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        """Return what the stream has."""
        return getattr(self._stream, name)


@contextmanager
def guarded() -> Iterator[None]:
    """Guard what is shown meanwhile; a stream that is closed stays so."""
    out, err = (Guarded(each) if each is not None else None for each in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


def show_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Show what nobody caught, as Python does, but without secrets."""
    if sys.stderr is not None:
        sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))
