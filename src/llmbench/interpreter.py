"""Start-up of child interpreters, which import nothing from the working folder.

Every Python that llmbench starts runs this file under `-P`, which keeps the working folder out of the import path;
an environment variable does the same for the child's own children. The standard library and llmbench come before
PYTHONPATH, because a `ctypes.py` or an `llmbench/` there must not replace ours; other packages of PYTHONPATH come
before the installed ones, as usual. Such a child dies with its parent.
"""

import os
import sys

SAFE = {"PYTHONSAFEPATH": "1"}
"""The environment variable that keeps the child's own children safe too."""
PR_SET_PDEATHSIG, SIGKILL = 1, 9


def command(module: str, *arguments: object) -> list[str]:
    """Return the command line that runs `main()` of one of our modules in an interpreter of its own."""
    return [sys.executable, "-P", __file__, module, *map(str, arguments)]


def main() -> None:
    """Run the module named by the first argument, with the remaining arguments."""
    order = sys.path[:] = standard_first(sys.path)
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - see below
    sys.path[:] = [*order[:2], ours]
    from importlib import import_module  # noqa: PLC0415 - only now is it sure whose this is

    import_module("llmbench")
    sys.path[:] = order
    del sys.argv[0]
    module = import_module(sys.argv[0])
    die_with_parent()
    module.main()


def standard_first(folders: list[str]) -> list[str]:
    """Return an import path with the standard library before all else, PYTHONPATH too; nothing is imported for it."""
    standard = os.path.dirname(os.__file__)  # noqa: PTH120 - pathlib may be anybody's until the path is in order
    first = [standard, f"{standard}/lib-dynload"]
    return [*first, *(folder for folder in folders if folder not in first)]


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - see `main`

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)


def outlive_parent() -> None:
    """Undo `die_with_parent`, for a process that notices by itself that its parent is gone."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - see `main`

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)


if __name__ == "__main__":
    main()
