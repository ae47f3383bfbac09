"""Times of a forward pass: a lower bound, and an estimate from its parts at measured rates.

The lower bound divides operations and bytes by their ceilings, without tuning. The estimate adds up what a pass of
transformers does on a device: matrix products at the rate for their number of rows, attention, copies, and the
dispatch of each operation.
"""

from __future__ import annotations

import functools
import itertools
import math
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from llmbench.models import formulas
from llmbench.models.formulas import ITEMSIZE
from llmbench.predict.memory import SLOW_GELU, pair_bytes

if TYPE_CHECKING:
    from llmbench.machine.peaks import Probe
    from llmbench.models.counts import Counts
    from llmbench.spec.sweep import Cell

ON_CHIP_BYTES = 2**29
"""Weights smaller than this may stay in a chip's caches (256 MiB in an MI300X) and never be read from memory."""

EVENTS_PER_LAYER, EVENTS_PER_PASS = 193, 96
"""Operations that torch dispatches in a decode step, including views: medians over 13 families at 2 and 4 layers."""

NARROW_TRAFFIC = 40
"""Reads and writes per layer of each number in the residual stream: norms 10, rotation 20, sums 6, rest 4."""
WIDE_TRAFFIC, GATED_TRAFFIC, SLOW_TRAFFIC = 2, 5, 18
"""The same inside a feed-forward layer: one activation; one and a product; one of single operations."""

GROWN, READ = 2, 1
"""A step of the dynamic cache reads the old keys and values and writes them again; attention reads them."""


class Work(NamedTuple):
    """The least operations and bytes of a cell, for the whole batch; decode is the sum of n - 1 steps."""

    prefill_flops: int
    decode_flops: int
    decode_bytes: int
    step_weight_bytes: int


def work(counts: Counts, cell: Cell) -> Work:
    """Return the exact work of a cell."""
    steps = cell.output_len - 1
    weights = formulas.step_weight_bytes(counts, cell.dtype)
    prefill_flops = decode_flops = kv_bytes = 0
    for input_len, many in cell.prompts_by_length.items():
        first, encoded = (1, input_len) if counts.encoder_layers else (input_len, 0)
        prefill_flops += many * formulas.prefill_flops(counts, input_len)
        decode_flops += many * formulas.decode_flops_of_steps(counts, first, steps, encoded)
        kv_bytes += many * formulas.read_kv_bytes(counts, cell.dtype, first + 1, steps, encoded)
    return Work(prefill_flops, decode_flops, steps * weights + kv_bytes, weights)


def least_s(
    flops: float, moved_bytes: float, flops_s: float | None, bytes_s: float | None
) -> float | None:
    """Return the lower bound in seconds for this work; None unless both ceilings are known."""
    if not flops_s or not bytes_s:
        return None
    return max(flops / flops_s, moved_bytes / bytes_s)


def prefill_s(counts: Counts, model_type: str, cell: Cell, speeds: Speeds) -> float:
    """Return the seconds of the prefill, up to the first new token."""
    rows, layers = cell.batch_size * cell.input_len, counts.encoder_layers or counts.layers
    written = pair_bytes(counts, model_type, cell)
    squares = layers * cell.batch_size * cell.input_len**2
    attention = cell.batch_size * formulas.prefill_attention_flops(
        counts, cell.input_len, square=bool(written)
    )
    moved = (
        layers * rows * _traffic_bytes(counts, model_type, cell)
        + GROWN * formulas.kv_bytes_per_token(counts, cell.dtype) * rows
        + 2 * written * counts.heads * squares
    )
    computing, dispatch = (
        _products_s(counts, rows, layers, cell.batch_size, speeds)
        + attention / speeds.flops_s(min(rows, cell.input_len))
        + speeds.copy_s(moved),
        _dispatch_s(layers, speeds),
    )
    if counts.encoder_layers:  # the first step of the decoder is part of it
        step = _step_parts(counts, model_type, cell, speeds)
        computing, dispatch = computing + step[0], dispatch + step[1]
    return _together(computing, dispatch, cell.device)


def step_s(counts: Counts, model_type: str, cell: Cell, speeds: Speeds) -> float:
    """Return the seconds of a decode step in the middle of the answer."""
    return _together(*_step_parts(counts, model_type, cell, speeds), cell.device)


