"""Text made safe: what must not be written is taken out, what must not act is shown as escapes."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

SECRET_NAMES = re.compile("TOKEN|KEY|SECRET|PASS|CRED|AUTH", re.IGNORECASE)
"""Environment variables named like one of these hold what nobody else may read."""

SHORTEST_SECRET = 6
"""A shorter value (`1`, `false`) is a setting; blotting it out would blot out ordinary words."""

REDACTED = "<redacted>"

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
    home = os.path.expanduser("~")  # noqa: PTH111 - pathlib raises where there is no home
    return text if home in ("/", "~") else re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)


def _secrets() -> list[str]:
    """Return secret values, and how links spell them, the longest first: one may contain another."""
    values = {value.strip() for name, value in os.environ.items() if SECRET_NAMES.search(name)}
    values = {value for value in values if len(value) >= SHORTEST_SECRET}
    return sorted(values | {quote(value, safe="") for value in values}, key=len, reverse=True)


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
