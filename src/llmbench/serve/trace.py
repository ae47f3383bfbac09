"""Requests of real traffic from a file: when each arrived, and how long its prompt and its answer were.

Three published forms are read, told apart by their columns: Mooncake's JSON lines, and the CSV files of Azure and of
BurstGPT. Times and lengths are taken, and of Mooncake's which blocks of a prompt are those of another.
"""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmbench import files
from llmbench.errors import SpecError
from llmbench.serve.prompts import BLOCK
from llmbench.spec.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

MOST_BYTES = 2**28
"""The size limit of a trace; BurstGPT's has 1.4 million lines in about 50 MB."""


BLOCKS = "hash_ids"
"""Mooncake's names of a prompt's blocks: the same number is the same tokens."""


class Form(NamedTuple):
    """A published form: its columns for the arrival, the prompt tokens and the new tokens, and how a time is read."""

    at: str
    input_len: str
    output_len: str
    seconds: Callable[[Any], float]


def _milliseconds(value: Any) -> float:
    return float(value) / 1e3


def _date(value: Any) -> float:
    # Azure writes seven digits after the point, and Python reads six.
    whole, _, part = str(value).strip().removesuffix("Z").partition(".")
    day = datetime.fromisoformat(whole.partition("+")[0])
    return (day - datetime(1970, 1, 1)).total_seconds() + float(  # noqa: DTZ001 - only differences are used
        f"0.{part.partition('+')[0] or 0}"
    )


FORMS = (
    Form("timestamp", "input_length", "output_length", _milliseconds),
    Form("TIMESTAMP", "ContextTokens", "GeneratedTokens", _date),
    Form("Timestamp", "Request tokens", "Response tokens", float),
)


class Trace(NamedTuple):
    """The requests of a file in the order of their arrival.

    Attributes:
        at_s: when each arrived, in seconds from the first.
        input_len: prompt tokens of each.
        output_len: new tokens of each.
        left_out: lines without a prompt or without an answer, which cannot be sent.
        digest: of all requests; it names them in a cell's id.
        blocks: of each request the names of its prompt's blocks, where the file has them.

    """

    at_s: NDArray[np.float64]
    input_len: NDArray[np.int64]
    output_len: NDArray[np.int64]
    left_out: int
    digest: str
    blocks: tuple[tuple[int, ...], ...] = ()

    @property
    def last_s(self) -> float:
        """Return when the last request arrives, in seconds from the first."""
        return float(self.at_s[-1])

    @property
    def longest(self) -> tuple[int, int]:
        """Return the most prompt tokens and the most new tokens of any request."""
        return int(self.input_len.max()), int(self.output_len.max())

    def lengths(self, number: int) -> tuple[int, int]:
        """Return the prompt tokens and the new tokens of a request."""
        return int(self.input_len[number]), int(self.output_len[number])

    def known(self) -> list[int]:
        """Return how many tokens of each prompt are of blocks at its beginning that an earlier one had as well."""
        seen: set[int] = set()
        tokens = []
        for names, length in zip(self.blocks, self.input_len.tolist(), strict=True):
            count = next((n for n, name in enumerate(names) if name not in seen), len(names))
            tokens.append(min(count * BLOCK, length))
            seen.update(names)
        return tokens


def read(name: str) -> Trace:
    """Return the requests of a file; raise SpecError with the file, the line and what it should have."""
    try:
        text = files.read_text(Path(name).expanduser(), MOST_BYTES)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "is not a text file"
        raise SpecError(f"load: trace {name!r}: {reason}.") from error
    rows: list[tuple[float, int, int, tuple[int, ...]]] = []
    left_out = 0
    form: Form | None = None
    for line, row in _rows(name, text):
        where = f"load: trace {name!r}, line {line}"
        form = form or _form(where, row)
        at, *lengths = _request(where, form, row)
        if min(lengths) < 1:
            left_out += 1
        else:
            rows.append((at, lengths[0], lengths[1], _blocks(where, row)))
    if not rows:
        raise SpecError(f"load: trace {name!r}: has no request.")
    rows.sort(key=lambda row: row[0])
    *numbers, blocks = zip(*rows, strict=True)
    at_s, input_len, output_len = map(np.array, numbers)
    told = blocks if any(blocks) else ()
    return Trace(
        at_s=at_s - at_s[0],
        input_len=input_len,
        output_len=output_len,
        left_out=left_out,
        # Files without blocks keep the digest that they had when blocks were not read.
        digest=digest_of(
            [
                [round(at - rows[0][0], 6), *of, *map(list, told[n : n + 1])]
                for n, (at, *of, _) in enumerate(rows)
            ]
        ),
        blocks=told,
    )


def _form(where: str, row: Mapping[str, Any]) -> Form:
    """Return the form whose columns a line has."""
    for form in FORMS:
        if set(form[:3]) <= row.keys():
            return form
    raise SpecError(
        f"{where}: has {', '.join(map(str, row))}; the columns of a trace are "
        f"{', or '.join(', '.join(form[:3]) for form in FORMS)}."
    )


def _request(where: str, form: Form, row: Mapping[str, Any]) -> tuple[float, int, int]:
    """Return when a request arrives, in seconds, its prompt tokens and its new tokens."""
    at = _field(where, row, form.at, "a time", form.seconds)
    if not np.isfinite(at):
        raise SpecError(f"{where}: {form.at}: {at} is no time.")
    tokens = (_field(where, row, name, "a number of tokens", int) for name in form[1:3])
    return at, *tokens


def _blocks(where: str, row: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the names of a prompt's blocks; empty where the file has none."""
    names = row.get(BLOCKS) or []
    if not isinstance(names, list) or not all(type(name) is int for name in names):
        raise SpecError(f"{where}: {BLOCKS}: {str(names)[:40]!r} is not a list of whole numbers.")
    return tuple(names)


def _field(
    where: str, row: Mapping[str, Any], name: str, what: str, read: Callable[[Any], Any]
) -> Any:
    """Return a field of a request as it is read; raise SpecError with its name if it is not what it should be."""
    try:
        return read(row[name])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        given = f"{row[name]!r} is not {what}" if row.get(name) not in (None, "") else "is missing"
        raise SpecError(f"{where}: {name}: {given}.") from error


def _rows(name: str, text: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """Yield the lines with their numbers as mappings, of JSON lines or of CSV with a head."""
    if not text.lstrip().startswith("{"):
        reader = csv.DictReader(text.lstrip("\ufeff").splitlines())
        for row in reader:
            yield reader.line_num, {str(key).strip(): value for key, value in row.items()}
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SpecError(f"load: trace {name!r}, line {number}: is not JSON.") from error
            if not isinstance(row, dict):
                raise SpecError(f"load: trace {name!r}, line {number}: is not a JSON object.")
            yield number, row