def _step_parts(counts: Counts, model_type: str, cell: Cell, speeds: Speeds) -> tuple[float, float]:
    """Return the seconds of a step's computation and of its dispatch."""
    batch, encoded = cell.batch_size, cell.input_len if counts.encoder_layers else 0
    past = cell.output_len // 2 + (1 if encoded else cell.input_len)
    grown = 0 if cell.options.get("cache") == "static" else GROWN
    held = batch * formulas.held_kv_bytes(counts, cell.dtype, past, 0)
    cross = batch * formulas.held_kv_bytes(counts, cell.dtype, 0, encoded)
    layers = counts.layers * (2 if encoded else 1)
    traffic = layers * batch * _traffic_bytes(counts, model_type, cell)
    moved = READ * (held + cross) + grown * held + traffic
    computing = _products_s(counts, batch, layers, batch, speeds) + speeds.copy_s(moved)
    return computing, _dispatch_s(layers, speeds)


def _dispatch_s(layers: int, speeds: Speeds) -> float:
    return speeds.step_s * (EVENTS_PER_PASS + EVENTS_PER_LAYER * layers)


def _together(computing: float, dispatch: float, device: str) -> float:
    """Return the seconds of a pass; a GPU works while its host dispatches, and the longer of the two counts."""
    return computing + dispatch if device == "cpu" else max(computing, dispatch)


def _products_s(counts: Counts, rows: int, layers: int, last: int, speeds: Speeds) -> float:
    """Return the seconds of all matrix products in this many layers; the head has `last` rows.

    In a mixture, each expert has its own tokens.
    """
    share, seconds = layers / counts.layers, 0.0
    for product in counts.products:
        count, height = float(product.count), rows
        if product.experts:
            sent = rows * counts.experts_per_token
            count *= min(product.experts, sent) / counts.experts_per_token
            height = max(1, sent // product.experts)
        seconds += (
            share
            * count
            * speeds.product_s(height, product.inner, product.columns, counts.parameters)
        )
    width = counts.head_weights // counts.vocabulary
    return seconds + speeds.product_s(last, width, counts.vocabulary, counts.parameters)


def _traffic_bytes(counts: Counts, model_type: str, cell: Cell) -> int:
    """Return the bytes that a layer reads and writes per token outside its matrix products."""
    plain = SLOW_TRAFFIC if model_type in SLOW_GELU else WIDE_TRAFFIC
    wide = GATED_TRAFFIC if counts.gated else plain
    numbers = NARROW_TRAFFIC * counts.hidden + wide * counts.inner * counts.experts_per_token
    return numbers * ITEMSIZE[cell.dtype]


class Speeds:
    """A probe's rates for one dtype, interpolated between its points."""

    def __init__(self, probe: Probe, dtype: str) -> None:
        """Sort the curve; raise KeyError if the probe has no rates for this dtype."""
        self.step_s = probe.step_s or 0.0
        self._itemsize = ITEMSIZE[dtype]
        self._peak = probe.flops_s[dtype]
        self._read = probe.read_bytes_s.get(dtype) or probe.copy_bytes_s
        self._copy = probe.copy_bytes_s or self._read
        self._curves: dict[float, list[tuple[float, float]]] = {}
        for rate in sorted((r for r in probe.rates if r.dtype == dtype), key=attrgetter("rows")):
            size = math.log(rate.inner * rate.columns)
            self._curves.setdefault(size, []).append((math.log(rate.rows), math.log(rate.flops_s)))
        self.product_s = functools.cache(self._product_s)
        self.flops_s = functools.cache(self._flops_s)

    def copy_s(self, moved_bytes: float) -> float:
        """Return the seconds to read and write this many bytes in total."""
        return moved_bytes / self._copy if self._copy else 0.0

    def _product_s(self, rows: int, inner: int, columns: int, parameters: int) -> float:
        """Return the seconds of one product: its operations and the reading of its weights.

        Without a curve both are added; a point of a curve includes both. Weights too large for a cache come from
        memory each time, even if the probe's own were faster.
        """
        flops, weights = 2 * rows * inner * columns, inner * columns * self._itemsize
        reading = weights / self._read if self._read else 0.0
        if not self._curves:
            return flops / self._peak + reading
        seconds = flops / self._flops_s(rows, inner * columns)
        cold = parameters * self._itemsize >= ON_CHIP_BYTES
        return max(seconds, reading) if cold and reading >= flops / self._peak else seconds

    def _flops_s(self, rows: int, weights: int = 0) -> float:
        """Return the rate at this many rows on the curve of the matrix closest in size."""
        if not self._curves:
            return self._peak
        size = math.log(weights or 1)
        curve = self._curves[min(self._curves, key=lambda known: abs(known - size))]
        return math.exp(_between(curve, math.log(rows)))


def _between(curve: list[tuple[float, float]], x: float) -> float:
    """Return y by linear interpolation between points; constant beyond the ends."""
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x <= x1:
            return y0 + (y1 - y0) * max(0.0, x - x0) / (x1 - x0)
    return curve[-1][1]
