"""The requests of a cell: random prompts, of which a cache knows no more than what they are meant to share.

A prompt is made of pieces of one token each. Token ids are such pieces by themselves. Of words the server is asked: it
counts some texts, and the words that it takes for one token each are used.
"""

from __future__ import annotations

import json
import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.errors import LoadFailed
from llmbench.serve import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmbench.serve.endpoint import Endpoint

HEAD = 32
"""Pieces drawn anew for each request: two blocks of a cache, as vLLM counts them."""
TAILS = 64
"""Different remainders, which are used in turn: after a new beginning no cache knows them."""
PLACE = "<prompt>"
"""How the prompt is written into a request before it is known."""
FIRST = "Continue:"
"""How every prompt of words begins: what stands first may be another token than the same word later."""
WORDS = (  # noqa: SIM905 - 66 words, not 66 lines
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city"
).split()
"""Words that most vocabularies have as one token with the space before them."""
TOGETHER = 8
"""Words in one question to the server; one of another length excludes its group."""
FEWEST = 16
BLOCK, MOST_BLOCKS = 512, 4096
"""Pieces of a trace's block, and how many blocks are kept for the next request that has them."""


class Alphabet(NamedTuple):
    """What prompts are made of.

    Attributes:
        pieces: of one token each.
        between: what separates them.
        opening: what stands before them, as JSON; `closing` stands after them.
        besides: tokens of every prompt that are no pieces, such as those of a chat's template.

    """

    pieces: list[str]
    between: str
    opening: str
    closing: str
    besides: int


