"""Removal of secrets recognised by their form or by a name next to them, from any text.

Every pattern takes linear time on any text, because repeats are bounded or possessive.
"""

from __future__ import annotations

import re
from functools import cache

from llmbench.redact.names import is_mixed, is_secret, is_setting, kind

REDACTED = "<redacted>"

ISSUED = dict(
    (
        *((f"gh{letter}_", r"[A-Za-z0-9]{4,}+") for letter in "pousr"),
        *((f"xox{letter}-", r"[\w-]{4,}+") for letter in "abceoprs"),
        *(
            (f"{four}", r"[A-Z0-9]{12,}+")
            for four in ["AKIA", "ASIA", "AROA", "AIDA", "ABIA", "ACCA", "AGPA", "ANPA"]
        ),
        *(
            (f"gl{kind}-", r"[\w.-]{8,}+")
            for kind in [
                "pat",
                "dt",
                "rt",
                "cbt",
                "ptt",
                "ft",
                "imt",
                "agent",
                "oas",
                "soat",
                "ffct",
            ]
        ),
        ("github_pat_", r"\w{4,}+"),
        ("xapp-", r"[\w-]{8,}+"),
        ("sk-proj-", r"[\w-]{4,}+"),
        ("sk-ant-", r"[\w-]{4,}+"),
        ("sk-", r"(?=[\w-]{0,64}\d)[\w-]{12,}+"),
        *(
            (f"{two}_{mode}_", r"\w{8,}+")
            for two in ("sk", "pk", "rk")
            for mode in ("live", "test")
        ),
        ("AIza", r"[\w-]{20,}+"),
        ("ya29.", r"[\w-]{12,}+"),
        ("GOCSPX-", r"[\w-]{8,}+"),
        ("hf_", r"(?=[a-z]{0,64}[A-Z0-9])[A-Za-z0-9]{8,}+"),
        ("api_org_", r"[A-Za-z0-9]{8,}+"),
        ("nvapi-", r"[\w-]{8,}+"),
        ("npm_", r"(?=[a-z]{0,64}[A-Z0-9])[A-Za-z0-9]{20,}+"),
        ("pypi-", r"(?=[a-z-]{0,64}[A-Z0-9])[\w-]{16,}+"),
        ("gsk_", r"\w{16,}+"),
        ("xai-", r"(?=[\w-]{0,64}\d)[\w-]{16,}+"),
        ("pplx-", r"[\w-]{16,}+"),
        ("r8_", r"[A-Za-z0-9]{20,}+"),
        ("dckr_pat_", r"[\w-]{8,}+"),
        ("dckr_oat_", r"[\w-]{8,}+"),
        ("rpa_", r"(?=[a-z]{0,64}[A-Z0-9])[A-Za-z0-9]{24,}+"),
        ("tgp_v1_", r"[\w-]{16,}+"),
        ("pcsk_", r"\w{16,}+"),
        ("tvly-", r"[\w-]{16,}+"),
        ("jina_", r"(?=[a-z]{0,64}[A-Z0-9])[\w-]{24,}+"),
        ("lsv2_", r"[ps][tk]_\w{16,}+"),
        ("tskey-", r"[\w-]{16,}+"),
        ("NRAK-", r"[A-Z0-9]{16,}+"),
        ("ABSK", r"[A-Za-z0-9+/=]{40,}+"),
        ("sb_secret_", r"[\w-]{12,}+"),
        ("ATCTT3", r"[\w=-]{12,}+"),
        ("pul-", r"[0-9a-f]{40}"),
        ("dop_v1_", r"\w{8,}+"),
        ("dapi", r"[0-9a-f]{32}"),
        ("shpat_", r"\w{8,}+"),
        ("whsec_", r"[\w+/=-]{8,}+"),
        ("hvs.", r"[\w-]{12,}+"),
        ("glsa_", r"\w{12,}+"),
        ("SG.", r"[\w-]{12,}+\.[\w-]{12,}+"),
        ("ATATT3", r"[\w=-]{12,}+"),
        ("lin_api_", r"\w{12,}+"),
        ("AGE-SECRET-KEY-", r"\w{8,}+"),
        ("eyJ", r"[\w-]{6,}+\.[\w.-]{4,}+"),
        ("hooks.slack.com/", r"[^\s\"'<>\\]{4,}+"),
        ("discord.com/api/webhooks/", r"[^\s\"'<>\\]{4,}+"),
        ("discordapp.com/api/webhooks/", r"[^\s\"'<>\\]{4,}+"),
        ("webhook.office.com/", r"[^\s\"'<>\\]{4,}+"),
        ("api.telegram.org/bot", r"[^\s\"'<>\\/]{4,}+"),
    )
)
"""The prefix and the rest of secrets issued by known services."""

