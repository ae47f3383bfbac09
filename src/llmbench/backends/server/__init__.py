"""A server that is there already and speaks OpenAI's completions: vLLM, SGLang, TGI, llama.cpp's and others."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmbench.backends import managed_server
from llmbench.errors import LoadFailed
from llmbench.serve import endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.results.record import Job

SERVES = True
ATTACHED = True
OPTIONS = {
    "url": "",
    "served_name": "",
    "ignore_eos": (True, False),
}
MEANINGS = {
    "url": "where it listens, such as http://localhost:8000",
    "served_name": "its name of the model; empty: the first that it lists",
    "ignore_eos": "ask for it, without which an answer may end early",
}
DEFAULTS = {name: v[0] if isinstance(v, tuple) else v for name, v in OPTIONS.items()}
KEY = "LLMBENCH_API_KEY"
"""The environment variable of the key that the server wants; it goes into no file."""


def load(job: Job) -> AttachedServer:
    """Find the server that the job's first cell names; raise LoadFailed if it does not answer."""
    return AttachedServer(job)


class AttachedServer:
    """A server that somebody else started."""

    special_ids: frozenset[int] = frozenset()

    def __init__(self, job: Job) -> None:
        """Ask it which models it has."""
        options: dict[str, Any] = {**DEFAULTS, **job.cells[0].options}
        self.ignore_eos, self.key = bool(options["ignore_eos"]), os.environ.get(KEY, "")
        self.address = _address(options["url"])
        try:
            listed = json.loads(endpoint.ask(self.address, "/v1/models", key=self.key))
            names = [str(each["id"]) for each in listed["data"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            names = [str(options["served_name"])]
            if not names[0] or isinstance(error, ConnectionError):
                raise LoadFailed(
                    f"{options['url']}: no server of this protocol answers there: {error}"
                ) from error
        self.served_name = options["served_name"] or next(iter(names), "")
        if not self.served_name:
            raise LoadFailed(f"{options['url']}: lists no model; name it with served_name=NAME")
        if names and self.served_name not in names:  # some list only what a hub knows of
            raise LoadFailed(
                f"{options['url']}: has no model {self.served_name!r}; it has {', '.join(names)}"
            )
        self.vocab_size = job.model.vocab_size or 0
        self.facts: Mapping[str, Any] = {
            "server": "attached",
            "version": self._version(),
            "fresh": False,
            "served_name": self.served_name,
            "preallocates": True,
        }

    def _version(self) -> str:
        try:
            return str(json.loads(endpoint.ask(self.address, "/version", key=self.key))["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return "unknown"

    def counters(self) -> Mapping[str, float]:
        """Return what the server counts of itself, if it has a page of metrics as vLLM's."""
        return managed_server.vllm_counters(self.address, self.key)

    def process(self) -> tuple[int, float] | None:
        """Return when the server's process began, if it says so."""
        try:
            page = endpoint.prometheus(endpoint.ask(self.address, "/metrics", key=self.key))
        except OSError:
            return None
        began = page.get(managed_server.STARTED)
        return None if began is None else (0, began)


def _address(url: str) -> endpoint.Address:
    """Return where a URL leads; raise LoadFailed for one that leads nowhere we can go."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise LoadFailed(f"{url!r} is not the URL of a server: {error}") from error
    tls = parts.scheme == "https"
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise LoadFailed(f"{url!r} is not the URL of a server, such as http://localhost:8000")
    before = parts.path.rstrip("/").removesuffix("/v1")
    return endpoint.Address(parts.hostname, port or (443 if tls else 80), before, tls)
