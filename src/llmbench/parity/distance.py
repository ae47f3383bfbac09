"""Distance of an engine from a float32 reference, and the largest distance allowed.

The limit is measured, not guessed: the distance of transformers in the cell's own dtype from the reference is the
noise of that dtype. A token is wrong only if the reference prefers another by more than this noise explains.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

ERROR_OVER_NOISE = 3.0
"""An engine's error may be this many times that of transformers in the same dtype."""
MARGIN_OVER_NOISE = 4.0
"""Two tokens whose scores are each off by the largest error on either side differ by up to four of them."""
LEAST_ERROR, LEAST_MARGIN = 1e-3, 4e-3
"""In nats: differences too small to notice in any dtype, a tenth of a per cent of a probability."""


class Distance(NamedTuple):
    """The distance of an engine's tokens from the reference.

    Attributes:
        positions: tokens compared.
        same: tokens that the reference would also have chosen.
        error: root mean square of the differences of log-probabilities, in nats.
        most: the largest of them.
        margins: by how much the reference prefers its own choice, for each token, in nats.

    """

    positions: int
    same: int
    error: float
    most: float
    margins: tuple[float, ...]


def distance(
    said: Sequence[Sequence[float]],
    own: Sequence[Sequence[float]],
    largest: Sequence[Sequence[float]],
) -> Distance:
    """Return the distance between an engine's and the reference's log-probabilities of the engine's tokens."""
    off = np.abs(np.concatenate([np.subtract(a, b) for a, b in zip(said, own, strict=True)]))
    margins = np.concatenate([np.subtract(a, b) for a, b in zip(largest, own, strict=True)])
    return Distance(
        positions=off.size,
        same=int(np.sum(margins <= 0)),
        error=float(np.sqrt(np.mean(off**2))),
        most=float(np.max(off)),
        margins=tuple(margins.tolist()),
    )


def faults(engine: Distance, noise: Distance) -> list[str]:
    """Return an engine's faults beyond the noise of its dtype; empty if there are none."""
    wrong = wrong_tokens(engine, noise)
    allowed = max(LEAST_ERROR, ERROR_OVER_NOISE * noise.error)
    sentences = []
    if wrong:
        sentences.append(
            f"{wrong} of {engine.positions} tokens differ from the reference by more than a near tie"
        )
    if not math.isfinite(engine.error) or engine.error > allowed:
        sentences.append(
            f"log-probabilities are off by {engine.error:.2g} nats, more than the {allowed:.2g} allowed"
        )
    return sentences


def wrong_tokens(engine: Distance, noise: Distance) -> int:
    """Return how many tokens the reference would not have chosen, without near ties."""
    near = max(LEAST_MARGIN, MARGIN_OVER_NOISE * noise.most)
    return sum(not margin <= near for margin in engine.margins)  # negated to make NaN wrong
