"""The raw requests of a session in a file of their own: columns of whole microseconds, packed, and hashed.

A file begins with `LLMBREQ1`, then holds the length of a JSON head and that head (columns, counts), then the columns,
all compressed with zlib. Times are differences in microseconds: of a request from the window's start, of a token from
the one before it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmbench import files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llmbench.serve.timeline import ServedRequest

MAGIC = b"LLMBREQ1"
MOST_BYTES = 2**31
UNTOLD = -1
"""A count that the server did not give."""
COLUMNS = (
    "number",
    "due",
    "sent",
    "ended",
    "tokens",
    "prompt_tokens",
    "cached_tokens",
    "events",
    "trouble",
    "gaps",
)


class Requests(NamedTuple):
    """The requests of a file, one row each; times in seconds from the window's start.

    Attributes:
        number: of the request, in the order of sending.
        due_s: when it was to be sent.
        sent_s: when it was.
        ended_s: when its answer had been read.
        tokens: new tokens as the server counted them; -1 = not told. Likewise `prompt_tokens`, `cached_tokens`.
        token_s: for each request, when each event with tokens arrived.
        trouble: why a request failed; empty if it did not.

    """

    number: NDArray[np.int64]
    due_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    tokens: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    cached_tokens: NDArray[np.int64]
    token_s: list[NDArray[np.float64]]
    trouble: list[str]


def packed(requests: Sequence[ServedRequest], start_ns: int) -> bytes:
    """Return the content of a file of these requests."""
    reasons = list(dict.fromkeys(request.trouble for request in requests))
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
        "trouble": [reasons.index(request.trouble) for request in requests],
        "gaps": gaps,
    }
    head = json.dumps({"rows": len(requests), "gaps": len(gaps), "trouble": reasons}).encode()
    body = b"".join(np.array(columns[name], dtype="<i4").tobytes() for name in COLUMNS)
    return MAGIC + zlib.compress(len(head).to_bytes(4, "little") + head + body, 6)


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


def load(path: Path) -> Requests:
    """Return the requests of a file; raise ValueError for a file that is none."""
    data = files.read(path, MOST_BYTES)
    if not data.startswith(MAGIC):
        raise ValueError(f"{path}: is not a file of requests")
    try:
        whole = zlib.decompress(data[len(MAGIC) :])
        size = int.from_bytes(whole[:4], "little")
        head = json.loads(whole[4 : 4 + size])
        rows, count = int(head["rows"]), int(head["gaps"])
        body = np.frombuffer(whole, "<i4", offset=4 + size).astype(np.int64)
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is damaged: {error}") from error
    if len(body) != rows * (len(COLUMNS) - 1) + count:
        raise ValueError(f"{path}: is damaged: it has {len(body)} numbers")
    cuts = np.cumsum([rows] * (len(COLUMNS) - 1))
    column = dict(zip(COLUMNS, np.split(body, cuts), strict=True))
    ends = np.cumsum(column["events"])
    due = column["due"]
    tokens = [
        (due[row] + np.cumsum(gaps)) / 1e6
        for row, gaps in enumerate(np.split(column["gaps"], ends)[:rows])
    ]
    return Requests(
        number=column["number"],
        due_s=due / 1e6,
        sent_s=(due + column["sent"]) / 1e6,
        ended_s=(due + column["ended"]) / 1e6,
        tokens=column["tokens"],
        prompt_tokens=column["prompt_tokens"],
        cached_tokens=column["cached_tokens"],
        token_s=tokens,
        trouble=[head["trouble"][number] for number in column["trouble"].tolist()],
    )


def _micro(ns: int) -> int:
    return round(ns / 1000)


def _told(count: int | None) -> int:
    return UNTOLD if count is None else count
