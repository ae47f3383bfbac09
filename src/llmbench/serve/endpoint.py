"""The protocol of servers, which every backend of a served endpoint has, and plain HTTP for what is not timed."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONGEST_QUOTE = 200


class Address(NamedTuple):
    """Where a server listens, the path before its own, and whether it speaks TLS."""

    host: str
    port: int
    path: str = ""
    tls: bool = False


@runtime_checkable
class Endpoint(Protocol):
    """A server that answers requests, started by us or not.

    Attributes:
        address: where it listens.
        facts: a flat mapping kept with every record: kind, version, `fresh` (started for this session), ...
        vocab_size: ids below it are in the vocabulary.
        special_ids: ids that a prompt may not have.
        key: for the header of authorisation; empty for none.
        defaults: its options with their defaults.

    """

    address: Address
    facts: Mapping[str, Any]
    vocab_size: int
    special_ids: frozenset[int]
    key: str
    defaults: Mapping[str, Any]

    def body(self, prompt: Sequence[int], output_len: int, *, ids: bool) -> Mapping[str, Any]:
        """Return the JSON of one request; with `ids`, the answer holds the new ids if the server can give them."""

    def counters(self) -> Mapping[str, float]:
        """Return what the server counts of itself: `running`, `prefix_cache_hits`, ...; empty if it tells nothing."""

    def process(self) -> tuple[int, float] | None:
        """Return the server's process and its start, to see whether it is still the same; None if it is not ours."""


def context(address: Address) -> ssl.SSLContext | None:
    """Return how to speak TLS with a server, trusting whom the system trusts; None if it speaks none."""
    return ssl.create_default_context() if address.tls else None


def ask(address: Address, path: str, *, key: str = "", timeout_s: float = 10.0) -> bytes:
    """Return what a server answers to a GET; raise OSError if it does not answer with 200."""
    kind = http.client.HTTPSConnection if address.tls else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=timeout_s)
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("GET", address.path + path, headers=headers)
        response = connection.getresponse()
        data = response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{path}: not HTTP: {error!r}"[:LONGEST_QUOTE]) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise OSError(f"{path}: HTTP {response.status}")
    return data


def request(address: Address, body: Mapping[str, Any] | bytes, *, key: str = "") -> bytes:
    """Return the bytes of one request for a stream of completions."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    authorisation = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {address.path}/v1/completions HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
        f"{authorisation}Accept: text/event-stream\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def completions(
    model: str, prompt: Sequence[int], output_len: int, *, ids: bool, ignore_eos: bool = True
) -> dict[str, Any]:
    """Return the JSON of a request for OpenAI's completions, greedy and of exact length, its tokens streamed."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": output_len,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ignore_eos:
        body["ignore_eos"] = True
    if ids:
        body["return_token_ids"] = True
    return body


def prometheus(text: bytes) -> dict[str, float]:
    """Return the metrics of a server's page, each summed over its labels."""
    found: dict[str, float] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, value = line.rpartition(" ")
        name = name.partition("{")[0].strip()
        try:
            found[name] = found.get(name, 0.0) + float(value)
        except ValueError:
            continue
    return found
