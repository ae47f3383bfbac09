"""Text made safe: secrets are removed, and control characters are shown as escapes."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Any

from llmbench.redact.names import is_secret, is_setting, kind
from llmbench.redact.shapes import REDACTED, without_shapes
from llmbench.redact.values import without_values

if TYPE_CHECKING:
    from collections.abc import Sequence


def redact(text: str) -> str:
    """Return text without secrets and with `~` for the home folder, for writing to a file."""
    return without_home(without_secrets(text))


def without_secrets(text: str) -> str:
    """Return text without the environment's secrets, and without values that look or are named like secrets."""
    return without_shapes(without_values(text))


def command_line(arguments: Sequence[str]) -> str:
    """Return a command line quoted for a shell, without secrets, for writing to a file."""
    words: list[str] = []
    for before, word in zip(("", *arguments), arguments, strict=False):
        beside = before.startswith("-") and "=" not in before and not word.startswith("-")
        sure = kind(before) if beside else ""
        clean = REDACTED if sure and not is_setting(word, sure) else redact(word)
        words.append(clean if re.fullmatch(r"[\w@%+=:,./~<>-]+", clean) else shlex.quote(clean))
    return " ".join(words)


def without_home(text: str) -> str:
    """Return text with `~` for the home folder, whose name often is a person's."""
    home = os.path.expanduser("~")  # noqa: PTH111 - pathlib raises where there is no home
    return text if home in ("/", "~") else re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)


def redact_all(value: Any) -> Any:
    """Return a JSON value with all its texts, including keys, redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            redact_all(key): REDACTED
            if isinstance(key, str) and isinstance(inner, str) and is_secret(key, inner)
            else redact_all(inner)
            for key, inner in value.items()
        }
    return [redact_all(inner) for inner in value] if isinstance(value, list | tuple) else value


ACTING = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Characters that act on a terminal or hide text, but may be unescaped in JSON."""


def spelled(json: str) -> str:
    r"""Return equal JSON with escapes (`\u202e`) for characters that would act when shown."""
    return ACTING.sub(lambda match: f"\\u{ord(match[0]):04x}", json)


def shown(text: str) -> str:
    r"""Return text that cannot move a cursor, break a line or change the reading direction.

    Such characters become escapes (`\n`, `\x1b`, `\u202e`). Markup of a format is escaped by the report of that
    format.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
