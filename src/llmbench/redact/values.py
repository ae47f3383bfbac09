"""Removal of the secrets in this process's environment from text, in every spelling, whole or cut."""

from __future__ import annotations

import base64
import json
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, quote_plus, unquote

from llmbench.redact.names import is_doubtless, is_mixed, is_setting, kind
from llmbench.redact.shapes import REDACTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHORTEST = 6
"""A shorter value is removed only if it is a whole line or quotation; elsewhere it may be part of a word."""
SHORTEST_ALONE = 3
SHORTEST_PIECE = 8
LONGEST_CUT = 12
"""A beginning or end of a secret of this length is also removed; for a shorter secret, half of it."""

SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda value: quote(value, safe=""),
    quote,
    quote_plus,
    lambda value: quote(value, safe="").lower(),
    lambda value: repr(value)[1:-1],
    lambda value: repr(f"{value}'\"")[1:-4],
    lambda value: repr(value.encode(errors="surrogateescape"))[2:-1],
    lambda value: json.dumps(value)[1:-1],
    lambda value: json.dumps(json.dumps(value))[3:-3],
    lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    lambda value: value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;"),
    lambda value: " ".join(value.split()),
    lambda value: value.replace("'", "'\"'\"'"),
    lambda value: _base64(value).rstrip("="),
    lambda value: _base64(value).translate(str.maketrans("+/", "-_")).rstrip("="),
)
"""How links, Python, JSON, HTML, shells and headers encode a value."""

LOGIN = re.compile(r"\w://([^\s/@:]*):(.+)@[^@]*", re.DOTALL)
"""A variable of any name may hold an address with a password."""


class Known(NamedTuple):
    """The secrets of an environment.

    Attributes:
        anywhere: spellings that are removed everywhere, the longest first.
        words: those that are ordinary words, removed as whole words.
        quoted, lines: short ones, removed if they are a whole quotation or line.
        beginnings, ends: the first characters of each long one, and the last ones in reverse, with the secrets that
            have them.

    """

    anywhere: tuple[str, ...]
    words: re.Pattern[str] | None
    quoted: re.Pattern[str] | None
    lines: re.Pattern[str] | None
    beginnings: tuple[tuple[str, tuple[str, ...]], ...]
    ends: tuple[tuple[str, tuple[str, ...]], ...]


def without_values(text: str) -> str:
    """Return text without the values of variables with secret names."""
    known = _known(tuple(os.environ.items()))
    for secret in known.anywhere:
        text = text.replace(secret, REDACTED)
    for begin, wholes in known.beginnings:
        if begin in text:
            text = _without_beginnings(text, begin, wholes)
    for end, wholes in known.ends:
        if end[::-1] in text:
            text = _without_beginnings(text[::-1], end, wholes)[::-1].replace(
                REDACTED[::-1], REDACTED
            )
    if known.words:
        text = known.words.sub(REDACTED, text)
    if known.quoted:
        text = known.quoted.sub(REDACTED, text)
    if known.lines and "\n" in text:
        text = known.lines.sub(REDACTED, text)
    return text


def _without_beginnings(text: str, begin: str, wholes: tuple[str, ...]) -> str:
    """Return text without beginnings of these secrets, each as far as it matches one of them."""
    parts, done = [], 0
    while (place := text.find(begin, done)) >= 0:
        parts += [text[done:place], REDACTED]
        done = place + max(_in_common(whole, text[place : place + len(whole)]) for whole in wholes)
    return "".join((*parts, text[done:]))


def _in_common(one: str, other: str) -> int:
    """Return the length of the common beginning of two texts."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


@lru_cache(maxsize=4)
def _known(environment: tuple[tuple[str, str], ...]) -> Known:
    """Return the secrets of an environment, cached because it seldom changes."""
    values: set[str] = set()
    words: set[str] = set()
    short: set[str] = set()
    for name, value in environment:
        for secret, sure in _of_variable(name, value.strip()):
            if len(secret) < SHORTEST:
                short |= {secret} if len(secret) >= SHORTEST_ALONE else set()
            elif secret.isalpha() or secret.isdigit():
                (words if sure else short).add(secret)
            else:
                values.add(secret)
    spelled = {spell(value) for value in values for spell in SPELLINGS}
    anywhere = sorted(
        {value for value in values | spelled if len(value) >= SHORTEST}, key=len, reverse=True
    )
    return Known(
        anywhere=tuple(anywhere),
        words=_pattern(words, r"(?<![A-Za-z0-9])(?:", r")(?![A-Za-z0-9])"),
        quoted=_pattern(short, r"(?<=[\"'])(?:", r")(?=\\*[\"'])"),
        lines=_pattern(short, r"(?m:^)(?:", r")(?m:$)"),
        beginnings=_beginnings(anywhere),
        ends=_beginnings([secret[::-1] for secret in anywhere]),
    )


def _of_variable(name: str, value: str) -> Iterator[tuple[str, bool]]:
    """Yield the secrets of a variable, whole and in pieces, and whether its name makes them certain."""
    if login := LOGIN.search(value):
        yield login[2], True
        yield unquote(login[2]), True
    sure = kind(name)
    if not sure or name in ("PWD", "OLDPWD") or is_setting(value, sure):
        return
    yield value, is_doubtless(name)
    if value.lower().startswith("basic "):
        yield from _of_basic(value[6:])
    parted = value.rpartition("/")[2] if "://" in value else value
    for piece in re.split(r"[\s,;&\"'{}]+|(?<=\w)[=:](?=\w)", parted):
        if SHORTEST_PIECE <= len(piece) < len(value) and is_mixed(piece) and "-----" not in piece:
            yield piece, False


def _of_basic(encoded: str) -> Iterator[tuple[str, bool]]:
    try:
        login = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return
    yield login, True
    yield login.partition(":")[2], True


def _beginnings(secrets: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the first characters of secrets that are long and without spaces, unless they are a plain word."""
    by_beginning: dict[str, list[str]] = {}
    for whole in secrets:
        length = min(LONGEST_CUT, max(SHORTEST_PIECE, len(whole) // 2))
        begin = whole[:length]
        if len(whole) > length and re.fullmatch(r"[\w.+/=~%-]+", whole) and is_mixed(begin):
            by_beginning.setdefault(begin, []).append(whole)
    return tuple((begin, tuple(wholes)) for begin, wholes in by_beginning.items())


def _pattern(texts: set[str], before: str, after: str) -> re.Pattern[str] | None:
    if not texts:
        return None
    return re.compile(
        before + "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) + after
    )


def _base64(value: str) -> str:
    return base64.b64encode(value.encode(errors="surrogateescape")).decode()
