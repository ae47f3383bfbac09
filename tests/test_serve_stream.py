"""The client's loop against a server that logs what it sends, and against servers that fail."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llmbench.backends.fake_server import OPTIONS
from llmbench.serve import endpoint, stream, timeline, wire
from llmbench.serve.arrivals import arrivals
from llmbench.serve.endpoint import Address
from llmbench.serve.stream import Client, now
from llmbench.spec.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER = Path(__file__).parents[1] / "src" / "llmbench" / "backends" / "fake_server" / "server.py"
LOGGED = struct.Struct("<qiq")
TOKENS = 8


@contextmanager
def serving(folder: Path, **script: Any) -> Iterator[Address]:
    """Run the fake server with a script; its log is `folder / "log"`."""
    whole = {name: v[0] if isinstance(v, tuple) else v for name, v in OPTIONS.items()}
    asked = json.dumps({**whole, **script, "seed": 1})
    command = [
        sys.executable,
        str(SERVER),
        "--port-file",
        f"{folder}/port",
        "--log",
        f"{folder}/log",
        "--script",
        asked,
    ]
    with subprocess.Popen(command) as process:
        try:
            while not (folder / "port").exists():
                assert process.poll() is None
                time.sleep(0.01)
            yield Address("127.0.0.1", int((folder / "port").read_text()))
        finally:
            process.terminate()


def written(prompt: list[int], tokens: int) -> bytes:
    return json.dumps({"prompt": prompt, "max_tokens": tokens, "stream": True}).encode()


def asking(address: Address, tokens: int = TOKENS) -> Callable[[int], bytes]:
    def request(number: int) -> bytes:
        return endpoint.request(address, written([number], tokens))

    return request


def looped(address: Address, streams: int, seconds: float, **more: Any) -> Client:
    """Keep so many streams busy for so long and return the client."""
    client = Client(address[:2], streams, asking(address), wire.reply, **more)
    client.closed_loop(
        50_000_000, lambda each, at: at if at - each.began_ns > seconds * 1e9 else None
    )
    client.offsets.append((now(), stream.offset()))
    client.parse_all()
    client.close()
    return client


def logged(folder: Path) -> dict[int, list[int]]:
    """Return when each request's tokens were sent, by its number of arrival."""
    sent = defaultdict(list)
    for number, _, at in LOGGED.iter_unpack((folder / "log").read_bytes()):
        sent[number].append(at)
    return sent


def test_the_kernels_stamps_agree_with_what_the_server_says_it_sent(tmp_path: Path) -> None:
    with serving(tmp_path, ttft_ms=30.0, itl_ms=10.0) as address:
        client = looped(address, 4, 1.0)

    requests = timeline.on_one_clock(client.answers, client.offsets)
    sent = sorted(at for times in logged(tmp_path).values() if len(times) == TOKENS for at in times)
    received = sorted(at for each in requests for at in each.token_ns)
    assert 4 <= len(requests) <= client.sent  # the last ones were on their way
    assert not [each.trouble for each in requests if each.trouble]
    late = np.array(received) - np.array(sent[: len(received)])
    assert np.median(late) < 500_000
    assert late.min() > -100_000  # not before it was sent, but for the reading of two clocks
    assert all(each.lag_ns and min(each.lag_ns) > -100_000 for each in requests)


def test_streams_do_not_march_in_step_and_go_on_from_their_answers(tmp_path: Path) -> None:
    with serving(tmp_path, ttft_ms=60.0, itl_ms=1.0) as address:
        client = looped(address, 5, 1.0)

    requests = timeline.on_one_clock(client.answers, client.offsets)
    begun = sorted(each.due_ns for each in requests)[:5]
    assert begun[4] - begun[0] >= 39_000_000  # spread over the 50 ms asked for
    assert client.finished > 20
    assert all(each.sent_ns >= each.due_ns for each in requests)


def test_an_open_loop_sends_when_due_whatever_has_come_back(tmp_path: Path) -> None:
    due = arrivals(Load("poisson", 64, 100.0), "seed", 1.5).tolist()
    with serving(tmp_path, ttft_ms=200.0, itl_ms=1.0) as address:
        client = Client(address[:2], 64, asking(address), wire.reply)
        client.open_loop(due, lambda each, at: at if at - each.began_ns > 1e9 else None)
        client.parse_all()
        client.close()

    replies = sorted(client.answers, key=lambda each: each.number)
    intended = np.array([each.due_ns for each in replies])
    assert client.capped == 0
    assert len(replies) >= 80
    assert (np.diff(intended) == np.diff(due)[: len(intended) - 1]).all()
    lags = [each.sent_ns - each.due_ns for each in replies]
    assert np.median(lags) < 1_000_000


def test_a_client_that_wakes_up_late_still_sends_what_was_due(tmp_path: Path) -> None:
    due = [number * 20_000_000 for number in range(50)]

    def steer(client: Client, _: int) -> int:
        time.sleep(0.5 if client.sent == 0 else 0)
        return client.began_ns + 320_000_000

    with serving(tmp_path, ttft_ms=5.0, itl_ms=1.0) as address:
        client = Client(address[:2], 64, asking(address), wire.reply)
        client.open_loop(due, steer)
        client.parse_all()
        client.close()

    intended = sorted(each.due_ns - client.began_ns for each in client.answers)
    assert [20_000_000 + each for each in due if each <= 300_000_000] == intended[:16]


