"""The entry point of `python -m llmbench` and the command `llmbench`, which handles Ctrl-C quietly from the start."""

import os  # loaded before any path was looked at
import sys

from llmbench import interpreter

if __name__ == "__main__" and not sys.flags.safe_path:
    try:  # noqa: SIM105 - contextlib may be anybody's, too
        sys.path.remove(os.getcwd())  # noqa: PTH109 - as may be what pathlib imports
    except (FileNotFoundError, ValueError):
        pass  # it is gone, or is not on the path
sys.path[:] = interpreter.standard_first(sys.path)

import signal  # noqa: E402
from importlib import import_module  # noqa: E402

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main() -> None:
    """Run llmbench; exit silently if it is interrupted while loading."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:  # unless our parent set it to be ignored, as `nohup` does
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    cli = import_module("llmbench.cli")  # a tenth of a second
    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
