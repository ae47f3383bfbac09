"""The prompts of a cell: token ids, seeded by cell, session and iteration; no prompt repeats.

New ids defeat prefix caches, and the seed makes any iteration repeatable.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from llmbench.errors import LoadFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from llmbench.measure.engine import Engine
    from llmbench.spec.sweep import Cell

Phase: TypeAlias = Literal["warmup", "iteration", "memory"]
Prompts: TypeAlias = list[list[int]]
Workload: TypeAlias = "Callable[[Phase, int], Prompts]"


class Text(NamedTuple):
    """Prompts cut from a text, and the tokenizer's average UTF-8 bytes per token."""

    prompts: Workload
    bytes_per_token: float


def synthetic(cell: Cell, engine: Engine, seed: int, session: int) -> Workload:
    """Return a function from phase and iteration to prompts of ids drawn from the real vocabulary."""
    allowed = _allowed(engine)
    generator = _seeded(cell, seed, session)

    def prompts(phase: Phase, iteration: int) -> Prompts:
        rng = generator(phase, iteration)
        drawn: Prompts = allowed[
            rng.integers(0, len(allowed), (cell.batch_size, cell.input_len))
        ].tolist()
        return _cut(drawn, cell)

    return prompts


def from_text(cell: Cell, engine: Engine, seed: int, session: int, text: str) -> Text:
    """Return a function from phase and iteration to windows of ids at random positions of a real text.

    Raises:
        LoadFailed: the text is too short for different windows.

    """
    ids = np.asarray(engine.tokenize(text), dtype=np.int64)
    places = len(ids) - cell.input_len
    if places < cell.batch_size:
        raise LoadFailed(
            f"prompts: the text has {len(ids)} tokens; {cell.batch_size} prompts of {cell.input_len} "
            f"need at least {cell.input_len + cell.batch_size}"
        )
    generator = _seeded(cell, seed, session)

    def prompts(phase: Phase, iteration: int) -> Prompts:
        starts = generator(phase, iteration).choice(places, size=cell.batch_size, replace=False)
        return _cut([ids[start : start + cell.input_len].tolist() for start in starts], cell)

    return Text(prompts, len(text.encode()) / len(ids))


def _cut(prompts: Prompts, cell: Cell) -> Prompts:
    """Return prompts of the longest length, each cut to its own."""
    if not cell.input_lens:
        return prompts
    return [prompt[:length] for prompt, length in zip(prompts, cell.input_lens, strict=True)]


def _seeded(cell: Cell, seed: int, session: int) -> Callable[[Phase, int], np.random.Generator]:
    key = zlib.crc32(cell.id.encode())
    phases = get_args(Phase)

    def generator(phase: Phase, iteration: int) -> np.random.Generator:
        return np.random.default_rng([seed, key, session, phases.index(phase), iteration])

    return generator


def _allowed(engine: Engine) -> NDArray[np.int64]:
    ids = np.arange(engine.vocab_size, dtype=np.int64)
    return np.setdiff1d(ids, np.fromiter(engine.special_ids, dtype=np.int64))
