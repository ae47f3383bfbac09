"""The raw requests of a session in a file of their own: columns of whole microseconds, packed, and hashed.

A file begins with `LLMBREQ1`, then holds the length of a JSON head and that head (columns, counts), then the columns,
all compressed with zlib. Times are differences in microseconds: of a request from the window's start, of a token from
the one before it.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmbench import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

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


def load(path: Path) -> Requests:
    """Return the requests of a file; raise ValueError for a file that is none."""
    try:
        head, columns = _parts(files.read(path, MOST_BYTES))
        rows, count = int(head["rows"]), int(head["gaps"])
        body = np.frombuffer(columns, "<i4").astype(np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if min(rows, count) < 0 or len(body) != rows * (len(COLUMNS) - 1) + count:
        raise ValueError(f"{path}: is damaged: it has {len(body)} numbers")
    cuts = np.cumsum([rows] * (len(COLUMNS) - 1))
    column = dict(zip(COLUMNS, np.split(body, cuts), strict=True))
    said = column["trouble"]
    if column["events"].sum() != count or not np.isin(said, range(len(head["trouble"]))).all():
        raise ValueError(f"{path}: is damaged: its columns do not agree")
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
        trouble=[str(head["trouble"][number]) for number in said.tolist()],
    )


def packed(head: dict[str, object], body: bytes) -> bytes:
    """Return the content of a file with this head and these columns."""
    text = json.dumps(head).encode()
    return MAGIC + zlib.compress(len(text).to_bytes(4, "little") + text + body, 6)


def with_texts(data: bytes, change: Callable[[str], str]) -> bytes:
    """Return the content of a file with its texts changed; raise ValueError for content that is no file of these."""
    head, body = _parts(data)
    return packed({**head, "trouble": [change(str(text)) for text in head["trouble"]]}, body)


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the head and the columns; raise ValueError for what has none."""
    if not data.startswith(MAGIC):
        raise ValueError("is not a file of requests")
    try:
        unpacking = zlib.decompressobj()
        whole = unpacking.decompress(data[len(MAGIC) :], MOST_BYTES)
        if not unpacking.eof:
            raise ValueError("it is cut, or too large")
        size = int.from_bytes(whole[:4], "little")
        head = json.loads(whole[4 : 4 + size])
        return {**head, "trouble": list(head["trouble"])}, whole[4 + size :]
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is damaged: {error}") from error
