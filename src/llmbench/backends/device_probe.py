"""Measured ceilings of a device: copies, matrix-vector products, matrix products by rows, dispatch.

Run as a program, it measures one kind of device in this process and writes its probes as one line of JSON: `python
-m llmbench.backends.device_probe cpu`. The weights are random and larger than the caches; they come from memory
each time, as in a model. If one matrix were used twice in a row, a cache would hold half of it.
"""

from __future__ import annotations

import functools
import math
import os
import statistics
import sys
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import torch
from torch.nn.functional import linear

from llmbench.backends import random_weights
from llmbench.backends.places import PLACES, ProbedDevice
from llmbench.machine.info import utc_now
from llmbench.machine.peaks import STEP, Probe, Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
SHAPES = ((768, 3072), (2048, 8192), (4096, 11008), (8192, 8192))
"""Inner size and columns, as in models of 100 million, a billion, and 7 billion parameters; and the square
that a large chip needs to reach its peak."""

BEYOND_CACHE = 4
"""Weights are this many times the size of the last cache, which then holds at most a quarter of them."""
SHARE_OF_MEMORY = 1 / 8
"""The share of the available memory used for weights, and again for the copy's target."""
PASSES = 5
FEWEST, MOST = 3, 50
"""The fewest and the most timed calls per point."""


class CallTimes(NamedTuple):
    """Seconds of one call: typical and best."""

    middle_s: float
    best_s: float


