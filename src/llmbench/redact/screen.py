"""Guards that remove secrets from everything written to standard output and standard error."""

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
    """A stream that removes secrets from written text, and otherwise behaves like the stream it wraps."""

    def __init__(self, stream: TextIO) -> None:
        """Wrap a stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text without its secrets; each write is checked separately, and ours have whole lines."""
        self._stream.write(without_secrets(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines without their secrets."""
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        """Return the wrapped stream's attribute."""
        return getattr(self._stream, name)


@contextmanager
def guarded() -> Iterator[None]:
    """Guard both streams inside this context; a closed stream stays closed."""
    out, err = (Guarded(each) if each is not None else None for each in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


def show_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Show an uncaught exception as Python does, but without secrets."""
    if sys.stderr is not None:
        sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))
