"""The requests of a cell: prompts of random ids, no two of which begin alike, so that no prefix is found in a cache."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

from llmbench.serve import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmbench.serve.endpoint import Endpoint
    from llmbench.spec.sweep import Cell

HEAD = 32
"""Ids drawn anew for each request: two blocks of a cache, as vLLM counts them."""
TAILS = 64
"""Different remainders, which are used in turn: after a new beginning no cache knows them."""
PLACE = "[0]"
"""How the prompt is written into a request before its ids are known."""


def requests(target: Endpoint, cell: Cell, seed: int, session: int) -> Callable[[int], bytes]:
    """Return a function from a request's number to its bytes; it must be called with 0, 1, 2, ... in turn.

    Making a request takes some microseconds, because only the beginning of its prompt is drawn then.
    """
    rng = random.Random(f"{seed}/{cell.id}/{session}")  # noqa: S311 - prompts, not secrets
    allowed = [str(token) for token in range(target.vocab_size) if token not in target.special_ids]
    drawn = min(HEAD, cell.input_len)
    tails = [
        "".join(f",{token}" for token in rng.choices(allowed, k=cell.input_len - drawn))
        for _ in range(TAILS)
    ]
    body = json.dumps(target.body([0], cell.output_len, ids=False))
    before, _, after = body.partition(PLACE)

    def of(number: int) -> bytes:
        head = ",".join(rng.choices(allowed, k=drawn))
        content = f"{before}[{head}{tails[number % TAILS]}]{after}".encode()
        return endpoint.request(target.address, content, key=target.key)

    return of


def proof(target: Endpoint, cell: Cell, seed: int, session: int) -> bytes:
    """Return one request of the cell's lengths whose answer holds the new ids, if the server can give them."""
    rng = random.Random(f"proof/{seed}/{cell.id}/{session}")  # noqa: S311 - a prompt, not a secret
    allowed = [token for token in range(target.vocab_size) if token not in target.special_ids]
    body = target.body(rng.choices(allowed, k=cell.input_len), cell.output_len, ids=True)
    return endpoint.request(target.address, body, key=target.key)
