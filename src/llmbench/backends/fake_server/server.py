"""A server with a script instead of a model: it sends tokens at known times, logs them, and fails on request.

    python server.py --port-file FILE --log FILE --script JSON

It speaks vLLM's dialect of OpenAI's completions: the head before the first token, an event a token, the last of which
says why it ended, then the count, then `[DONE]`. Nothing here imports anything but the standard library.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import select
import signal
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
END = b"0\r\n\r\n"
LOGGED = struct.Struct("<qiq")
"""A line of the log: the request's number by its header X-Number, else that of its arrival; how many tokens it has
been sent; and when, in monotonic nanoseconds."""
BLOCK = 16
"""Tokens of a block of the cache of prompts."""
now = time.monotonic_ns


class Stream:
    """One connection, and the request that it carries."""

    def __init__(self, sock: socket.socket) -> None:
        """Begin without a request."""
        self.sock, self.taken, self.out = sock, b"", b""
        self.request: dict[str, Any] | None = None
        self.number = self.sent = self.logged = self.prompt = self.known = 0


class ScriptedServer:
    """All connections, and the moments at which tokens are due."""

    def __init__(self, script: dict[str, Any], log: Path) -> None:
        """Listen on a free port."""
        self.script = script
        self.rng = random.Random(script["seed"])  # noqa: S311 - a script, not a secret
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=8192)
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        self.streams: dict[int, Stream] = {}
        self.due: list[tuple[int, int, Stream]] = []
        self.log = log.open("ab", buffering=2**16)
        self.requests = self.ended = self.hits = self.asked = self.order = 0
        self.blocks: set[int] = set()
        self.began = time.time()

    def serve(self) -> None:
        """Answer until the process is told to end."""
        while True:
            wait = -1.0
            if self.due:
                wait = max(self.due[0][0] - now(), 0) / 1e9
            # Rounded down to whole milliseconds, and the rest spent looking: a wait may not be late.
            for number, kind in self.epoll.poll(
                0 if 0 <= wait < 0.0015 else wait - 0.001 if wait > 0 else wait
            ):
                if number == self.listener.fileno():
                    self._accept()
                elif stream := self.streams.get(number):
                    self._take(stream, kind)
            while self.due and self.due[0][0] <= now():
                _, _, stream = heapq.heappop(self.due)
                self._give(stream)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.streams[sock.fileno()] = Stream(sock)
                self.epoll.register(sock.fileno(), select.EPOLLIN)

    def _take(self, stream: Stream, kind: int) -> None:
        if kind & select.EPOLLOUT:
            self._send(stream, b"")
        try:
            data = stream.sock.recv(2**20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(stream)
            return
        stream.taken += data
        head, found, body = stream.taken.partition(b"\r\n\r\n")
        if not found:
            return
        length = number_in(head, b"content-length", 0)
        stream.logged = number_in(head, b"x-number", self.requests + 1)
        if len(body) < length:
            return
        stream.taken = body[length:]
        path = head.split(b" ", 2)[1].decode()
        if head.startswith(b"GET"):
            self._tell(stream, path)
        else:
            self._begin(stream, json.loads(body[:length]))

    def _tell(self, stream: Stream, path: str) -> None:
        """Answer a question about the server itself."""
        if path == "/metrics":
            began = time.time() if self.script["fault"] == "restarted" else self.began
            text = (
                f"vllm:num_requests_running {len(self.due)}\n"
                f"vllm:prefix_cache_hits_total {self.hits}\n"
                f"vllm:prefix_cache_queries_total {self.asked}\n"
                f"vllm:request_success_total {self.ended}\n"
                f"process_start_time_seconds {began}\n"
            )
        elif path == "/v1/models":
            text = json.dumps({"data": [{"id": "fake"}]})
        elif path == "/version":
            text = json.dumps({"version": "fake"})
        else:
            text = ""
        self._plain(stream, "200 OK", "text/plain", text)

    def _plain(self, stream: Stream, status: str, kind: str, text: str) -> None:
        data = text.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        self._send(stream, head.encode() + data)

    def _faulty(self, fault: str) -> bool:
        """Return whether this request has the fault: every k-th, after the proof."""
        script = self.script
        return (
            script["fault"] == fault and self.requests > 1 and self.requests % script["every"] == 0
        )

    def _begin(self, stream: Stream, request: dict[str, Any]) -> None:
        prompt = tokens_of(request, self.script["besides"])
        if not request.get("stream"):
            usage = {"prompt_tokens": len(prompt), "completion_tokens": request["max_tokens"]}
            self._plain(stream, "200 OK", "application/json", json.dumps({"usage": usage}))
            return
        if self.script["fault"] == "strict" and "return_token_ids" in request:
            self._plain(
                stream, "422 Unprocessable", "application/json", '{"detail": "unknown field"}'
            )
            return
        self.requests += 1
        stream.number, stream.sent, stream.request = self.requests, 0, request
        stream.prompt, stream.known = len(prompt), self._known(prompt)
        if self._faulty("html"):
            self._plain(stream, "200 OK", "text/html", "<html>log in</html>")
        elif self._faulty("500"):
            self._plain(
                stream, "500 Internal Server Error", "application/json", '{"error": "boom"}'
            )
        elif self._faulty("refuse"):
            self._close(stream)
        elif self._faulty("hang"):
            self._send(stream, HEAD)
        elif self._faulty("error_event"):
            self._send(stream, HEAD)
            self._event(stream, {"error": {"message": "engine died"}})
            self._send(stream, END)
        elif self._faulty("empty"):
            self._send(stream, HEAD)
            self._chunk(stream, b"data: [DONE]\n\n")
            self._send(stream, END)
        elif self._faulty("die"):
            os._exit(9)
        else:
            self._send(stream, HEAD)
            self.hits += 16 * (self.script["fault"] == "prefix_hits")
            busy = 1 + len(self.due) / self.script["capacity"] if self.script["capacity"] else 1.0
            self._later(stream, self.script["ttft_ms"] * busy)

    def _known(self, prompt: list[Any]) -> int:
        """Return how many tokens of a prompt were known, in whole blocks from its beginning, and keep the others."""
        self.asked += len(prompt)
        if not self.script["prefix_cache"]:
            return 0
        ends = range(BLOCK, len(prompt), BLOCK)
        blocks = [hash(tuple(prompt[:end])) for end in ends]
        known = next((n for n, block in enumerate(blocks) if block not in self.blocks), len(blocks))
        self.blocks.update(blocks)
        self.hits += BLOCK * known
        return BLOCK * known

    def _later(self, stream: Stream, milliseconds: float) -> None:
        spread = self.script["jitter"] * self.rng.gauss(0, 1)
        self.order += 1
        at = now() + int(milliseconds * (1 + max(spread, -0.9)) * self.script["slower"] * 1e6)
        heapq.heappush(self.due, (at, self.order, stream))

    def _give(self, stream: Stream) -> None:
        """Send the next token, or with the last one the end."""
        request = stream.request
        if request is None or stream.sock.fileno() < 0:
            return
        wanted = int(request["max_tokens"]) - self._faulty_now(stream, "short")
        wanted += self._faulty_now(stream, "long")
        together = int(self.script["tokens_per_event"])
        count = min(together, wanted - stream.sent)
        stream.sent += count
        last = stream.sent >= wanted
        text = " the" * count
        choice: dict[str, Any] = {
            "index": 0,
            **({"delta": {"content": text}} if "messages" in request else {"text": text}),
            "finish_reason": "length" if last else None,
        }
        if request.get("return_token_ids") and self.script["ids"]:
            choice["token_ids"] = [7] * count
        if self._faulty_now(stream, "comments"):
            self._chunk(stream, b": ping\r\n\r\n")
        cut = self._faulty_now(stream, "cut") and stream.sent >= wanted // 2
        sent_ns = now()
        self._event(stream, {"choices": [choice]})
        if self._faulty_now(stream, "repeat"):
            self._event(stream, {"choices": [choice]})
        self.log.write(LOGGED.pack(stream.logged, stream.sent, sent_ns))
        if cut:
            self._close(stream)
        elif last:
            self._finish(stream)
        else:
            self._later(stream, self.script["itl_ms"] * count)

    def _faulty_now(self, stream: Stream, fault: str) -> bool:
        script = self.script
        return (
            script["fault"] == fault and stream.number > 1 and stream.number % script["every"] == 0
        )

    def _finish(self, stream: Stream) -> None:
        prompt = stream.prompt - self._faulty_now(stream, "prompt_short")
        cached = stream.known + 16 * self._faulty_now(stream, "cached")
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": stream.sent,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        if self.script["fault"] != "no_usage":
            self._event(stream, {"choices": [], "usage": usage})
        self._chunk(stream, b"data: [DONE]\n\n")
        self._send(stream, END)
        stream.request = None
        if self.script["fault"] == "closes":
            self._close(stream)
        self.ended += 1
        self.log.flush()

    def _event(self, stream: Stream, event: dict[str, Any]) -> None:
        self._chunk(stream, b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, stream: Stream, data: bytes) -> None:
        self._send(stream, f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _send(self, stream: Stream, data: bytes) -> None:
        stream.out += data
        try:
            count = stream.sock.send(stream.out) if stream.out else 0
        except BlockingIOError:
            count = 0
        except OSError:
            self._close(stream)
            return
        stream.out = stream.out[count:]
        kinds = select.EPOLLIN | (select.EPOLLOUT if stream.out else 0)
        self.epoll.modify(stream.sock.fileno(), kinds)

    def _close(self, stream: Stream) -> None:
        if (number := stream.sock.fileno()) >= 0:
            self.epoll.unregister(number)
            del self.streams[number]
            stream.sock.close()
        stream.request = None


def tokens_of(request: dict[str, Any], besides: int) -> list[Any]:
    """Return what a prompt is made of: its ids, or its words and what a text has besides them."""
    prompt = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
    return [None] * (besides - 1) + prompt.split() if isinstance(prompt, str) else prompt


def number_in(head: bytes, name: bytes, otherwise: int) -> int:
    """Return the number that a header has, or another where it is missing."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(name + b":"):
            return int(line.partition(b":")[2])
    return otherwise


def main() -> None:
    """Serve the script on a free port, whose number goes into a file."""
    parser = argparse.ArgumentParser()
    for name in ("--port-file", "--log", "--script"):
        parser.add_argument(name, required=True)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = ScriptedServer(json.loads(asked.script), Path(asked.log))
    written = Path(f"{asked.port_file}.new")
    written.write_text(str(server.listener.getsockname()[1]), encoding="ascii")
    written.replace(asked.port_file)
    server.serve()


if __name__ == "__main__":
    main()
