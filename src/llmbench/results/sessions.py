"""The measurements of sessions as columns: a row per session, a column per quantity, NaN where it is absent.

Medians are computed for all sessions of one shape at once, because a numpy call for five numbers takes as long as one
for 100,000.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from llmbench.results.record import Finding, Given, Memory, Status
from llmbench.spec import speculation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.spec.sweep import Point

Column: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = NDArray[np.float64]


Nanoseconds: TypeAlias = Annotated[float, msgspec.Meta(ge=-(2.0**63), lt=2.0**63)]
"""The time of an iteration; a line with a larger number is not understood."""


SessionNumber: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""A line with a larger number is not understood: no array of whole numbers holds it."""


class RecordedSample(msgspec.Struct, gc=False):
    """The fields read from a sample; msgspec skips the others in a fraction of the time.

    Times are read as floats, exact up to 104 days, because numpy takes those in five times faster than integers.
    """

    e2e_ns: Nanoseconds | None
    token_ns: list[list[float]]
    discarded: str | None = None
    energy_mj: float | None = None


class RecordedFacts(msgspec.Struct, frozen=True, gc=False):
    """The fields read from an engine's facts."""

    preallocates: bool = False
    fresh: bool = True
    offload_read_bytes_s: float | None = None


class RecordedLevels(msgspec.Struct, frozen=True, gc=False):
    """The fields read from a record's telemetry."""

    sm_mhz_mean: float | None = None


class RecordedWorker(msgspec.Struct, frozen=True, gc=False):
    """The fields read from the facts of a worker; the last two only where boxes measured."""

    pid: int | None = None
    box: str = ""
    gpus: list[int] = []

    @property
    def place(self) -> str:
        """Return the box and its GPUs, in words; empty where one machine measured on one GPU at a time."""
        return f"{self.box} GPU {','.join(map(str, self.gpus))}" if self.gpus else self.box


class RecordedOutcome(msgspec.Struct, gc=False):
    """The fields read from an outcome."""

    engine: RecordedFacts = RecordedFacts()
    counters: dict[str, float] = {}
    samples: list[RecordedSample] = []
    load_s: float | None = None
    warmup_ns: list[float | None] = []
    memory: Memory | None = None
    prompt_bytes_per_token: float | None = None
    given: dict[str, Given] = {}


class RecordedSession(msgspec.Struct, tag_field="kind", tag="end", gc=False):
    """The fields that any reader needs of a record; the cell stays undecoded, because many records have the same."""

    id: str
    session: SessionNumber
    status: Status
    cell: msgspec.Raw
    outcome: RecordedOutcome
    environment: str
    protocol: int
    telemetry: RecordedLevels = RecordedLevels()
    worker: RecordedWorker = RecordedWorker()
    phase: str | None = None
    reason: str | None = None
    problems: list[Finding] = []
    warnings: list[Finding] = []


class Sessions(NamedTuple):
    """The columns, each of shape [sessions].

    Times are in seconds, each the median over the session's iterations that count: `decode_s` is the median
    of e2e - ttft, `gap_s` the median of all gaps between successive tokens of a sequence. The `_spread` of
    each is half the range of its samples over their median; NaN for a single sample. `energy_j` is the
    mean of the device's energy over an iteration, `bytes_per_token` is of the prompts' text, `tokens_per_step`
    and `accepted_share` are of all iterations together. The five from
    `prefill_work` on are of the whole batch, as predicted: operations, bytes, and ceilings of both a second.
    `given` holds, by the keys of METRICS, the values and spreads that other tools took themselves.
    """

    e2e_s: Column
    e2e_spread: Column
    ttft_s: Column
    ttft_spread: Column
    decode_s: Column
    decode_spread: Column
    gap_s: Column
    gap_spread: Column
    load_s: Column
    first_call_s: Column
    energy_j: Column
    bytes_per_token: Column
    tokens_per_step: Column
    accepted_share: Column
    weights_bytes: Column
    kv_cache_bytes: Column
    kv_cache_theoretical_bytes: Column
    peak_allocated_bytes: Column
    peak_reserved_bytes: Column
    device_used_bytes: Column
    process_used_bytes: Column
    host_peak_rss_bytes: Column
    host_peak_rss_load_bytes: Column
    host_peak_rss_generate_bytes: Column
    draft_bytes: Column
    adapter_bytes: Column
    batch_size: Column
    prompt_tokens: Column
    output_len: Column
    prefill_work: Column
    decode_work: Column
    decode_moved: Column
    compute_ceiling: Column
    memory_ceiling: Column
    given: Mapping[str, tuple[Column, Column]]

    def given_value(self, key: str) -> Column:
        """Return other tools' values under a key; NaN where there is none."""
        return self._given(key)[0]

    def given_spread(self, key: str) -> Column:
        """Return half the range of their iterations over the median, where there are any."""
        return self._given(key)[1]

    def _given(self, key: str) -> tuple[Column, Column]:
        absent = np.full(len(self.batch_size), np.nan)
        return self.given.get(key, (absent, absent))