def test_requests_that_find_no_connection_are_counted(tmp_path: Path) -> None:
    with serving(tmp_path, ttft_ms=300.0, itl_ms=1.0) as address:
        client = Client(address[:2], 2, asking(address), wire.reply)
        client.open_loop([0, 1, 2, 3], lambda each, at: at if at - each.began_ns > 2e8 else None)
        client.close()

    assert client.capped > 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("html", "not a stream of events"),
        ("500", "HTTP 500"),
        ("refuse", "cut"),
        ("error_event", "error: {'message': 'engine died'}"),
        ("empty", "no token"),
        ("cut", "cut"),
        ("hang", "unanswered"),
    ],
)
def test_an_answer_that_fails_is_one_failed_request_and_the_stream_goes_on(
    tmp_path: Path, fault: str, words: str
) -> None:
    with serving(tmp_path, ttft_ms=5.0, itl_ms=1.0, fault=fault, every=2) as address:
        client = looped(address, 2, 0.5, drain_ns=300_000_000)

    troubles = [each.trouble for each in client.answers]
    assert any(words in trouble for trouble in troubles)
    assert "" in troubles
    assert client.finished == len(client.answers)


def test_a_request_that_finds_no_server_is_refused_and_the_loop_ends() -> None:
    client = Client(("127.0.0.1", 1), 2, lambda _: b"x", wire.reply, reopens=True)

    client.open_loop([0, 1], lambda each, at: at if each.sent == 2 else None)
    client.parse_all()
    client.close()

    assert [each.trouble for each in client.answers] == ["refused", "refused"]
    assert (client.lost, client.finished) == (2, 2)


def test_a_server_that_dies_ends_the_loop(tmp_path: Path) -> None:
    with serving(tmp_path, ttft_ms=5.0, itl_ms=1.0, fault="die", every=20) as address:
        client = looped(address, 2, 5.0)

    assert client.lost >= 1
    assert "cut" in {each.trouble for each in client.answers}


def test_an_answer_with_a_length_ends_with_its_last_byte_and_not_with_what_looks_like_an_end() -> (
    None
):
    body = b"x 0\r\n\r\n y" * 3
    answer = (
        b"HTTP/1.1 503 no\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65536)
                for part in (answer[:10], answer[10:80], answer[80:]):
                    sock.sendall(part)
                    time.sleep(0.02)
                sock.recv(65536)

        threading.Thread(target=serve, daemon=True).start()
        client = Client(
            listener.getsockname(), 1, lambda _: b"GET / HTTP/1.1\r\n\r\n", lambda each: each
        )
        client.closed_loop(0, lambda each, at: at if each.sent else None)
        client.parse_all()
        client.close()

    (got,) = client.answers
    assert b"".join(piece.data for piece in got.pieces) == answer


def test_a_chunk_that_looks_like_the_end_is_not_the_end() -> None:
    piece = stream.Piece
    sock, other = socket.socketpair()
    connection = stream._Connection(sock)
    client = Client.__new__(Client)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    for data, ended in (
        (head, False),
        (b"9\r\ndata: 0\r\n\r\n", False),
        (b"0\r\n", False),
        (b"\r\n", True),
    ):
        connection.pieces.append(piece(data, 0, 0))
        assert client._ended(connection, data) == ended
    sock.close()
    other.close()


def test_a_large_request_is_sent_whole(tmp_path: Path) -> None:
    with serving(tmp_path, ttft_ms=1.0, itl_ms=1.0) as address:
        prompt = list(range(10_000, 10_000 + 600_000))
        whole = endpoint.request(address, written(prompt, 2))
        client = Client(address[:2], 1, lambda _: whole, wire.reply)
        client.closed_loop(0, lambda each, at: at if each.sent else None)
        client.parse_all()
        client.close()

    (reply,) = client.answers
    assert (reply.trouble, reply.prompt_tokens) == ("", 600_000)


def test_the_clock_of_the_kernel_is_read_between_two_of_ours() -> None:
    assert abs(stream.offset() - (time.time_ns() - time.monotonic_ns())) < 5_000_000
    assert os.sched_getaffinity(0)


def certified(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's context with a certificate of its own for localhost, and the certificate."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    openssl = shutil.which("openssl") or pytest.skip("needs openssl")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def test_tls_keeps_the_kernels_stamps(tmp_path: Path) -> None:
    context, certificate = certified(tmp_path)
    body = [b"data: %s\n\n" % part for part in (
        b'{"choices":[{"text":" a"}]}', b'{"choices":[{"text":" b","finish_reason":"length"}]}',
        b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', b"[DONE]",
    )]  # fmt: skip
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_server(("localhost", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(sock, server_side=True) as secure:
                secure.recv(65536)
                for part in (
                    head,
                    *(b"%x\r\n%s\r\n" % (len(each), each) for each in body),
                    b"0\r\n\r\n",
                ):
                    secure.sendall(part)
                    time.sleep(0.02)
                while secure.recv(65536):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        trusted = ssl.create_default_context(cafile=str(certificate))
        client = Client(
            ("localhost", listener.getsockname()[1]),
            1,
            lambda _: b"POST / HTTP/1.1\r\n\r\n",
            wire.reply,
            tls=trusted,
        )
        client.closed_loop(0, lambda each, at: at if each.sent else None)
        client.offsets.append((now(), stream.offset()))
        client.parse_all()
        client.close()

    request, *_ = timeline.on_one_clock(client.answers, client.offsets)
    assert (request.trouble, request.tokens, len(request.token_ns)) == ("", 2, 2)
    assert request.token_ns[1] - request.token_ns[0] > 15_000_000
    assert len(request.lag_ns) == 2


def test_a_server_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    context, _ = certified(tmp_path)
    with socket.create_server(("localhost", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with contextlib.suppress(OSError):
                context.wrap_socket(sock, server_side=True)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(OSError, match="certificate verify failed"):
            Client(
                ("localhost", listener.getsockname()[1]),
                1,
                lambda _: b"",
                wire.reply,
                tls=ssl.create_default_context(),
            )
