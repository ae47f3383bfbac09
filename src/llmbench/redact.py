"""Text made safe: what must not be written is taken out, what must not act is shown as escapes."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET_NAMES = re.compile("TOKEN|KEY|SECRET|PASS|CRED|AUTH", re.IGNORECASE)
"""Environment variables named like one of these hold what nobody else may read."""

SHORTEST_SECRET = 6
"""A shorter value (`1`, `false`) is a setting; blotting it out would blot out ordinary words."""

REDACTED = "<redacted>"

SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda value: quote(value, safe=""),
    lambda value: repr(value)[1:-1],
    lambda value: json.dumps(value)[1:-1],
)
"""How links, Python and JSON write a value that is not plain."""

PATTERNS = (
    (re.compile(r"\bhf_\w{8,}"), REDACTED),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"(\w://)[^\s/]*@"), rf"\1{REDACTED}@"),
    (
        re.compile(
            r"([?&][\w-]*(?:token|key|secret|pass|cred|auth|sig)[\w-]*=)[^&\s'\"]+", re.IGNORECASE
        ),
        rf"\1{REDACTED}",
    ),
)
"""Hub tokens, headers, user info in URLs, and signed or keyed links."""


def redact(text: str) -> str:
    """Return text without secrets, and with `~` for the home folder: fit to be written to a file."""
    for secret in _secrets():
        text = text.replace(secret, REDACTED)
    for pattern, instead in PATTERNS:
        text = pattern.sub(instead, text)
    return without_home(text)


def without_home(text: str) -> str:
    """Return text with `~` for the home folder, whose name is often a person's."""
    home = os.path.expanduser("~")  # noqa: PTH111 - pathlib raises where there is no home
    return text if home in ("/", "~") else re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)


def redact_all(value: Any) -> Any:
    """Return a value of JSON with every text in it, keys too, redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(inner) for key, inner in value.items()}
    return [redact_all(inner) for inner in value] if isinstance(value, list | tuple) else value


def _secrets() -> list[str]:
    """Return secret values in every spelling, the longest first: one may contain another."""
    values = {value.strip() for name, value in os.environ.items() if SECRET_NAMES.search(name)}
    values = {value for value in values if len(value) >= SHORTEST_SECRET}
    spelled = {spell(value) for value in values for spell in SPELLINGS}
    return sorted(values | spelled, key=len, reverse=True)


ACTING = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""What acts on a terminal or hides, and may stand in JSON as it is."""


def spelled(json: str) -> str:
    r"""Return JSON that says the same with escapes (`\u202e`) where a character would act when it is shown."""
    return ACTING.sub(lambda match: f"\\u{ord(match[0]):04x}", json)


def shown(text: str) -> str:
    r"""Return text in which nothing can move a cursor, break a line or turn the reading direction.

    Such characters become escapes (`\n`, `\x1b`, `\u202e`). What a format itself takes for markup is
    for the report of that format to escape.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
