"""Lines that can be checked: compact JSON whose last member is the CRC-32 of every byte before it.

The checksum finds a bit that flipped inside a digit, which would still parse. Each line stays plain JSON
that any reader takes; `jq` sees one more member, `crc32`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import os
import re
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import record
from llmbench.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

BLOCK_BYTES = 2**20

SEAL = b',"crc32":"%08x"}\n'
SEAL_LENGTH = len(SEAL % 0)

HEAD = re.compile(rb'\{"kind":"(\w+)","format":(\d{1,9}),')
"""How every line of ours begins, so that a reader can pass over a kind without decoding it."""

QUICK_HEADS = tuple(
    (b'{"kind":"%s","format":%d,' % (kind.encode(), record.FORMAT), (kind, record.FORMAT))
    for kind in ("end", "begin")
)
"""The heads of nearly all lines, found in a third of the time."""

START = re.compile(rb'\{"kind":"')
SEALED = re.compile(rb',"crc32":"[0-9a-f]{8}"\}')
MOST_STARTS = 64
"""Places at which a record may begin that are tried before each seal: a line made of beginnings costs no more."""
LONGEST_LINE = 2**27
"""No record is longer: what a worker may say of one cell is half of it. More is passed over in pieces, unread."""
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""What is left of bytes that were no UTF-8: JSON can spell it, but strict readers refuse it."""


NOT_UNDERSTOOD = (msgspec.DecodeError, RecursionError)
"""What decoding raises for a line that is no value of ours, endless nesting among it."""


class Head(msgspec.Struct):
    """What every line of every format says of itself."""

    kind: str = ""
    format: Any = record.FORMAT


_head = msgspec.json.Decoder(Head)
_line: msgspec.json.Decoder[record.Line] = msgspec.json.Decoder(record.Line)


def encode(line: record.Line | record.Result) -> bytes:
    """Return a line as compact JSON; raise ValueError for NaN or infinity.

    The standard library writes it, because msgspec would turn NaN into null, which means "not measured".
    """
    text = json.dumps(
        msgspec.to_builtins(line), allow_nan=False, ensure_ascii=False, separators=(",", ":")
    )
    return spelled(text).encode()


def seal(member: bytes) -> bytes:
    """Return a JSON object with its checksum as the last member and a newline."""
    body = member[:-1]
    return body + SEAL % zlib.crc32(body)


def spelled(text: str) -> str:
    """Return JSON whose strings say every half surrogate as its escape."""
    return LONE_SURROGATE.sub(lambda match: f"\\\\u{ord(match[0]):04x}", text)


def intact(line: bytes) -> bool:
    """Return whether a line ends in the checksum of what comes before it."""
    return line[-SEAL_LENGTH:] == SEAL % zlib.crc32(line[:-SEAL_LENGTH])


def scan(path: Path, size: int, bad: Callable[[int], None]) -> Iterator[bytes]:
    """Yield every intact line in the first `size` bytes of a file; call `bad` with the number of each other.

    A record that is whole inside a damaged line (its newline was hit, or a block of NULs precedes it) is
    yielded all the same. A last line without its newline is being written, or was cut: it is passed over.
    """
    if not size:
        return
    read = 0
    with path.open("rb", buffering=BLOCK_BYTES) as stream:
        number, begun = 1, True
        for piece in iter(partial(stream.readline, LONGEST_LINE), b""):
            read += len(piece)
            if read > size:
                return
            ended = piece.endswith(b"\n")
            if begun and intact(piece):
                yield piece
            elif ended:
                refuse_newer(piece)
                yield from salvaged(piece)
                bad(number)
            number, begun = number + ended, ended


def salvaged(line: bytes) -> Iterator[bytes]:
    """Yield the records that are whole inside a damaged line."""
    begun = 0
    for seal in SEALED.finditer(line):
        part = line[begun : seal.end()] + b"\n"
        starts = itertools.islice(START.finditer(part), MOST_STARTS)
        pieces = (part[start.start() :] for start in starts)
        yield from itertools.islice(filter(intact, pieces), 1)
        begun = seal.end()


def head_of(line: bytes) -> tuple[str, int]:
    """Return what a line holds (sweep, begin, end, ...) and its format; raise FormatError if that is none."""
    for quick, known in QUICK_HEADS:
        if line.startswith(quick):
            return known
    if head := HEAD.match(line):
        kind, version = head[1].decode(), int(head[2])
    else:
        words = _head.decode(line)
        kind, version = words.kind, words.format
    if type(version) is not int or version < 1:
        raise FormatError(f"is of format {version!r}, which no llmbench writes.")
    return kind, version


def refuse_newer(line: bytes) -> None:
    """Raise FormatError for a line that is no line of ours only because a later version wrote it."""
    if b'"crc32":"' in line[-SEAL_LENGTH:]:
        return  # sealed as we seal, so it is damaged, and its format may be the damage
    version = 0
    with contextlib.suppress(*NOT_UNDERSTOOD, FormatError):  # what says no format is damage, too
        _, version = head_of(line)
    if version > record.FORMAT:
        raise newer(version)


def newer(version: int) -> FormatError:
    """Return what is to be said of lines that a later version wrote."""
    return FormatError(
        f"is of format {version}, and this llmbench knows formats up to {record.FORMAT}. "
        "Read it with the version that wrote it, or a later one."
    )


def decode(line: bytes) -> record.Line:
    """Return the line's value; raise msgspec.ValidationError if it is not as its format says."""
    return _line.decode(line)


def set_torn_tail_aside(records: int, side: Path) -> int:
    """Move the bytes after the last newline to the end of a side file, cut them off, return how many."""
    size = os.fstat(records).st_size
    whole = _end_of_last_line(records, size)
    if whole == size:
        return 0
    tail = os.pread(records, size - whole, whole)
    at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    with side.open("ab") as stream:
        stream.write(b"# %s, from byte %d:\n%s\n" % (at.encode(), whole, tail))
        stream.flush()
        os.fsync(stream.fileno())
    os.ftruncate(records, whole)
    os.fsync(records)
    return size - whole


def _end_of_last_line(records: int, size: int) -> int:
    position = size
    while position > 0:
        start = max(0, position - BLOCK_BYTES)
        newline = os.pread(records, position - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def ranges(numbers: Iterable[int]) -> str:
    """Return whole numbers in order as words: `3, 7-9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
