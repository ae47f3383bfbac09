"""Strict reading of another tool's JSON file and its fields: an unexpected value is an error, never a guess."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llmbench import files
from llmbench.errors import Unconvertible
from llmbench.importers import foreign_texts
from llmbench.redact import redact, shown
from llmbench.redact.names import is_secret
from llmbench.redact.shapes import REDACTED

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path

MOST_BYTES = 2**29
"""A larger file is not a benchmark's summary, and reading it would take several times its size in memory."""

AGREE_WITHIN = 1e-3
"""A tool's own figures for one thing may differ by this much, because some write four digits."""

LONGEST_TEXT = 200
"""Names are cut at this length; no real model's name is longer, but a hostile one may be."""

_JSON = re.compile(r'[{\[]\s*(?:["{}\[\]]|$)|.*":')
"""How a line of JSON looks, damaged or not, and no log line does: lines are skipped only if nothing is lost."""

MOST_SETTINGS = 256
"""A file has no more settings of its own; a hostile one may."""

DEEPEST = 32
"""No tool's settings are nested deeper; a hostile file's may be."""
LONGEST_LIST = 32
"""A longer list is no setting."""

NOT_OF_A_CELL = (
    r".*(id|dir|directory|folder|path|paths|url|urls|target|file|name|date|time|tag|seed)",
)
"""Patterns of the keys of settings that say where a run is kept or when it was, and not what was measured."""

LARGEST = 1e15
"""The upper limit of counts and durations: 10^15 ns are eleven days, 10^15 bytes are a petabyte."""


class ToolFile(NamedTuple):
    """A file's content: its name without folders, its digest, and one JSON value, or one per line."""

    name: str
    sha256: str
    values: tuple[Any, ...]

    @property
    def only(self) -> dict[str, Any]:
        """Return the one object that the file holds; empty if it holds something else."""
        value = self.values[0]
        return value if len(self.values) == 1 and isinstance(value, dict) else {}


def read(path: Path) -> ToolFile:
    """Read a file of JSON or JSON lines; raise Unconvertible with a one-line message if it is neither."""
    name = shown(path.name)
    if path.is_dir():
        raise Unconvertible(f"{path}: is a folder. Give the files in it.")
    try:
        data = files.read(path, MOST_BYTES)
    except OSError as error:
        raise Unconvertible(f"{path}: {error.strerror or error}.") from error
    return ToolFile(name, hashlib.sha256(data).hexdigest(), tuple(_values(_text(data, name), name)))


def _text(data: bytes, name: str) -> str:
    """Return a file's text; PowerShell redirects a command's output as UTF-16."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise Unconvertible(
            f"{name}: is not text: byte {error.start:,} is not {encoding.upper()}."
        ) from error


def _values(text: str, name: str) -> list[Any]:
    """Return the JSON values of a text, one after the other; lines that a program logged around them are skipped."""
    if not text.strip():
        raise Unconvertible(f"{name}: is empty.")
    if (whole := _whole(text)) is not None:
        return [whole]
    values: list[Any] = []
    at = _begin(text, 0)
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if not values and not text.lstrip().startswith(("{", "[")):
                raise Unconvertible(f"{name}: {foreign_texts.refusal(text)}") from None
            why = "it is nested too deeply" if isinstance(error, RecursionError) else _why(error)
            line = text.count("\n", 0, at) + 1
            where = f"line {line:,} is" if line > 1 else "is"
            raise Unconvertible(f"{name}: {where} truncated or not JSON: {why}.") from None
        values.append(value)
        at = _begin(text, at)
    if values:
        return values
    try:
        return [json.loads(text)]  # a number or a word, which looked like a log line
    except ValueError:
        raise Unconvertible(f"{name}: {foreign_texts.refusal(text)}") from None


def _whole(text: str) -> dict[str, Any] | list[Any] | None:
    """Return the one JSON value of most files, decoded in C; None for a text that has to be read with care.

    This decoder takes the last of equal keys without a word, so the keys are counted in the text, too.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    inside = isinstance(value, dict | list)
    return value if inside and _keys(value) == sum(map(bool, _STRING.findall(text))) else None