FIGURES = b"0123456789.,-| \n"
"""What tables mostly hold: without it a text is an eighth as long, and looking for 80 words in it takes an eighth."""


def _words(text: str) -> bytes:
    """Return text without its figures; a word that the text holds is in it, less the word's own figures."""
    return text.encode("utf-8", "surrogatepass").translate(None, FIGURES)


ISSUED_WORDS = tuple((begin, _words(begin)) for begin in ISSUED)

START = r"(?:(?<![A-Za-z0-9]{0})|(?<=\\[nrtbf]{0})|(?<=%[0-9A-Fa-f][0-9A-Fa-f]{0}))"
"""No letter or digit may precede it, except that of an escape."""


@cache
def _shape(begin: str) -> re.Pattern[str]:
    """Return the pattern of one issuer, compiled when first needed."""
    escaped = re.escape(begin)
    return re.compile(escaped + START.replace("{0}", escaped) + ISSUED[begin])


SCHEME = re.compile(
    r"(?:\b|(?<=\\[nrt]))((?i:bearer|basic))((?:\s|%20|\+){1,8})(?=\S[\w.~+/-]{0,400}[A-Z0-9=])[\w.~+/-]{8,}+={0,2}+(?!\w)"
)
"""The value of a header; `basic functionality` does not match."""

STEMS = (
    "pass", "pwd", "secret", "token", "key", "auth", "cred", "cookie", "webhook", "bearer", "jwt", "private", "sig",
    "licen", "conn", "sess", "dsn", "sas", "otp", "pat", "pem", "salt", "_pin", "pw", "phrase", "mnemonic", "code",
    "srf", "hook",
)  # fmt: skip
"""Every secret name contains one of these; searching for them first takes a tenth of the time."""

LONGEST_NAME = 80
NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

QUOTED = (
    r"(?P<quote>(?P<escaped>\\++)?[\"'])"
    r"(?P<in>(?(escaped)(?:(?!(?<!\\)(?P=quote))[^\n])|(?:(?!(?P=quote))(?:\\[^\n]|[^\\\n]))){0,8192}+)"
)
PLAIN = r"(?P<plain>(?:[^\s\"'\\;&<>]|\\(?![nrt\"'\\])){1,8192}+)"
PAIR = re.compile(
    r"(?P<flag>--?)?(?P<name>[\w.][\w.-]{0,79}+)(?P<between>"
    r"\\*[\"']?\]?[ \t]{0,8}(?:=>|:=|==?|:|%3[DdAa]|\bis\b)[ \t]{0,8}(?:[bru](?=\\*[\"']))?"
    r"|\\*[\"'][ \t]{0,4},[ \t]{0,4}[bru]?(?=\\*[\"'])"
    r"|[ \t]{1,4}(?=\\*[\"']|[^\s\"'-]{3}))"
    r"(?:[\w.]{0,40}[(\[]{1,2}[bru]?(?=\\*[\"']))?"
    rf"(?:{QUOTED}|{PLAIN})"
)
"""A name and its value: `a=b`, `'a': 'b'`, `a => b`, `--a b`, `('--a', 'b')`, `a is b`, `a 'b'`, `a b`."""

HEADERS = re.compile(r"(?:proxy-)?authorization|(?:set-)?cookie2?", re.IGNORECASE)
HEADER_VALUE = re.compile(
    r"(?P<scheme>[A-Za-z]+[ \t]+(?=\S))?(?:[^\n\"'\\]|(?<==)\\*\"[^\"\n\\]*\\*\")*+"
)
"""Up to the end of the line, or of the quotes around the header."""

