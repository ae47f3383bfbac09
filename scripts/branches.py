"""Lists branches that no test takes in code that reads or writes numbers; `scripts/coverage` calls this."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = Path("src/llmbench")
sys.path.insert(0, str(ROOT / "tests"))

from test_architecture import HALF  # noqa: E402 - the one table of layers

LEAST = 0.95
KEEPING = ("runner", "supervisor", "launch", "store", "journal", "lock")
"""The modules that start workers and write their results, checked in addition to the reading half."""


def main() -> int:
    """Print a line for each file with branches that no test takes; return 1 under 95 % over all of them."""
    measured = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["files"]
    taken = known = 0
    print(f"{'file':44} {'branches':>8} {'taken':>6}  not taken, from line to line")
    for path, found in sorted(measured.items()):
        if not _counts(path):
            continue
        summary = found["summary"]
        taken, known = taken + summary["covered_branches"], known + summary["num_branches"]
        if summary["missing_branches"]:
            share = summary["covered_branches"] / summary["num_branches"]
            print(f"{path:44} {summary['num_branches']:8,} {share:6.0%}  {_listed(found)}")
    print(f"\n{taken:,} of {known:,} branches: {taken / known:.1%} of at least {LEAST:.0%}")
    return 1 if taken < LEAST * known else 0


def _counts(path: str) -> bool:
    """Return whether a file counts; a copy of the source that a test made does not."""
    if not Path(path).is_relative_to(SOURCE):
        return False
    name = Path(path).relative_to(SOURCE).parts[0].removesuffix(".py")
    return HALF.get(name) == "reading" or name in KEEPING


def _listed(found: dict[str, Any]) -> str:
    """Return the branches not taken; a negative line is the end of the function that begins there."""
    return " ".join(
        f"{start}-{'end' if end < 0 else end}" for start, end in found["missing_branches"]
    )


if __name__ == "__main__":
    sys.exit(main())