def probe(place: ProbedDevice) -> Probe:
    """Measure one device. Some 40 s on a CPU of two cores, some 20 s on a GPU."""
    wanted = max(BEYOND_CACHE * place.cache_bytes, place.least_bytes)
    size = min(wanted, int(place.free_bytes * SHARE_OF_MEMORY))
    pool = random_numbers(size // torch.float32.itemsize, place.device)
    copied = _copy(place, pool)
    read, rates, best = {}, [], {}
    for number, dtype in enumerate(DTYPES, 1):
        name = str(dtype).removeprefix("torch.")
        step = f"{STEP.decode()}{place.name}: {name}, {number} of {len(DTYPES)}."
        print(step, file=sys.stderr, flush=True)
        weights = pool if dtype is torch.float32 else pool.to(dtype)
        read[name] = read_bytes_s(place, weights)
        points = list(curve(place, weights))
        rates += [rate for rate, _ in points]
        best[name] = max(flops_s for _, flops_s in points)
    beyond = size >= 2 * place.cache_bytes  # otherwise a cache would be measured
    return Probe(
        device=place.device.type,
        name=place.name,
        at=utc_now(),
        torch=str(torch.__version__),
        threads=place.threads,
        copy_bytes_s=copied if beyond else None,
        read_bytes_s=read if beyond else {},
        flops_s=best,
        rates=rates,
        step_s=step_s(place),
    )


def random_numbers(count: int, device: torch.device) -> torch.Tensor:
    """Return random float32 numbers, none of them zero: a chip at its power limit is faster on zeros."""
    pool = torch.empty(count, device=device)
    # What float16 makes zero is replaced, too.
    numbers = torch.randn(random_weights.BLOCK).half().float()
    block = random_weights.without_zeros(numbers.to(device))
    random_weights.tile(pool, block, 0)
    return pool


def _copy(place: ProbedDevice, pool: torch.Tensor) -> float:
    """Return the bytes per second of a copy, counting reads and writes."""
    pairs = zip(torch.empty_like(pool).chunk(place.pieces), pool.chunk(place.pieces), strict=True)
    calls = [functools.partial(target.copy_, source) for target, source in pairs]
    return 2 * int(pool.nbytes) / least_s(place, calls)


def read_bytes_s(place: ProbedDevice, weights: torch.Tensor) -> float:
    """Return the bytes per second that matrix-vector products read over all weights, for the best shape."""
    return max(_shape_bytes_s(place, weights, *shape) for shape in fitting(weights))


def _shape_bytes_s(place: ProbedDevice, weights: torch.Tensor, inner: int, columns: int) -> float:
    matrices = as_matrices(weights, inner, columns)
    vector = _inputs(1, inner, weights)

    def products(some: list[torch.Tensor]) -> None:
        for matrix in some:
            linear(vector, matrix)

    size = -(-len(matrices) // place.pieces)
    groups = [matrices[start : start + size] for start in range(0, len(matrices), size)]
    calls = [functools.partial(products, group) for group in groups]
    return len(matrices) * int(matrices[0].nbytes) / least_s(place, calls)


def least_s(place: ProbedDevice, calls: Sequence[Callable[[], object]]) -> float:
    """Return the total seconds of all calls, taking the best of several passes for each call.

    Another process rarely disturbs the same call in every pass. The first pass warms up.
    """
    best = [math.inf] * len(calls)
    for _ in range(1 + PASSES):
        for number, call in enumerate(calls):
            best[number] = min(best[number], place.watch.seconds(call, 1))
    return sum(best)


def curve(place: ProbedDevice, weights: torch.Tensor) -> Iterator[tuple[Rate, float]]:
    """Yield the typical rate of matrix products over their rows, shape by shape, and the best rate with each.

    A shape's curve ends where a single call would take longer than the limit of a point.
    """
    name = str(weights.dtype).removeprefix("torch.")
    for inner, columns in fitting(weights):
        matrices, best = as_matrices(weights, inner, columns), 0.0
        for rows in ROWS:
            work = 2 * rows * inner * columns
            if best and work / best > place.point_s:
                break
            times = timed(place, matrices, _inputs(rows, inner, weights))
            best, typical = work / times.best_s, work / times.middle_s
            yield Rate(dtype=name, rows=rows, inner=inner, columns=columns, flops_s=typical), best


def timed(place: ProbedDevice, matrices: list[torch.Tensor], inputs: torch.Tensor) -> CallTimes:
    """Return how long one product takes, using a different matrix in each call."""
    turn = 0

    def call() -> None:
        nonlocal turn
        linear(inputs, matrices[turn % len(matrices)])
        turn += 1

    place.watch.seconds(call, 2)  # kernels are chosen at the first call
    times: list[float] = []
    while len(times) < FEWEST or (sum(times) * place.burst < place.point_s and len(times) < MOST):
        times.append(place.watch.seconds(call, place.burst) / place.burst)
    return CallTimes(statistics.median(times), min(times))


def step_s(place: ProbedDevice) -> float:
    """Return the seconds of one trivial operation, measured over a thousand: the cost of dispatch."""
    number = torch.ones(1, device=place.device)
    times = [place.watch.seconds(lambda: number.add_(1), 1000) / 1000 for _ in range(PASSES + 1)]
    return statistics.median(times[1:])


def fitting(weights: torch.Tensor) -> list[tuple[int, int]]:
    """Return the shapes of matrices that fit into the weights; memory may be too small for the largest."""
    return [(inner, columns) for inner, columns in SHAPES if inner * columns <= weights.numel()]


def as_matrices(weights: torch.Tensor, inner: int, columns: int) -> list[torch.Tensor]:
    """Return the weights cut into non-overlapping matrices [columns, inner]."""
    count = weights.numel() // (inner * columns)
    return list(weights[: count * inner * columns].view(count, columns, inner))


def _inputs(rows: int, inner: int, weights: torch.Tensor) -> torch.Tensor:
    return random_numbers(rows * inner, weights.device).view(rows, inner).to(weights.dtype)


def main() -> None:
    """Measure the kind of device that the argument names; only the result goes to stdout, other prints to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    with torch.inference_mode():
        probes = [probe(place) for place in PLACES[sys.argv[1]]()]
    with os.fdopen(answer, "wb") as stream:
        stream.write(msgspec.json.encode(probes) + b"\n")


if __name__ == "__main__":
    main()