PREDICTED = Sessions._fields.index("prefill_work")
COLUMNS = Sessions._fields.index("given")
TIMES = Sessions._fields.index("load_s")
"""The first columns come from the samples; the next from the record, three from the cell, and the last from its
prediction."""

FIRST_CALL = Sessions._fields.index("first_call_s")

NO_MEMORY = (None,) * len(Memory.__struct_fields__)

MOST_WAITING = 2**16
"""The most token times that wait for sessions of the same shape: half a MiB, which fits a processor's cache."""

Shape: TypeAlias = tuple[int, int, int]
"""Samples of a session, rows of its first sample, and tokens of every row; 0 where rows differ, or there are none."""


class Alike:
    """Sessions of one shape that wait for their medians: their numbers, and the times of all in a row.

    The times of sessions whose sequences are of one length are packed; ragged ones wait as they are.
    """

    __slots__ = ("e2e_ns", "numbers", "ragged", "token_ns")

    def __init__(self) -> None:
        """Begin with none."""
        self.numbers: list[int] = []
        self.e2e_ns = array("d")
        self.token_ns = array("d")
        self.ragged: list[list[list[float]]] = []


class Gatherer:
    """Takes in sessions one by one and returns their columns; keeps 29 numbers a session, no samples."""

    def __init__(self) -> None:
        """Begin with no session."""
        self._read_off: list[tuple[float | None, ...]] = []
        self._times: list[tuple[list[int], Columns]] = []
        self._waiting: defaultdict[Shape, Alike] = defaultdict(Alike)
        self._room = MOST_WAITING
        self._given: defaultdict[str, dict[int, Given]] = defaultdict(dict)

    def take(self, taken: RecordedOutcome) -> None:
        """Take in one session."""
        number = len(self._read_off)
        kept = [sample for sample in taken.samples if sample.e2e_ns and not sample.discarded]
        warmup_ns, memory = taken.warmup_ns, taken.memory
        self._read_off.append(
            (
                taken.load_s,
                warmup_ns[0] if warmup_ns else None,
                _energy_j(kept) if kept and kept[0].energy_mj is not None else None,
                taken.prompt_bytes_per_token,
                *_speculation(taken.counters),
                *(astuple(memory) if memory else NO_MEMORY),
            )
        )
        if taken.given:
            for key, given in taken.given.items():
                self._given[key][number] = given
        if kept:
            self._wait(number, kept)

    def _wait(self, number: int, kept: list[RecordedSample]) -> None:
        """Keep the times of a session; packed at once, while the processor still has them in its cache."""
        samples = [sample.token_ns for sample in kept]
        rows = list(chain.from_iterable(samples))
        lengths = set(map(len, rows))
        length = lengths.pop() if len(lengths) == len(set(map(len, samples))) == 1 else 0
        alike = self._waiting[len(samples), len(samples[0]), length]
        alike.numbers.append(number)
        alike.e2e_ns.fromlist([sample.e2e_ns for sample in kept])  # type: ignore[misc]
        if length:
            pack = alike.token_ns.fromlist
            for row in rows:
                pack(row)
            self._room -= length * len(rows)
        else:
            alike.ragged += samples
            self._room -= len(samples) + sum(map(len, rows))
        if self._room < 0:
            self._reduce()

    def _reduce(self) -> None:
        for shape, alike in self._waiting.items():
            self._times.append((alike.numbers, typical(alike, shape)))
        self._waiting.clear()
        self._room = MOST_WAITING

    def definitions(self, key: str) -> set[str]:
        """Return other tools' definitions of a metric; empty if none gave it."""
        return {given.definition for given in self._given.get(key, {}).values()}

    def sessions(
        self,
        cells: Sequence[Point],
        work: Columns | None = None,
        owners: NDArray[np.int64] | None = None,
    ) -> Sessions:
        """Return the columns of all sessions taken in so far, in that order, given the cell of each.

        `work` holds the predicted columns, of shape [5, sessions]; without it they are absent. `owners` are the
        numbers of the sessions' cells, where these are given once each.
        """
        self._reduce()
        count = len(self._read_off)
        columns = np.full((COLUMNS, count), np.nan)
        for numbers, times in self._times:
            columns[:TIMES, numbers] = times
        if count:
            for place, column in enumerate(zip(*self._read_off, strict=True), TIMES):
                if column.count(None) < count:  # most columns are absent throughout
                    columns[place] = column  # None becomes NaN
            columns[FIRST_CALL][columns[FIRST_CALL] == 0] = np.nan
            columns[FIRST_CALL] /= 1e9
            sizes = [(c.batch_size, c.prompt_tokens, c.output_len) for c in cells]
            shapes = np.array(sizes, dtype=np.float64).T
            columns[PREDICTED - 3 : PREDICTED] = shapes if owners is None else shapes[:, owners]
        if work is not None:
            columns[PREDICTED:] = work
        given = {key: _columns(by_number, count) for key, by_number in self._given.items()}
        return Sessions._make((*columns, given))


