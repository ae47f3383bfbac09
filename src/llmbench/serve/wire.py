"""What came back of one request: HTTP with or without chunks, server-sent events, and the tokens in them.

Three dialects are read: OpenAI's completions, its chat, and the native one of llama.cpp. Tokens are counted by the
server's own count of its answer, and placed in time by the events that carry them; text is never counted again.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from llmbench.serve.stream import RawAnswer

EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
LONGEST_QUOTE = 120
OK = 200
REFUSED = "HTTP 4"
"""In a reply's trouble: the server takes no such request."""


class Delta(msgspec.Struct):
    """New text of a chat."""

    content: str | None = None
    reasoning_content: str | None = None
    role: str | None = None


class Choice(msgspec.Struct):
    """One piece of an answer."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class CachedPrompt(msgspec.Struct):
    """How many prompt tokens came from a cache."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """The server's own count of tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: CachedPrompt | None = None


class Event(msgspec.Struct):
    """One event, of any dialect; `content`, `stop` and the counts after it are llama.cpp's own."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: object = None
    content: str | None = None
    stop: bool = False
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    tokens_cached: int | None = None


class ServedReply(NamedTuple):
    """One request as it went; times are monotonic nanoseconds by the client's clock, but `kernel_ns`.

    Attributes:
        number: of the request.
        due_ns: when it was to be sent.
        sent_ns: when it was.
        ended_ns: when its last byte had been read.
        kernel_ns: for each event with tokens, the kernel's realtime stamp of the piece that completed it; 0 = none.
        user_ns: the client's clock after the read of that piece.
        merged: how many of those events came in one read with the one before.
        tokens: new tokens by the server's count; None if it gave none.
        prompt_tokens: prompt tokens by the server's count.
        cached_tokens: prompt tokens that it took from a cache.
        token_ids: the new ids, where the server gives them.
        trouble: why it counts as failed; empty if it was answered in full.

    """

    number: int
    due_ns: int
    sent_ns: int
    ended_ns: int
    kernel_ns: list[int]
    user_ns: list[int]
    merged: int
    tokens: int | None
    prompt_tokens: int | None
    cached_tokens: int | None
    token_ids: list[int]
    trouble: str


class Malformed(Exception):  # noqa: N818 - reads as the sentence it is
    """An answer that is not what it says it is."""


DECODE = msgspec.json.Decoder(Event).decode


def reply(answer: RawAnswer) -> ServedReply:
    """Return one request as it went; whatever came back, nothing is raised."""
    events: list[tuple[Event, int]] = []
    trouble = answer.trouble
    if answer.pieces:
        try:
            events = _events(answer)
        except (Malformed, msgspec.DecodeError, ValueError) as error:
            trouble = trouble or f"unreadable: {error}"[:LONGEST_QUOTE]
    trouble = trouble or _error(events)
    told = [(event, place) for event, place in events if _has_tokens(event)]
    usage = _usage(events)
    if usage.completion_tokens is not None and len(told) == usage.completion_tokens + 1:
        told = told[:-1] if _is_empty(told[-1][0]) else told
    if not trouble and not told:
        trouble = "no token"
    places = [place for _, place in told]
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    return ServedReply(
        number=answer.number,
        due_ns=answer.due_ns,
        sent_ns=answer.sent_ns,
        ended_ns=answer.ended_ns,
        kernel_ns=[answer.pieces[place].kernel_ns for place in places],
        user_ns=[answer.pieces[place].user_ns for place in places],
        merged=len(places) - len(set(places)),
        tokens=usage.completion_tokens,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=cached,
        token_ids=[
            token for event, _ in told for each in event.choices for token in each.token_ids or ()
        ],
        trouble=trouble,
    )


def _events(answer: RawAnswer) -> list[tuple[Event, int]]:
    """Return every event with the index of the piece that completed it; raise Malformed for what is no answer."""
    pieces = [piece.data for piece in answer.pieces]
    whole = b"".join(pieces)
    head, found, _ = whole.partition(b"\r\n\r\n")
    if not found:
        raise Malformed("the answer has no head")
    status, kind, chunked = _head(head)
    ends = list(accumulate(map(len, pieces)))
    if chunked:
        body, places = _dechunked(whole, len(head) + 4)
    else:
        body, places = whole[len(head) + 4 :], []
    if status != OK:
        raise Malformed(f"HTTP {status}: {_quote(body)}")
    if "text/event-stream" not in kind:
        raise Malformed(f"not a stream of events but {kind or 'unnamed'}: {_quote(body)}")
    shift = len(head) + 4
    found_events = []
    begin = 0
    for mark in EVENT_END.finditer(body):
        text = _data(body[begin : mark.start()])
        begin = mark.end()
        if not text or text == b"[DONE]":
            continue
        raw = _raw_end(places, mark.end()) if chunked else shift + mark.end()
        found_events.append((DECODE(text), bisect_left(ends, raw)))
    return found_events


def _head(head: bytes) -> tuple[int, str, bool]:
    """Return an answer's status, its kind of content, and whether it comes in chunks."""
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise Malformed(f"not HTTP: {_quote(first)}")
    fields = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip().lower()
    kind = fields.get(b"content-type", b"").decode("ascii", "replace")
    return int(words[1]), kind, b"chunked" in fields.get(b"transfer-encoding", b"")


