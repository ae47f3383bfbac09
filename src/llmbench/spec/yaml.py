"""Strict reading of YAML files: YAML 1.2 types, no tags, no duplicate keys, errors with line numbers.

YAML 1.1 reads `no` as false and `12:30:00` as 45000; 1.2 keeps both as text, which a typed field refuses instead of
silently taking another value.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from llmbench import files
from llmbench.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

T = TypeVar("T")

UNCLOSED = "found unexpected end of stream"
REMEDIES = {
    UNCLOSED: "; this is never closed",
    "found character 'tab' that cannot start any token": "; use spaces",
}
"""Remedies added to YAML's own error messages."""

NOUNS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "a mapping", "dict": "a mapping", "list": "a list", "null": "nothing", "NoneType": "nothing",
}  # fmt: skip
"""The types of YAML values in words, by the names that msgspec and Python give them."""
TYPE = re.compile(r"`([a-zA-Z| ]+)`")
MISSING = re.compile(r"Object missing required field `(\w+)`")

HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair. JSON writes an emoji as two escapes, which YAML decodes separately."""

MOST_BYTES = 2**20
"""The size limit: nobody writes more by hand, and reading this much takes half a minute."""

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


def read(path: Path, kind: type[T]) -> T:
    """Read one YAML file into the struct `kind`; raise SpecError with the place and a suggestion."""
    return decode(load(path), kind, str(path))


def load(path: Path) -> dict[str, Any]:
    """Read one YAML mapping of plain values."""
    try:
        value = _reader().load(files.read_text(path, MOST_BYTES))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not UTF-8 text (byte {error.start}).") from error
    except MarkedYAMLError as error:
        problem = _problem(error)
        raise SpecError(f"{path}{_line(error)}: {problem}{REMEDIES.get(problem, '')}.") from error
    except RecursionError as error:
        raise SpecError(f"{path}: is nested too deeply.") from error
    except (YAMLError, ValueError) as error:
        raise SpecError(f"{path}: {str(error).splitlines()[0]}.") from error
    if not isinstance(value, dict):
        raise SpecError(f"{path}: expected a mapping of keys to values, found {_noun(value)}.")
    return value


def decode(value: object, kind: type[T], where: str) -> T:
    """Convert plain values into the struct `kind`, refusing unknown keys, wrong types, and NaN and infinity."""
    place = PlaceInFile(where)
    _refuse_unknown_keys(value, kind, place, kind)
    _refuse_unmeant(value, place)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        text = MISSING.sub(r"the key '\1' is missing", TYPE.sub(_in_words, text))
        raise SpecError(f"{place.under(path.rstrip('`'))}: {text[0].lower()}{text[1:]}.") from error


class PlaceInFile(NamedTuple):
    """A place in a file: `sweep.yaml: axes.model`."""

    file: str
    path: str = ""

    def __str__(self) -> str:
        """Return it for a message."""
        return f"{self.file}: {self.path.lstrip('.')}" if self.path else self.file

    def under(self, key: str) -> PlaceInFile:
        """Return the place of `.key` or `[number]` in this one."""
        return PlaceInFile(self.file, self.path + key)


def _in_words(types: re.Match[str]) -> str:
    """Return msgspec's names of types as words, such as "a whole number or text"; anything else as it is."""
    names = types[1].split(" | ")
    return " or ".join(NOUNS[name] for name in names) if NOUNS.keys() >= set(names) else types[0]


class WithoutAliases(Composer):
    """Refuses aliases (`*name`), because ten lines of them can expand to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next node, unless it is an alias."""
        if self.parser.check_event(AliasEvent):
            alias = self.parser.peek_event()
            text = f"found alias {alias.anchor!r}, which is not supported: write the value out"
            raise ComposerError(None, None, text, alias.start_mark)
        return super().compose_node(parent, index)


def _reader() -> YAML:
    reader = YAML(typ="safe", pure=True)
    reader.Composer = WithoutAliases
    return reader


def _refuse_unknown_keys(value: object, kind: object, where: PlaceInFile, root: object) -> None:
    if not isinstance(value, dict) or not (
        isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for key, inner in value.items():
        if key not in fields:
            place = next((place for name, place in _places(root) if name == key), None)
            belongs = f" It belongs under {place!r}." if place else " It belongs at the top level."
            near = did_you_mean(str(key), fields) if place is None else belongs
            raise SpecError(f"{where}: unknown key {key!r}.{near}")
        _refuse_unknown_keys(inner, fields[key], where.under(f".{key}"), root)


def _places(kind: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield every key of a struct and of those in it, with the key that it stands under; empty at the top level."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield field.encode_name, place
            yield from _places(field.type, f"{place}.{field.encode_name}".lstrip("."))


def _refuse_unmeant(value: object, where: PlaceInFile) -> None:
    """Refuse `.nan`, `.inf` and half a surrogate pair, which no setting accepts and JSON cannot store."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_unmeant(inner, where.under(f".{key}"))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _refuse_unmeant(inner, where.under(f"[{number}]"))
    elif isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{where}: {value} is not a finite number; give a finite one.")
    elif isinstance(value, str) and HALF.search(value):
        raise SpecError(
            f"{where}: {value!r} contains half a character; write the character itself, not its \\u escapes."
        )


def _line(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    if _problem(error) == UNCLOSED:
        mark = error.context_mark or mark  # a position at the end of the file does not help
    return f":{mark.line + 1}" if mark else ""


def _problem(error: MarkedYAMLError) -> str:
    text = (error.problem or error.context or "is not YAML").strip().splitlines()[0]
    return text.replace("\\t", "tab").rstrip(".")


def _noun(value: object) -> str:
    name = type(value).__name__
    return NOUNS.get(name, f"a {name}")