def _speculation(counters: Mapping[str, float]) -> tuple[float | None, float | None]:
    """Return new tokens a pass and the share of drafted tokens that were accepted; None without speculation."""
    if not (passes := counters.get(speculation.PASSES)):
        return None, None
    drafted, accepted = counters[speculation.DRAFTED], counters[speculation.ACCEPTED]
    return counters[speculation.NEW] / passes, accepted / drafted if drafted else None


def _columns(given: Mapping[int, Given], count: int) -> tuple[Column, Column]:
    """Return other tools' values and their spreads, each of shape [count]."""
    values, spreads = np.full((2, count), np.nan)
    for number, one in given.items():
        values[number] = one.value
        if one.per == "iteration" and len(one.samples) > 1:
            spreads[number] = (max(one.samples) - min(one.samples)) / 2 / one.value
    return values, spreads


def _energy_j(kept: Sequence[RecordedSample]) -> float | None:
    """Return the mean energy of the iterations; None unless each has one.

    A driver updates its counter about ten times a second: a short iteration reads nothing or a whole step of it,
    and the median of such numbers means nothing.
    """
    known = [sample.energy_mj for sample in kept if sample.energy_mj is not None]
    if len(known) < len(kept):
        return None
    return sum(known) / len(known) / 1e3 or None  # a counter that never moved tells nothing


def typical(alike: Alike, shape: Shape) -> Columns:
    """Return the time columns of sessions of one shape; shape [times, sessions]."""
    whole = np.frombuffer(alike.e2e_ns).reshape(-1, shape[0])
    at = np.frombuffer(alike.token_ns) if shape[2] else _padded(alike.ragged)
    at = at.reshape(*whole.shape, *(shape[1:] if shape[2] else at.shape[1:]))
    first = np.fmax.reduce(at[..., 0], axis=2)
    decode = whole - first if at.shape[3] > 1 else np.full(whole.shape, np.nan)
    gaps = np.diff(at, axis=3).reshape(len(whole), -1)
    return np.concatenate([_middle_and_spread(part) for part in (whole, first, decode, gaps)])


def _padded(samples: Sequence[list[list[float]]]) -> Columns:
    """Return token times, NaN where there is none; shape [samples, rows, tokens]."""
    most_rows = max(map(len, samples))
    longest = max(map(len, chain.from_iterable(samples)), default=0)
    at = np.full((len(samples), max(1, most_rows), max(1, longest)), np.nan)
    for number, rows in enumerate(samples):
        for row, times in enumerate(rows):
            at[number, row, : len(times)] = times
    return at


def _middle_and_spread(samples_ns: Columns) -> Columns:
    """Return the median in seconds and half the range over it, of each row; shape [2, sessions]."""
    if not samples_ns.shape[1]:
        return np.full((2, len(samples_ns)), np.nan)
    ordered = np.sort(samples_ns, axis=1)  # NaN comes last
    n = np.isfinite(ordered).sum(axis=1)
    row = np.arange(len(ordered))
    middle = (ordered[row, (n - 1) // 2] + ordered[row, n // 2]) / 2
    middle[~(middle > 0)] = np.nan
    spread = (ordered[row, n - 1] - ordered[:, 0]) / 2 / middle
    spread[n < 2] = np.nan
    return np.stack([middle / 1e9, spread])
