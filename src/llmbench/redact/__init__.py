"""Text made safe: what must not be written is taken out, what must not act is shown as escapes."""

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
    """Return text without secrets, and with `~` for the home folder: fit to be written to a file."""
    return without_home(without_secrets(text))


def without_secrets(text: str) -> str:
    """Return text without the secrets of the environment, and without what looks or is named like one."""
    return without_shapes(without_values(text))


def command_line(arguments: Sequence[str]) -> str:
    """Return a command as a file may tell it: quoted as a shell needs it, without secrets."""
    words: list[str] = []
    for before, word in zip(("", *arguments), arguments, strict=False):
        beside = before.startswith("-") and "=" not in before and not word.startswith("-")
        sure = kind(before) if beside else ""
        clean = REDACTED if sure and not is_setting(word, sure) else redact(word)
        words.append(clean if re.fullmatch(r"[\w@%+=:,./~<>-]+", clean) else shlex.quote(clean))
    return " ".join(words)


def without_home(text: str) -> str:
    """Return text with `~` for the home folder, whose name is often a person's."""
    home = os.path.expanduser("~")  # noqa: PTH111 - pathlib raises where there is no home
    return text if home in ("/", "~") else re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)


def redact_all(value: Any) -> Any:
    """Return a value of JSON with every text in it, keys too, redacted."""
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