def _dechunked(whole: bytes, start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the body without its chunks, and for each chunk where it ends in the body and in the answer."""
    parts: list[bytes] = []
    places: list[tuple[int, int]] = []
    length = 0
    while True:
        line_end = whole.find(b"\r\n", start)
        if line_end < 0:
            break  # cut; what came before it counts for its times
        size = int(whole[start:line_end].partition(b";")[0] or b"x", 16)
        if size == 0:
            break
        begin = line_end + 2
        parts.append(whole[begin : begin + size])
        length += len(parts[-1])
        places.append((length, begin + len(parts[-1])))
        start = begin + size + 2
    return b"".join(parts), places


def _raw_end(places: list[tuple[int, int]], end: int) -> int:
    """Return where in the answer the byte before `end` of the body lies, counted as an end."""
    body_end, raw_end = places[bisect_left(places, (end, 0))]
    return raw_end - (body_end - end)


def _data(lines: bytes) -> bytes:
    """Return the data of one event, whose other fields and comments are left out."""
    if lines.startswith(b"data: ") and b"\n" not in lines and b"\r" not in lines:
        return lines[6:]
    found = []
    for line in lines.splitlines():
        name, colon, value = line.partition(b":")
        if colon and name == b"data":
            found.append(value.removeprefix(b" "))
    return b"\n".join(found)


def _error(events: list[tuple[Event, int]]) -> str:
    """Return the error that an event holds; empty if none does."""
    errors = [event.error for event, _ in events if event.error]
    return f"error: {str(errors[0])[:LONGEST_QUOTE]}" if errors else ""


def _has_tokens(event: Event) -> bool:
    """Return whether an event may carry tokens: not a role alone, not a count alone, not an end alone."""
    if event.content is not None:
        return not event.stop or bool(event.content)
    if not event.choices:
        return False
    choice = event.choices[0]
    if choice.token_ids:
        return True
    if choice.delta is not None:
        text = choice.delta.content or choice.delta.reasoning_content
        return bool(text) or (choice.delta.role is None and choice.finish_reason is None)
    return choice.text is not None


def _is_empty(event: Event) -> bool:
    """Return whether an event has no text."""
    choice = event.choices[0] if event.choices else Choice()
    return not (choice.text or (choice.delta and choice.delta.content) or event.content)


def _usage(events: list[tuple[Event, int]]) -> Usage:
    """Return the last count of tokens."""
    for event, _ in reversed(events):
        if event.usage is not None:
            return event.usage
        if event.tokens_predicted is not None:
            return Usage(event.tokens_evaluated, event.tokens_predicted)
    return Usage()


def _quote(text: bytes) -> str:
    return " ".join(text[:LONGEST_QUOTE].decode("utf-8", "replace").split())
