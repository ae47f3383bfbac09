"""Prints pip-audit's advisories, one per line; `scripts/advisories` runs pip-audit and calls this."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    """Print the advisories of a report; return 1 if there are any, 2 if a package was not looked up."""
    packages = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["dependencies"]
    known = [(package, each) for package in packages for each in package.get("vulns", ())]
    skipped = [package for package in packages if "skip_reason" in package]
    for package, each in known:
        names = ", ".join((each["id"], *each.get("aliases", ())))
        mended = " or ".join(each["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {names}; mended in {mended}")
    if skipped:
        names = ", ".join(package["name"] for package in skipped)
        print(f"not looked up, since the database does not know them: {names}")
    print(f"{len(known)} advisories for {len(packages) - len(skipped)} of {len(packages)} packages")
    return 1 if known else 2 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
