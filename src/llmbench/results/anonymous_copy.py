"""Anonymised copies of runs: every readable line, rewritten by `anonymous`, with a new checksum."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import files
from llmbench.results import anonymous, lines, requests_file, served_requests, store
from llmbench.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path


def copy(source: Path, target: Path) -> None:
    """Copy a run into a new folder, with the raw requests of served sessions and without its logs.

    Raises:
        RunError: there is no run, or the folder cannot be created or is not empty.

    """
    log = store.read(source)
    plan: dict[str, Any] | None = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise RunError(f"{target}: already exists and is not empty. Name a new folder.")
        with (target / store.RECORDS).open("xb") as stream:
            log.check()  # finds the records that no longer count, and are left out
            for line in log.lines():
                members = anonymous.facts(json.loads(line))
                if members["kind"] == "end" and "served" in members["outcome"]:
                    _copy_requests(members["outcome"]["served"], source, target)
                members.pop("crc32", None)
                stream.write(lines.seal(lines.encode(members)))
                plan = members if members["kind"] == "sweep" else plan
            os.fsync(stream.fileno())
        if plan is not None:
            readable = msgspec.json.format(lines.encode(plan), indent=2) + b"\n"
            (target / store.DESCRIPTION).write_bytes(readable)
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror}.") from error


def _copy_requests(served: dict[str, Any], source: Path, target: Path) -> None:
    """Copy a session's raw requests with anonymised texts, and tell the copy's digest; forget a file that is lost."""
    told = served.pop("requests", {})
    path = served_requests.path_of(source, told)
    if path is None or not path.exists():
        return
    try:
        data = files.read(path, requests_file.MOST_BYTES)
        data = requests_file.with_texts(data, anonymous.text)
    except ValueError as error:
        raise RunError(f"{path}: {error}.") from error
    (target / store.REQUESTS).mkdir(exist_ok=True)
    (target / store.REQUESTS / path.name).write_bytes(data)
    served["requests"] = {
        **told, "file": f"{store.REQUESTS}/{path.name}", "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
