"""How far an engine may lie from a float32 reference: same function, not only same speed.

How far apart is too far is measured, not guessed: transformers in the cell's own dtype says the same thing once
more, and its distance to the reference is that dtype's noise. A token is wrong only where the reference prefers
another by more than this noise explains.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

ERROR_OVER_NOISE = 3.0
"""An engine's log-probabilities may be so many times as far off as transformers' own in the same dtype."""
MARGIN_OVER_NOISE = 4.0
"""Two choices, each off by the largest error that was seen on either side, differ by up to four of them."""
LEAST_ERROR, LEAST_MARGIN = 1e-3, 4e-3
"""Nats. What no user can notice, whatever the dtype: a tenth of a per cent of a probability."""


class Distance(NamedTuple):
    """How far what was said lies from the reference.

    Attributes:
        positions: tokens compared.
        same: tokens that the reference would have chosen, too.
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
    """Return how far an engine's log-probabilities of its own tokens lie from the reference's of the same."""
    off = np.abs(np.concatenate([np.subtract(a, b) for a, b in zip(said, own, strict=True)]))
    margins = np.concatenate([np.subtract(a, b) for a, b in zip(largest, own, strict=True)])
    return Distance(
        positions=off.size,
        same=int(np.sum(margins <= 0)),
        error=float(np.sqrt(np.mean(off**2))),
        most=float(np.max(off)),
        margins=tuple(margins.tolist()),
    )


def faults(found: Distance, noise: Distance) -> list[str]:
    """Return what is wrong with an engine beyond the noise of its dtype; nothing if all is right."""
    wrong = wrong_tokens(found, noise)
    allowed = max(LEAST_ERROR, ERROR_OVER_NOISE * noise.error)
    said = []
    if wrong:
        said.append(
            f"{wrong} of {found.positions} tokens differ from the reference by more than a near tie"
        )
    if not math.isfinite(found.error) or found.error > allowed:
        said.append(
            f"log-probabilities are off by {found.error:.2g} nats, more than the {allowed:.2g} allowed"
        )
    return said


def wrong_tokens(found: Distance, noise: Distance) -> int:
    """Return how many tokens the reference would not have chosen, near ties left out."""
    near = max(LEAST_MARGIN, MARGIN_OVER_NOISE * noise.most)
    return sum(not margin <= near for margin in found.margins)  # so that NaN is wrong
