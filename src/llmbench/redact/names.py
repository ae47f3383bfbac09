"""Names of secrets, and values that are settings under any name.

A name is split into words: KEY is found in `apiKey` and `DB_KEY`, but not in KEYBOARD or MONKEY.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Literal

Kind = Literal["certain", "likely", ""]
"""`certain`: every value except a setting is secret. `likely`: only a value that looks random is."""

PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
"""The words of `DB_PWD`, `apiKey`, `X-Api-Key` and `OAuth2Token`."""

CERTAIN = re.compile(
    r"passw(?:or)?d|passphrase|passcode|passkey|secret|credential|cookie|webhook|bearer|(?:^|_)jwt"
    r"|(?:api|app|access|private|account|shared|signing|encryption|master|admin|deploy|ssh|host|service|client"
    r"|storage|subscription|licen[cs]e|auth|hmac|root|vault|gpg|pgp)_?keys?(?:_|$|id)"
    r"|(?:auth|access|refresh|api|bot|id|session|csrf|xsrf|security|hub|hf|gh|github|gitlab|slack|npm|pypi|deploy"
    r"|personal|oauth|admin|root|user|service|client|job|ci|push|sas|secure|app|vault|registry)_?tokens?(?:_|$)"
    r"|conn(?:ection)?_?str(?:ing)?(?:_|$)|sess(?:ion)?_?(?:id|key)(?:_|$)|authorization"
    r"|(?:^|_)(?:\w*pwd|\w+_pass|\w{2,}pass|pat|creds?|dsn|sas|t?otp)(?:_|$)|_pin$"
    r"|(?:^|_)(?:(?:seed|recovery)_?phrase|mnemonic|(?:recovery|backup|mfa|2_?fa)_?codes?|xsrf|csrf)(?:_|$)"
    r"|(?:slack|teams|discord|incoming)_?hook|(?:enc|encrypt|cipher|fernet|openai|azure|aws|gcp)_?keys?(?:_|$)"
)
"""Patterns over a name in lower-case words joined by `_`."""

LIKELY = re.compile(
    r"(?:^|_)(?:pass|\w{2,}pw|\w+_conn(?:ection)?|\w*tokens?|\w*keys?|o?auth|sig|signature|private|licen[cs]e|pem|salt)(?:_|$)"
)

INNOCENT = re.compile(
    r"bypass|compass|trespass|surpass|(?:^|_)\w*(?:monkey|turkey|donkey|hockey|jockey|whiskey)s?(?:_|$)"
    r"|(?:^|_)(?:two|multi|one|single|n|num|each|first|second|forward|backward)_pass(?:es)?(?:_|$)"
    r"|_(?:type|method|algorithm|algo|format|length|len|count|limit|size|timeout|ttl|expiry|expires|provider|backend"
    r"|sock|socket|enabled|name|parallelism|policy|rotation|manager|helper|store|dir|dim|heads|error)$"
    r"|^(?:pad|bos|eos|unk|mask|sep|cls|image|audio|video|special|additional|num|max|min|new|n|total|stop|start)_"
    r"(?:\w+_)?tokens?(?:_ids?)?$|^(?:num_)?keys?_(?:value|states|padding|cache|layer|proj|heads)"
)
"""Names with one of those words that are not secrets: locations, counts, kinds."""

SETTING = re.compile(
    r"|[01]|true|false|yes|no|y|n|on|off|none|null|nil|undefined|auto|default|enabled?|disabled?|required|optional"
    r"|cpu|gpu|cuda(?::\d+)?|basic|bearer|digest|negotiate|token|password|key|secret|string|str|bytes|int|float|bool"
    r"|utf-?8|b?float\d+|[bf]p?\d+|u?int\d+|production|development|staging|test|debug|info|file|keyring"
    r"|\*+|\.+|<[^<>]*>|\[[\w, ]*\]|\{\}|\(\)|\$\{?\w+\}?|%\w+%",
    re.IGNORECASE,
)
"""Values that are not secret under any name, including `<redacted>`."""

NUMBER = re.compile(r"[+-]?[\d.,_]+(?:[eE][+-]?\d+)?[a-zA-Z%]{0,3}")
PATH = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[\\/][^\n]*")
ROOTS = frozenset(
    [
        "bin",
        "boot",
        "data",
        "dev",
        "etc",
        "home",
        "lib",
        "media",
        "mnt",
        "nfs",
        "opt",
        "proc",
        "root",
        "run",
        "sbin",
        "scratch",
        "srv",
        "sys",
        "tmp",
        "usr",
        "users",
        "var",
        "volumes",
        "work",
        "workspace",
    ]
)
"""First folders of absolute paths, because a base64 key may also begin with `/`."""

SOLID = re.compile(r"[\w.~+/:@!#$%^&*?-]+={0,2}")
RUN = re.compile(r"[A-Za-z0-9]{12,}")
"""`llama-2-70b-chat-hf` has none of these."""
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@lru_cache(maxsize=4096)
def kind(name: str) -> Kind:
    """Return whether a name's value is a secret."""
    words = "_".join(PART.findall(name)).lower()
    if INNOCENT.search(words):
        return ""
    if CERTAIN.search(words):
        return "certain"
    return "likely" if LIKELY.search(words) else ""


def is_doubtless(name: str) -> bool:
    """Return whether a name's value is secret even if it is a plain word: `DB_PWD`, `GH_TOKEN`."""
    if kind(name) == "likely":
        return name.isupper() and "_" in name and not name.endswith(("KEY", "KEYS", "PRIVATE"))
    return kind(name) == "certain"


def is_secret(name: str, value: str) -> bool:
    """Return whether a value with this name is a secret: a variable's value is, a word of prose is not."""
    sure = kind(name)
    if not sure or not value or is_setting(value, sure):
        return False
    if is_doubtless(name):
        return True
    if name.isupper() and "_" in name:
        return not value.replace("_", "").islower()
    if name.lower() in ("key", "keys") or "." in value:
        return False
    return looks_secret(value)


def is_setting(value: str, kind: Kind) -> bool:
    """Return whether the value of such a name is a setting or a path instead of a secret."""
    if SETTING.fullmatch(value) or is_path(value):
        return True
    return kind == "likely" and NUMBER.fullmatch(value) is not None


def is_path(value: str) -> bool:
    """Return whether text is a file path: it begins with an existing folder or one that systems have."""
    if not PATH.fullmatch(value):
        return False
    if not value.startswith("/"):
        return True
    first = value[1:].partition("/")[0]
    return first.lower() in ROOTS or os.path.isdir(f"/{first}")  # noqa: PTH112 - or fails on a long name


def looks_secret(value: str) -> bool:
    """Return whether text looks random: long, without spaces, and not a row of words, numbers or settings."""
    if len(value) < 16 or not SOLID.fullmatch(value):
        return False
    return any(map(is_mixed, RUN.findall(value))) or UUID.fullmatch(value) is not None


def is_mixed(value: str) -> bool:
    """Return whether text mixes letters with digits, or lower case with upper case after the first letter."""
    digits = any(char.isdigit() for char in value)
    letters = any(char.isalpha() for char in value)
    cases = any(char.islower() for char in value) and any(char.isupper() for char in value[1:])
    return letters and (digits or cases)