def _keys(value: Any) -> int:
    """Return how many keys the objects in a value have; lists of numbers and strings are passed over in C."""
    if isinstance(value, dict):
        return len(value) + sum(map(_keys, value.values()))
    if isinstance(value, list) and not set(map(type, value)).isdisjoint((dict, list)):
        return sum(map(_keys, value))
    return 0


def _begin(text: str, at: int) -> int:
    """Return where the next value begins: after blanks, and after whole lines that look like no JSON at all."""
    while True:
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        ends = text.find("\n", at)
        line = text[at:] if ends < 0 else text[at:ends]
        starts_line = not text[text.rfind("\n", 0, at) + 1 : at].strip()
        if not line or not starts_line or _JSON.match(line.rstrip()):
            return at
        at += len(line)


def _why(error: ValueError) -> str:
    return shown(redact(str(error)))[:LONGEST_TEXT].rstrip(".")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(redact(twice))[:LONGEST_TEXT]!r} occurs twice")
    return held


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_BLANK = re.compile(r"\s*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"\s*(:?)')
"""A string of JSON, and the colon after it if it is a key."""


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

    def raw(self, key: str) -> Any:
        """Return the value under a key, unread."""
        return self._held.get(key)

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
        values = self._list(key)
        if _are_numbers(values, at_least=0):
            return values if set(map(type, values)) == {float} else list(map(float, values))
        return [
            0.0 if one == 0 and one is not False else _number(one, f"{self.where}.{key}[{n}]")
            for n, one in enumerate(values)
        ]

    def texts(self, key: str) -> list[str]:
        """Return a list of texts."""
        return [Fields({key: one}, self.where).text(key) for one in self._list(key)]

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
        if isinstance(value, float) and math.isinf(value):
            return str(value)  # a rate without a limit
        raise Unconvertible(
            f"{self.where}.{key}: {_shown(value)} is not a string, number or boolean."
        )

    def rest(
        self, known: Container[str], *patterns: str, lists: bool = False
    ) -> dict[str, str | int | float | bool]:
        """Return all scalars except those under known keys and patterns of keys; inner ones as `key.inner`.

        With `lists`, short lists of scalars are settings too.
        """
        skipped = re.compile("|".join(patterns) or "(?!)")
        found: dict[str, str | int | float | bool] = {}
        for key, value in self._held.items():
            if value is None or value in ("", {}, []) or key in known or skipped.fullmatch(key):
                continue
            name = shown(redact(key))[:LONGEST_TEXT]
            if isinstance(value, list):
                if lists and len(value) <= LONGEST_LIST:
                    found[name] = Fields({key: json.dumps(value)}, self.where).text(key)
            elif is_secret(key, str(value)):
                continue
            elif isinstance(value, dict):
                if self.where.count(".") > DEEPEST:
                    raise Unconvertible(
                        f"{self.where[:LONGEST_TEXT]}: its settings are nested too deeply."
                    )
                inner = self.inner(key).rest((), *patterns, lists=lists)
                found |= {f"{name}.{k}": v for k, v in inner.items()}
            else:
                found[name] = self.scalar(key)
        if len(found) > MOST_SETTINGS:
            raise Unconvertible(f"{self.where}: has {len(found):,} settings that are not known.")
        return found

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


def _are_numbers(values: list[Any], at_least: float) -> bool:
    """Return whether all are finite numbers in the limits; in C, because a file may hold millions."""
    return (
        set(map(type, values)) <= {float, int}
        and min(values, default=at_least) >= at_least
        and max(values, default=at_least) <= LARGEST
        and math.isfinite(sum(values))
    )


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


def last_name(path: str) -> str:
    """Return a model's name, or only the last part of a path, because folders are private."""
    return (
        path.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
        if path.startswith(("/", ".", "~")) or "\\" in path
        else path
    )
