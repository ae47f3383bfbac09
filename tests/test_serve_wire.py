"""What came back of a request: any dialect, split anywhere, and every way of going wrong."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.serve import wire
from llmbench.serve.stream import Piece, RawAnswer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}}


def completion(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish, **more}]}


def chat(content: str | None, finish: str | None = None, role: str | None = None) -> dict[str, Any]:
    delta = {
        key: value for key, value in (("content", content), ("role", role)) if value is not None
    }
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def event(content: object, end: bytes = b"\n\n") -> bytes:
    return (
        b"data: " + (content if isinstance(content, bytes) else json.dumps(content).encode()) + end
    )


def chunked(*parts: bytes) -> bytes:
    return HEAD + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


DONE = event(b"[DONE]")
COUNT = event({"choices": [], "usage": USAGE})
VLLM = [
    event(completion(" a")),
    event(completion(" b")),
    event(completion(" c", "length")),
    COUNT,
    DONE,
]
DIALECTS = {
    "vllm": VLLM,
    "an empty end": [
        *(event(completion(word)) for word in (" a", " b", " c")), event(completion("", "length")), COUNT, DONE,
    ],
    "chat": [
        event(chat("", role="assistant")), *(event(chat(word)) for word in (" a", " b", " c")),
        event(chat(None, "length")), COUNT, DONE,
    ],
    "comments and CRLF": [
        b": ping\r\n\r\n", *(event(completion(word), b"\r\n\r\n") for word in (" a", " b", " c")), COUNT, DONE,
    ],
    "other fields": [b"event: x\nid: 1\n" + part for part in VLLM],
    "text that says nothing": [
        event(completion(" a")), event(completion("")), event(completion("", "length")), COUNT, DONE,
    ],
    "ids": [*(event(completion("x", token_ids=[7])) for _ in range(3)), COUNT, DONE],
    "llama.cpp": [
        *(event({"content": word, "stop": False}) for word in (" a", " b", " c")),
        event({"content": "", "stop": True, "tokens_predicted": 3, "tokens_evaluated": 5}),
    ],
}  # fmt: skip


def answered(data: bytes, cuts: tuple[int, ...] = (), trouble: str = "") -> wire.ServedReply:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in pairwise(edges) if a < b]
    pieces = [Piece(part, 1000 + number, 2000 + number) for number, part in enumerate(parts)]
    return wire.reply(RawAnswer(1, 10, 20, pieces, 9000, trouble))


@pytest.mark.parametrize("dialect", DIALECTS)
@given(cuts=st.lists(st.integers(0, 4000), max_size=12).map(tuple))
def test_however_the_bytes_are_split_the_tokens_are_the_same(
    dialect: str, cuts: tuple[int, ...]
) -> None:
    data = chunked(*DIALECTS[dialect])

    reply = answered(data, cuts)

    assert (reply.trouble, reply.tokens, reply.prompt_tokens) == ("", 3, 5)
    assert len(reply.kernel_ns) == 3
    assert reply.kernel_ns == sorted(reply.kernel_ns)
    assert [late - early for early, late in zip(reply.kernel_ns, reply.user_ns, strict=True)] == [
        1000
    ] * 3


def test_a_token_has_the_time_of_the_piece_that_completed_its_event() -> None:
    data = chunked(*VLLM)
    second = data.index(b'" b"')

    reply = answered(data, (second, second + 1))

    assert reply.kernel_ns == [1000, 1002, 1002]
    assert reply.merged == 1


def test_an_event_may_hold_several_tokens() -> None:
    reply = answered(
        chunked(event(completion(" a b")), event(completion(" c", "length")), COUNT, DONE)
    )

    assert (len(reply.kernel_ns), reply.tokens) == (2, 3)


def test_the_ids_are_taken_where_they_are_given() -> None:
    assert answered(chunked(*DIALECTS["ids"])).token_ids == [7, 7, 7]


PLAIN = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PLAIN % (b"500 Internal Server Error", b"application/json", 9, b'{"a": 1}\n'), "HTTP 500"),
        (PLAIN % (b"429 Too Many", b"text/plain", 4, b"slow"), "HTTP 429: slow"),
        (PLAIN % (b"200 OK", b"text/html", 6, b"<html>"), "not a stream of events but text/html"),
        (chunked(DONE), "no token"),
        (chunked(event({"error": {"message": "died"}}), DONE), "error: {'message': 'died'}"),
        (chunked(event(b"{not json"), DONE), "unreadable"),
        (chunked(event(b"[1, 2]"), DONE), "unreadable"),
        (HEAD + b"zz\r\nhello\r\n", "unreadable"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200", "has no head"),
        (b"\x00" * 30, "has no head"),
    ],
)
def test_what_is_no_answer_has_its_trouble(data: bytes, words: str) -> None:
    assert words in answered(data).trouble


def test_what_was_cut_keeps_its_times_and_its_trouble() -> None:
    whole = chunked(*VLLM)

    reply = answered(whole[: whole.index(b'" c"')], trouble="cut")

    assert (reply.trouble, len(reply.kernel_ns), reply.tokens) == ("cut", 2, None)


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=4).map(tuple))
def test_nothing_that_comes_back_raises(data: bytes, cuts: tuple[int, ...]) -> None:
    for begin in (b"", HEAD, HEAD + b"5\r\n"):
        assert answered(begin + data, cuts).trouble
