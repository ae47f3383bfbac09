"""Strict reading of another tool's JSON file and its fields: an unexpected value is an error, never a guess."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench import files
from llmbench.errors import Unconvertible
from llmbench.redact import redact, shown
from llmbench.redact.names import is_secret
from llmbench.redact.shapes import REDACTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MOST_BYTES = 2**29
"""A larger file is not a benchmark's summary, and reading it would take several times its size in memory."""

AGREE_WITHIN = 1e-3
"""A tool's own figures for one thing may differ by this much, because some write four digits."""

LONGEST_TEXT = 200
"""Names are cut at this length; no real model's name is longer, but a hostile one may be."""

LARGEST = 1e15
"""The upper limit of counts and durations: 10^15 ns are eleven days, 10^15 bytes are a petabyte."""


class ToolFile(NamedTuple):
    """A file's content: its name without folders, its digest, and one JSON value, or one per line."""

    name: str
    sha256: str
    values: tuple[Any, ...]


def read(path: Path) -> ToolFile:
    """Read a file of JSON or JSON lines; raise Unconvertible with a one-line message if it is neither."""
    name = shown(path.name)
    try:
        data = files.read(path, MOST_BYTES)
    except OSError as error:
        raise Unconvertible(f"{path}: {error.strerror or error}.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unconvertible(f"{name}: is not text: byte {error.start:,} is not UTF-8.") from error
    return ToolFile(name, hashlib.sha256(data).hexdigest(), tuple(_values(text, name)))


def _values(text: str, name: str) -> list[Any]:
    if not text.strip():
        raise Unconvertible(f"{name}: is empty.")
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        return [_decoded(text)]
    except ValueError as whole:
        if len(lines) < 2 or not _is_json(lines[0]):
            raise Unconvertible(f"{name}: is truncated or not JSON: {_why(whole)}.") from None
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(_decoded(line))
        except ValueError as error:
            raise Unconvertible(
                f"{name}: line {number} is truncated or not JSON: {_why(error)}."
            ) from None
    return values


def _why(error: ValueError) -> str:
    return shown(redact(str(error)))[:LONGEST_TEXT].rstrip(".")


def _is_json(line: str) -> bool:
    try:
        _decoded(line)
    except ValueError:
        return False
    return True


def _decoded(text: str) -> Any:
    """Return a JSON value; raise ValueError for invalid JSON, a repeated key, and too deep nesting."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(redact(twice))[:LONGEST_TEXT]!r} occurs twice")
    return held


class Fields:
    """A JSON object of a file, whose fields are read by name and kind; an error names the place."""

    def __init__(self, value: Any, where: str) -> None:
        """Take a JSON object; raise Unconvertible for other values."""
        if not isinstance(value, dict):
            raise Unconvertible(f"{where}: is not an object.")
        self._held: dict[str, Any] = value
        self.where = where

    def has(self, *keys: str) -> bool:
        """Return whether all of these keys are present and not null."""
        return all(self._held.get(key) is not None for key in keys)

    def inner(self, key: str) -> Fields:
        """Return the object under a key."""
        return Fields(self._given(key), f"{self.where}.{key}")

    def each(self, key: str) -> list[Fields]:
        """Return the objects of the list under a key."""
        return [
            Fields(one, f"{self.where}.{key}[{number}]")
            for number, one in enumerate(self._list(key))
        ]

    def positive(self, key: str) -> float:
        """Return a finite number above zero."""
        return _number(self._given(key), f"{self.where}.{key}")

    def positives(self, key: str) -> list[float]:
        """Return a non-empty list of finite numbers above zero."""
        values = self._list(key)
        if not values:
            raise Unconvertible(f"{self.where}.{key}: is empty.")
        return [_number(one, f"{self.where}.{key}[{n}]") for n, one in enumerate(values)]

    def not_negatives(self, key: str) -> list[float]:
        """Return a list, possibly empty, of finite numbers of at least zero."""
        values = enumerate(self._list(key))
        return [
            0.0 if one == 0 and one is not False else _number(one, f"{self.where}.{key}[{n}]")
            for n, one in values
        ]

    def lists(self, key: str) -> list[Any]:
        """Return the list under a key, its items unread."""
        return self._list(key)

    def count(self, key: str) -> int:
        """Return a whole number of at least zero."""
        value = self._given(key)
        whole = isinstance(value, int | float) and not isinstance(value, bool)
        if not whole or not 0 <= value <= LARGEST or value != int(value):
            raise Unconvertible(f"{self.where}.{key}: {_shown(value)} is not a count.")
        return int(value)

    def scalar(self, key: str) -> str | int | float | bool:
        """Return a setting: a short text, a finite number or a boolean."""
        value = self._given(key)
        if isinstance(value, str):
            return self.text(key)
        if isinstance(value, int | float) and abs(value) <= LARGEST:
            return value
        raise Unconvertible(
            f"{self.where}.{key}: {_shown(value)} is not a string, number or boolean."
        )

    def text(self, key: str) -> str:
        """Return a text without secrets and of limited length."""
        value = self._given(key)
        if not isinstance(value, str) or not value:
            raise Unconvertible(f"{self.where}.{key}: {_shown(value)} is not a string.")
        spelled = value.encode(
            "utf-8", "backslashreplace"
        ).decode()  # half a surrogate pair cannot be encoded
        return REDACTED if is_secret(key, spelled) else redact(spelled)[:LONGEST_TEXT]

    def _list(self, key: str) -> list[Any]:
        value = self._given(key)
        if not isinstance(value, list):
            raise Unconvertible(f"{self.where}.{key}: {_shown(value)} is not a list.")
        return value

    def _given(self, key: str) -> Any:
        value = self._held.get(key)
        if value is None:
            raise Unconvertible(f"{self.where}: has no {key!r}.")
        return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST:
        return float(value)
    raise Unconvertible(f"{where}: {_shown(value)} is not a number above zero.")


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return shown(redact(repr(value))[:40])


def agree(stated: float, worked_out: float, what: str, where: str) -> None:
    """Raise Unconvertible unless two figures of a file for one thing agree."""
    if not math.isclose(stated, worked_out, rel_tol=AGREE_WITHIN):
        raise Unconvertible(
            f"{where}: {what} is {stated:.6g}, but the file's other figures give {worked_out:.6g}; "
            "the file was edited, or the field means something else."
        )


def the_only(names: Iterable[str], what: str, where: str) -> str:
    """Return the only name; raise Unconvertible if there are several."""
    different = sorted(set(names))
    if len(different) != 1:
        raise Unconvertible(
            f"{where}: mixes {what}: {', '.join(map(shown, different))[:LONGEST_TEXT]}."
        )
    return different[0]


def last_name(path: str) -> str:
    """Return a model's name, or only the last part of a path, because folders are private."""
    return (
        path.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
        if path.startswith(("/", ".", "~")) or "\\" in path
        else path
    )