ADDRESS = re.compile(r"(?<![^\"'])[\"']?\w[\w+.-]{0,40}:/{1,3}+[^\s\"<>]++|\w\w:/{1,3}+[^\s\"<>]++")
"""Also with one slash, because normalising it as a path removes the other."""
PORT = re.compile(r"\d{1,5}(?:[/?#,]|$)")
LOGIN = re.compile(
    r"(?:(?<![^\s\"'=(,])|(?<=\\[nrt]))[\w.+-]{1,64}:[^\s\"'<>:]{3,256}@(?=(?:[\w-]{1,63}\.)+[A-Za-z]|localhost\b|\d+\.\d+\.\d+)"
)
"""`user:password@host` without a scheme."""
QUERY = re.compile(r"([?&#;](?:[\w-]|%5[BDbd]){1,80}=)([^&#\s'\"\\<>]++)")

NAME_AND_VALUE = re.compile(
    r"\bname[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?P<name>[\w.-]{1,80})[\"']?[,;]?\s{1,40}"
    r"[\"']?value[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?P<value>[^\s\"',}]{1,4096})",
    re.IGNORECASE,
)
"""How containers list an environment: `{"name": "DB_PASSWORD", "value": "..."}`, in YAML on two lines."""
ELEMENT = re.compile(r"<(?P<name>[\w.-]{1,80})>(?P<value>[^<\n]{1,4096})</(?P=name)>")
"""An element of XML."""
LOGIN_OPTION = re.compile(
    r"(?<=\s)(?P<option>-u\s{1,4}|--user[ =])(?P<user>[\w.@-]{1,64}:)[^\s\"']{1,4096}"
)
"""`curl -u user:password`."""

PEM_BEGIN, PEM_END, PEM_DASHES = "-----BEGIN ", "-----END ", "-----"
PEM_LABEL = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}(?:KEY|PGP MESSAGE)[A-Z0-9 ]{0,20}(?:-----)?")
PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/=\s]|\\+[nr])*+")
LONGEST_PEM = 20_000


def without_shapes(text: str) -> str:
    """Return text without secrets recognised by their form or by a name next to them."""
    if PEM_BEGIN in text:
        text = _without_pem(text)
    if ":/" in text and "@" in text:
        text = ADDRESS.sub(lambda match: _address(match[0]), text)
    if "@" in text and ":" in text:
        text = "\n".join(map(_without_logins, text.split("\n")))
    words = _words(text)
    for begin, word in ISSUED_WORDS:
        if word in words and begin in text:
            text = _shape(begin).sub(REDACTED, text)
    if "=" in text:
        text = QUERY.sub(_query, text)
    text = _without_pairs(_without_listed(text))
    if any(word in text for word in ("earer", "asic", "EARER", "ASIC")):
        text = SCHEME.sub(rf"\1\2{REDACTED}", text)
    return text


def _without_listed(text: str) -> str:
    """Return text without values that follow the name of a secret in a list, in XML, or as curl's login."""
    if "value" in text and "name" in text:
        text = NAME_AND_VALUE.sub(_named, text)
    if "</" in text:
        text = ELEMENT.sub(_named, text)
    if "-u " in text or "--user" in text:
        text = LOGIN_OPTION.sub(rf"\g<option>\g<user>{REDACTED}", text)
    return text


def _without_logins(line: str) -> str:
    return LOGIN.sub(f"{REDACTED}@", line) if "@" in line and ":" in line else line


def _without_pem(text: str) -> str:
    """Return text without private keys: their labels, their bodies, and truncated bodies."""
    parts, done = [], 0
    while (begin := text.find(PEM_BEGIN, done)) >= 0:
        label = PEM_LABEL.match(text, begin)
        if label is None:
            parts.append(text[done : begin + len(PEM_BEGIN)])
            done = begin + len(PEM_BEGIN)
            continue
        end = text.find(PEM_END, label.end(), label.end() + LONGEST_PEM)
        if end >= 0:
            close = text.find(PEM_DASHES, end + len(PEM_END), end + 100)
            after = end + len(PEM_END) if close < 0 else close + len(PEM_DASHES)
        else:
            body = PEM_BODY.match(text, label.end())
            after = body.end() if body else label.end()
        parts += [text[done:begin], REDACTED]
        done = after
    return "".join((*parts, text[done:]))


