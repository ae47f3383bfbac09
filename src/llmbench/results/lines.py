"""Lines that can be checked: compact JSON whose last member is the CRC-32 of every byte before it.

The checksum finds a bit that flipped inside a digit, which would still parse. Each line stays plain JSON
that any reader takes; `jq` sees one more member, `crc32`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import math
import os
import re
import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import files
from llmbench.results import record
from llmbench.errors import FormatError
from llmbench.machine.info import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

BLOCK_BYTES = 2**20

SEAL = b',"crc32":"%08x"}\n'
SEAL_LENGTH = len(SEAL % 0)

HEAD = re.compile(rb'\{"kind":"(\w+)","format":(\d{1,9}),')
"""How every line of ours begins, so that a reader can pass over a kind without decoding it."""

END_HEAD = b'{"kind":"end","format":%d,' % record.FORMAT
"""The head of a record, which is compared in a fifth of the time."""

BEGINS = b'{"kind":"'
START = re.compile(re.escape(BEGINS))
SEALED = re.compile(rb',"crc32":"([0-9a-f]{8})"\}')
MOST_STARTS = 64
"""Places at which a record may begin that are tried before each seal: a line made of beginnings costs no more."""
LONGEST_LINE = 2**27
"""Twice the longest message of a worker about one cell. Of a longer line, only the last block is searched."""
LONGEST_VERSION = 32
MOST_DAMAGED = 100_000
"""A larger run than any has as many lines; a file of junk has millions, each read again by every reader."""
MOST_RANGES = 20
"""Damaged lines are named in so many ranges."""
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""The remains of bytes that were not UTF-8: JSON can spell them, but strict readers refuse them."""


NOT_UNDERSTOOD = (msgspec.DecodeError, RecursionError)
"""The errors that decoding raises for a line that is not of a known form, such as endless nesting."""


class Head(msgspec.Struct):
    """The two members that begin every line of every format."""

    kind: str = ""
    format: msgspec.Raw = msgspec.Raw(b"%d" % record.FORMAT)


_head = msgspec.json.Decoder(Head)
_line: msgspec.json.Decoder[record.Line] = msgspec.json.Decoder(record.Line)


def encode(line: record.Line | record.Result | dict[str, Any]) -> bytes:
    """Return a line as compact JSON; raise ValueError for NaN or infinity."""
    value = msgspec.to_builtins(line)
    _refuse_not_finite(value)
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError):  # half a surrogate, or a whole number above 64 bits
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return spelled(text).encode()


