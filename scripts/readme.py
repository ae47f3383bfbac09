"""The tables in README.md, each the output of the command that stands above it.

A table stands between `<!-- llmbench ... -->` and `<!-- end -->`. Without arguments this rewrites them;
`--check` says which are not what the command prints, and fails.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MARKED = re.compile(r"<!-- (llmbench [^\n]*?) -->\n(.*?)<!-- end -->", re.DOTALL)


def rebuilt(text: str) -> str:
    """Return the text with every marked block replaced by what its command prints now."""
    return MARKED.sub(lambda block: f"<!-- {block[1]} -->\n{printed(block[1])}<!-- end -->", text)


def printed(command: str) -> str:
    """Return what an llmbench command prints; raise CalledProcessError if it fails."""
    words = shlex.split(command)[1:]
    run = [sys.executable, "-m", "llmbench", *words]
    done = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, encoding="utf-8")
    return f"\n{done.stdout.strip()}\n\n"


def main() -> int:
    """Rewrite the README, or with --check compare it."""
    before = README.read_text(encoding="utf-8")
    after = rebuilt(before)
    if "--check" not in sys.argv:
        README.write_text(after, encoding="utf-8")
        return 0
    pairs = zip(MARKED.findall(before), MARKED.findall(after), strict=True)
    stale = [old[0] for old, new in pairs if old != new]
    for command in stale:
        print(f"README.md: not what it prints now: {command}", file=sys.stderr)
    return 1 if before != after else 0


if __name__ == "__main__":
    sys.exit(main())