def _address(run: str) -> str:
    """Return the addresses in a run of text without their user info, which is all up to the last possible `@`."""
    pieces = re.split(r"(?<=[,;|])(?=\w[\w+.-]{0,40}:/)", run)
    return "".join(map(_one_address, pieces))


def _one_address(address: str) -> str:
    scheme, slashes, rest = re.split(r"(:/{1,3})", address, maxsplit=1)
    quote = scheme[:1] if scheme[:1] in ("'", '"') else ""
    rest, end, beyond = rest.partition(quote) if quote else (rest, "", "")
    host = re.split(r"[/?#@]", rest, maxsplit=1)[0]
    name, colon, after = rest.partition(":")
    login = colon and not re.search(r"[/?#@]", name) and not PORT.match(after)
    at = rest.rfind("@") if login else len(host) if rest[len(host) :].startswith("@") else -1
    if at > 0:
        rest = REDACTED + rest[at:]
    return f"{scheme}{slashes}{rest}{end}{beyond}"


def _named(match: re.Match[str]) -> str:
    """Return a name and its value without the value, if the name is one of a secret."""
    if not kind(match["name"]) or not is_secret(match["name"], match["value"]):
        return match[0]
    start, end = (place - match.start() for place in match.span("value"))
    return f"{match[0][:start]}{REDACTED}{match[0][end:]}"


def _query(match: re.Match[str]) -> str:
    named, value = match.groups()
    secret = kind(named[1:-1].replace("%5B", "_").replace("%5D", "_"))
    return f"{named}{REDACTED}" if secret and not is_setting(value, secret) else match[0]


def _without_pairs(text: str) -> str:
    """Return text without the values of secret names."""
    lower = text.lower() if "\u0130" not in text else text.replace("\u0130", "I").lower()
    parts, done, read = [], 0, 0
    for place in _stems(lower):
        if place < read:
            continue
        before = text[max(read, place - LONGEST_NAME) : place]
        start = place - len(before) + len(before.rstrip(NAME_CHARACTERS))
        if text[start - 1 : start] == "\\" and text[start] in "nrt":
            start += 1  # the letter of an escape
        pair = PAIR.match(text, start)
        if pair is None:
            read = (
                start
                + len(text[start : start + LONGEST_NAME])
                - len(text[start : start + LONGEST_NAME].lstrip(NAME_CHARACTERS))
            )
            continue
        read = pair.end("name")
        span = _secret_of(pair, text)
        if span is not None:
            parts += [text[done : span[0]], REDACTED]
            done = read = span[1]
    return "".join((*parts, text[done:])) if parts else text


def _stems(lower: str) -> list[int]:
    """Return the positions of possible names, in order."""
    places: list[int] = []
    words = _words(lower)
    for stem in STEMS:
        place = lower.find(stem) if stem.encode() in words else -1
        while place >= 0:
            places.append(place)
            place = lower.find(stem, place + len(stem))
    return sorted(places)


def _secret_of(pair: re.Match[str], text: str) -> tuple[int, int] | None:
    """Return the span of the secret in a pair, if there is one."""
    name, quoted = pair["name"].strip(".-"), pair["quote"] is not None
    sure = kind(name)
    if not sure:
        return None
    if HEADERS.fullmatch(name) and not quoted and ":" in pair["between"]:
        header = HEADER_VALUE.match(text, pair.start("plain"))
        assert header is not None
        start = header.end("scheme") if header["scheme"] else header.start()
        value = text[start : header.end()].rstrip()
        return None if is_setting(value, sure) else (start, start + len(value))
    group = "in" if quoted else "plain"
    value = pair[group] if quoted else pair[group].rstrip(")]},.:")
    between = pair["between"].strip()
    if value.lower() == "value":
        return None  # the word of a list of names and values
    prose = not between and not pair["flag"] and not quoted
    if prose and not (sure == "certain" and is_mixed(value) and any(map(str.isdigit, value))):
        return None
    if (between == "is" and not is_mixed(value)) or not is_secret(name, value):
        return None
    return pair.start(group), pair.start(group) + len(value)