def _refuse_not_finite(value: Any) -> None:
    """Raise ValueError for NaN or infinity, which msgspec would write as null: "not measured"."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number, and cannot be written")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        kinds = set(map(type, value))  # a file of others may hold millions
        if not (kinds == {float} and math.isfinite(sum(value))):
            for one in () if kinds.isdisjoint((float, dict, list)) else value:
                _refuse_not_finite(one)


def seal(member: bytes) -> bytes:
    """Return a JSON object with its checksum as the last member and a newline."""
    body = member[:-1]
    return body + SEAL % zlib.crc32(body)


def spelled(text: str) -> str:
    """Return JSON whose strings say every half surrogate as its escape."""
    return LONE_SURROGATE.sub(lambda match: f"\\\\u{ord(match[0]):04x}", text)


def intact(line: bytes) -> bool:
    """Return whether a line ends in the checksum of what comes before it."""
    if not line.endswith(b'"}\n'):
        return False  # most junk, without a checksum
    # To copy a short line is faster than to look at it through a memoryview, which costs two objects.
    body = line[:-SEAL_LENGTH] if len(line) < BLOCK_BYTES else memoryview(line)[:-SEAL_LENGTH]
    return line.endswith(SEAL % zlib.crc32(body))


def scan(path: Path, size: int, bad: Callable[[int], None]) -> Iterator[bytes]:
    """Yield every intact line in the first `size` bytes of a file; call `bad` with the number of each other.

    A record that is whole inside a damaged line (its newline was hit, or a block of NULs precedes it) is
    yielded all the same. A last line without its newline is being written, or was cut: it is passed over.

    Raises:
        FormatError: a newer llmbench wrote the file, or hardly anything in it is a line of ours.

    """
    damaged = 0
    for number, line in enumerate(lines(path, size), 1):
        if intact(line):
            yield line
            continue
        refuse_newer(line)
        yield from salvaged(line)
        bad(number)
        damaged += 1
        if damaged > MOST_DAMAGED:
            raise FormatError(
                f"more than {MOST_DAMAGED:,} lines are damaged, so this is no file of records. "
                "If there are records in it, copy their lines to a new one."
            )


def lines(path: Path, size: int) -> Iterator[bytes]:
    """Yield every line that ends in the first `size` bytes of a file; of one that is too long, its end only."""
    if not size:
        return
    start = 0
    descriptor = files.open_regular(path)
    try:
        while block := os.pread(descriptor, min(BLOCK_BYTES, size - start), start):
            if whole := block.rfind(b"\n") + 1:
                yield from io.BytesIO(block[:whole])  # many lines at once: half a second of 200,000
                start += whole
            elif end := _end_of_line(descriptor, start + len(block), size):
                kept = end - start if end - start <= LONGEST_LINE else BLOCK_BYTES
                yield os.pread(descriptor, kept, end - kept)
                start = end
            else:
                return
    finally:
        os.close(descriptor)


def _end_of_line(descriptor: int, start: int, size: int) -> int | None:
    """Return the place after the next newline, None if there is none in the first `size` bytes."""
    while block := os.pread(descriptor, min(BLOCK_BYTES, size - start), start):
        if place := block.find(b"\n") + 1:
            return start + place
        start += len(block)
    return None


def salvaged(line: bytes) -> Iterator[bytes]:
    """Yield the records that are whole inside a damaged line."""
    begun, view = 0, memoryview(line)
    for seal in SEALED.finditer(line):
        checksum = int(seal[1], 16)
        for start in itertools.islice(START.finditer(line, begun, seal.end()), MOST_STARTS):
            if zlib.crc32(view[start.start() : seal.start()]) == checksum:
                yield b"".join((view[start.start() : seal.end()], b"\n"))
                break
        begun = seal.end()


def head_of(line: bytes) -> tuple[str, int]:
    """Return the kind of a line (sweep, begin, end, ...) and its format; raise FormatError if it has no valid one."""
    if head := HEAD.match(line):
        kind, version = head[1].decode(), int(head[2])
    else:
        words = _head.decode(line)
        kind, version = words.kind, _version(memoryview(words.format))
    if type(version) is not int or version < 1:
        raise FormatError(f"is of format {version!r}, which no llmbench writes.")
    return kind, version


def _version(words: memoryview) -> Any:
    """Return the value of `format`; a long one is no version, and could be a list of millions."""
    return msgspec.json.decode(words) if len(words) <= LONGEST_VERSION else "..."


def refuse_newer(line: bytes) -> None:
    """Raise FormatError for a line that has no checksum of ours because a later version wrote it."""
    if not line.startswith(b"{") or b'"crc32":"' in line[-SEAL_LENGTH:]:
        return  # no line of any version; or sealed as we seal, so it is damaged, and its format may be the damage
    version = 0
    with contextlib.suppress(*NOT_UNDERSTOOD, FormatError):  # what says no format is damage, too
        _, version = head_of(line)
    if version > record.FORMAT:
        raise newer(version)


def newer(version: int) -> FormatError:
    """Return the error about lines that a later version wrote."""
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
    heading = b"# %s, from byte %d:\n" % (utc_now().encode(), whole)
    blocks = (
        os.pread(records, min(BLOCK_BYTES, size - start), start)
        for start in range(whole, size, BLOCK_BYTES)
    )
    _append(side, itertools.chain((heading,), blocks, (b"\n",)))
    os.ftruncate(records, whole)
    os.fsync(records)
    return size - whole


def _append(side: Path, blocks: Iterable[bytes]) -> None:
    """Write blocks to the end of a file, all of them or none."""
    descriptor = files.open_regular(side, os.O_WRONLY | os.O_CREAT | os.O_APPEND, own=True)
    with os.fdopen(descriptor, "ab", buffering=0) as stream:
        before = os.fstat(descriptor).st_size
        try:
            whole = all(stream.write(block) == len(block) for block in blocks)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
        if not whole:
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, f"there is no room for {side.name}")


def _end_of_last_line(records: int, size: int) -> int:
    position = size
    while position > 0:
        start = max(0, position - BLOCK_BYTES)
        newline = os.pread(records, position - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def as_ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as ranges, `3, 7-9`; of very many ranges only the first ones."""
    ranges: list[list[int]] = []
    for place, number in enumerate(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        elif len(ranges) < MOST_RANGES:
            ranges.append([number, number])
        else:
            return f"{_listed(ranges)} and {len(numbers) - place:,} more"
    return _listed(ranges)


def _listed(ranges: Iterable[list[int]]) -> str:
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
