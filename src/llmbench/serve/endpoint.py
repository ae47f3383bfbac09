"""The protocol of servers, which every backend of a served endpoint has, and plain HTTP for what is not timed."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from llmbench.errors import LoadFailed
from llmbench.spec.load import extra_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_QUOTE = 200
COUNTING_S = 120.0
"""How long a server may take to count a prompt of a few words, and to answer it with one token."""


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
        served_name: its name of the model.
        ignore_eos: whether to ask it to go on after an end token.

    """

    address: Address
    facts: Mapping[str, Any]
    vocab_size: int
    special_ids: frozenset[int]
    key: str
    served_name: str
    ignore_eos: bool

    def counters(self) -> Mapping[str, float]:
        """Return what the server counts of itself: `running`, `prefix_cache_hits`, ...; empty if it tells nothing."""

    def process(self) -> tuple[int, float] | None:
        """Return the server's process and its start, to see whether it is still the same; None if it is not ours."""


def context(address: Address) -> ssl.SSLContext | None:
    """Return how to speak TLS with a server, trusting whom the system trusts; None if it speaks none."""
    return ssl.create_default_context() if address.tls else None


def ask(
    address: Address, path: str, *, key: str = "", timeout_s: float = 10.0, content: bytes = b""
) -> bytes:
    """Return what a server answers to a GET, or to a POST of JSON; raise OSError if not with 200."""
    kind = http.client.HTTPSConnection if address.tls else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=timeout_s)
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if content:
            headers["Content-Type"] = "application/json"
        method = "POST" if content else "GET"
        connection.request(method, address.path + path, content or None, headers)
        response = connection.getresponse()
        data = response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{path}: not HTTP: {error!r}"[:LONGEST_QUOTE]) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        quoted = data[:LONGEST_QUOTE].decode("utf-8", "replace") if content else ""
        raise OSError(f"{path}: HTTP {response.status} {quoted}".rstrip())
    return data


def _path(*, chat: bool) -> str:
    return "/v1/chat/completions" if chat else "/v1/completions"


def request(address: Address, content: bytes, *, key: str = "", chat: bool = False) -> bytes:
    """Return the bytes of one request for a stream of completions, or of a chat's."""
    authorisation = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {address.path}{_path(chat=chat)} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
        f"{authorisation}Accept: text/event-stream\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def body(
    target: Endpoint,
    prompt: str,
    output_len: int,
    asked: Mapping[str, Any],
    *,
    ids: bool = False,
    stream: bool = True,
) -> dict[str, Any]:
    """Return the JSON of a request for OpenAI's completions, greedy and of exact length.

    Args:
        target: the server.
        prompt: a text, or what is replaced by a list of token ids.
        output_len: new tokens.
        asked: the options of the load: `prompt_as` and `extra`.
        ids: whether the answer shall hold the new ids, if the server can give them.
        stream: whether the tokens come one by one.

    """
    chat = asked["prompt_as"] == "chat"
    return {
        "model": target.served_name,
        **({"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}),
        "max_tokens": output_len,
        "temperature": 0,
        **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
        **({"ignore_eos": True} if target.ignore_eos else {}),
        **({"return_token_ids": True} if ids else {}),
        **extra_keys(str(asked["extra"])),
    }


def prompt_tokens(target: Endpoint, text: str, asked: Mapping[str, Any]) -> int:
    """Return how many tokens a server counts in a prompt; raise LoadFailed if it does not say."""
    content = json.dumps(body(target, text, 1, asked, stream=False)).encode()
    path = _path(chat=asked["prompt_as"] == "chat")
    try:
        answer = ask(target.address, path, key=target.key, content=content, timeout_s=COUNTING_S)
        return int(json.loads(answer)["usage"]["prompt_tokens"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadFailed(f"the server does not count a prompt of words: {error!r}") from error


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
