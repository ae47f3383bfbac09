"""Writing of the raw requests of a session to a file of their own, in the format of `results.requests_file`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbench import files
from llmbench.redact import redact
from llmbench.results.requests_file import COLUMNS, UNTOLD
from llmbench.results.requests_file import packed as packed_columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmbench.serve.timeline import ServedRequest


def packed(requests: Sequence[ServedRequest], start_ns: int) -> bytes:
    """Return the content of a file of these requests."""
    said = {trouble: redact(trouble) for trouble in {request.trouble for request in requests}}
    reasons = list(dict.fromkeys(said.values()))
    gaps: list[int] = []
    for request in requests:
        before = request.due_ns
        for at in request.token_ns:
            gaps.append(_micro(at) - _micro(before))
            before = at
    columns = {
        "number": [request.number for request in requests],
        "due": [_micro(request.due_ns) - _micro(start_ns) for request in requests],
        "sent": [_micro(request.sent_ns) - _micro(request.due_ns) for request in requests],
        "ended": [_micro(request.ended_ns) - _micro(request.due_ns) for request in requests],
        "tokens": [_told(request.tokens) for request in requests],
        "prompt_tokens": [_told(request.prompt_tokens) for request in requests],
        "cached_tokens": [_told(request.cached_tokens) for request in requests],
        "events": [len(request.token_ns) for request in requests],
        "trouble": [reasons.index(said[request.trouble]) for request in requests],
        "gaps": gaps,
    }
    head = {"rows": len(requests), "gaps": len(gaps), "trouble": reasons}
    body = b"".join(np.array(columns[name], dtype="<i4").tobytes() for name in COLUMNS)
    return packed_columns(head, body)


def write(path: Path, requests: Sequence[ServedRequest], start_ns: int) -> dict[str, Any]:
    """Write the file whole or not at all, and return its name, digest, size and number of requests."""
    data = packed(requests, start_ns)
    path.parent.mkdir(exist_ok=True)
    files.replace(path, data)
    return {
        "file": f"{path.parent.name}/{path.name}",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "requests": len(requests),
    }


def _micro(ns: int) -> int:
    return round(ns / 1000)


def _told(count: int | None) -> int:
    return UNTOLD if count is None else count