class Prompts:
    """Requests by their numbers, 0, 1, 2, ... in turn; making one takes some microseconds.

    Attributes:
        alphabet: what prompts are made of.
        asked: the options of the load.

    """

    def __init__(
        self,
        target: Endpoint,
        asked: Mapping[str, Any],
        lengths: Callable[[int], tuple[int, int]],
        longest: int,
        seed: str,
        blocks: Sequence[Sequence[int]] = (),
    ) -> None:
        """Draw what all prompts have in common, and the remainders.

        Args:
            target: the server; for prompts of words it is asked for its count of some.
            asked: the options of the load: `prompt_as`, `shared_prefix`, `extra`.
            lengths: tokens of the prompt and of the answer of a request, by its number.
            longest: tokens of the longest prompt.
            seed: of what is drawn.
            blocks: of each request the names of its prompt's blocks, where a trace has them.

        Raises:
            LoadFailed: no prompt of these lengths can be made for this server.

        """
        self._target, self.asked, self._lengths = target, asked, lengths
        self.alphabet = alphabet(target, asked)
        self._rng = random.Random(seed)  # noqa: S311 - prompts, not secrets
        self._base = self._rng.getrandbits(62)
        self._seed, self._blocks = seed, blocks
        self._block = lru_cache(MOST_BLOCKS)(self._joined_block)
        self._shared = self._drawn(longest)
        self._tails = [self._drawn(longest) for _ in range(TAILS)]
        self._tail = lru_cache(2 * TAILS)(self._joined_tail)
        self._beginning = lru_cache(2 * TAILS)(self._joined_beginning)
        self._around = lru_cache(2 * TAILS)(self._split_request)

    def __call__(self, number: int) -> bytes:
        """Return the bytes of a request, the same for the same number in whichever process."""
        self._rng.seed(self._base + number)
        names = self._blocks[number] if self._blocks else ()
        return self._written(number, names, ids=False)

    def proof(self, *, ids: bool) -> bytes:
        """Return a request of the first one's lengths and no blocks; with `ids`, the answer holds the new ids."""
        self._rng.seed(self._base - 1)
        return self._written(0, (), ids=ids)

    def shared_share(self, input_len: int) -> float:
        """Return the share of a prompt's tokens that every prompt of this length begins with, at most."""
        return (self.alphabet.besides + self._shared_pieces(input_len)) / input_len

    def _shared_pieces(self, input_len: int) -> int:
        return round(float(self.asked["shared_prefix"]) * (input_len - self.alphabet.besides))

    def _drawn(self, count: int) -> list[str]:
        return self._rng.choices(self.alphabet.pieces, k=count)

    def _written(self, number: int, names: Sequence[int], *, ids: bool) -> bytes:
        input_len, output_len = self._lengths(number)
        besides = self.alphabet.besides
        if input_len <= besides:
            raise LoadFailed(
                f"the server counts {besides} tokens besides a prompt's words, so that none of {input_len} can be made"
            )
        pieces = input_len - besides
        prompt = self._in_blocks(names, pieces) if names else self._plain(number, input_len)
        before, after = self._around(output_len, ids)
        content = f"{before}{self.alphabet.opening}{prompt}{self.alphabet.closing}{after}".encode()
        return endpoint.request(
            self._target.address,
            content,
            key=self._target.key,
            chat=self.asked["prompt_as"] == "chat",
        )

    def _plain(self, number: int, input_len: int) -> str:
        """Return what all prompts begin with, new pieces, and a remainder."""
        shared = self._shared_pieces(input_len)
        pieces = input_len - self.alphabet.besides - shared
        drawn = min(HEAD, pieces)
        parts = (
            self._beginning(shared),
            self.alphabet.between.join(self._drawn(drawn)),
            self._tail(number % TAILS, pieces - drawn),
        )
        return self.alphabet.between.join(filter(None, parts))

    def _in_blocks(self, names: Sequence[int], count: int) -> str:
        """Return a prompt of blocks, the last one cut, and new pieces for what they leave."""
        sizes = [min(BLOCK, count - start) for start in range(0, count, BLOCK)]
        blocks = [self._block(name, size) for name, size in zip(names, sizes, strict=False)]
        return self.alphabet.between.join([*blocks, *self._drawn(sum(sizes[len(names) :]))])

    def _joined_block(self, name: int, size: int) -> str:
        rng = random.Random(f"{self._seed}/{name}")  # noqa: S311 - prompts, not secrets
        return self.alphabet.between.join(rng.choices(self.alphabet.pieces, k=BLOCK)[:size])

    def _joined_beginning(self, count: int) -> str:
        return self.alphabet.between.join(self._shared[:count])

    def _joined_tail(self, number: int, count: int) -> str:
        return self.alphabet.between.join(self._tails[number][:count])

    def _split_request(self, output_len: int, ids: bool) -> tuple[str, str]:  # noqa: FBT001 - a cached key
        body = endpoint.body(self._target, PLACE, output_len, self.asked, ids=ids)
        before, _, after = json.dumps(body).partition(json.dumps(PLACE))
        return before, after


def alphabet(target: Endpoint, asked: Mapping[str, Any]) -> Alphabet:
    """Return what prompts for a server are made of; raise LoadFailed if it cannot be said."""
    if asked["prompt_as"] != "ids":
        return _words(target, asked)
    allowed = [str(token) for token in range(target.vocab_size) if token not in target.special_ids]
    if not allowed:
        raise LoadFailed("the model's vocabulary is not known, from which prompts are drawn")
    return Alphabet(allowed, ",", "[", "]", 0)


def _words(target: Endpoint, asked: Mapping[str, Any]) -> Alphabet:
    """Ask the server which words are one token each, and how many tokens a prompt has besides them."""
    kept: list[str] = []
    besides: set[int] = set()
    for start in range(0, len(WORDS), TOGETHER):
        words = [f" {word}" for word in WORDS[start : start + TOGETHER]]
        once, twice = (
            endpoint.prompt_tokens(target, FIRST + "".join(words * times), asked)
            for times in (1, 2)
        )
        if twice - once == len(words):
            kept += words
            besides.add(once - len(words))
    if len(kept) < FEWEST or len(besides) != 1:
        raise LoadFailed(
            f"the server takes {len(kept)} of {len(WORDS)} words for one token each, and {FEWEST} are needed for "
            "prompts of an exact length"
        )
    return Alphabet(kept, "", json.dumps(FIRST)[:-1], '"', besides.pop())
