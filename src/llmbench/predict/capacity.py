"""The largest batch that fits, for each model and length: measured, and separately inferred and predicted.

Only sessions that ran, or ran out of memory, count.
"""

from __future__ import annotations

from collections import defaultdict
from math import floor
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench.predict import oom as predict_oom
from llmbench.predict.oom import Met
from llmbench.results.aggregate import understood
from llmbench.results.sessions import RecordedSession
from llmbench.spec.load import LOAD
from llmbench.spec.sweep import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.predict.oom import Seen
    from llmbench.results.prediction import Prediction
    from llmbench.results.store import Log
    from llmbench.spec.sweep import Point


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """One engine at one length, over all batch sizes.

    Attributes:
        batches: the planned batch sizes, in order.
        largest: the largest batch that fitted; None if none did.
        sessions: the number of sessions in which it fitted.
        ooms_up_to_it: processes that ran out of memory at or below it, which means that the edge is not sharp.
        oom: the smallest batch above the largest that ran out of memory.
        ooms: the number of processes in which it did.
        inferred: the smallest batch above the largest that need not be measured.
        why: the reason for that.
        predicted: the largest batch that fits by prediction.
        preallocates: whether the engine pre-allocates memory. It then queues what does not fit; a batch that ran
            may not have fitted.

    """

    model: str
    backend: str
    options: dict[str, Any]
    device: str
    dtype: str
    load_format: str
    input_len: int | str
    output_len: int
    context: int
    batches: list[int]
    largest: int | None
    sessions: int
    ooms_up_to_it: int
    oom: int | None
    ooms: int
    inferred: int | None
    why: str | None
    predicted: int | None
    preallocates: bool


def fits(log: Log) -> list[Fit]:
    """Return the rows of a run, in the order of its plan."""
    cells, met, preallocating = _read(log)
    predictions = log.plan.predictions if log.plan else {}
    engines: defaultdict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        if LOAD not in cell.options:  # a server queues what has no room
            engines[cell.group()].append(cell)
    return [
        fit
        for group in engines.values()
        for fit in _of_engine(
            [(cell, met[cell.id]) for cell in group],
            predictions,
            preallocates=any(cell.id in preallocating for cell in group),
        )
    ]


def _read(log: Log) -> tuple[list[Cell], Mapping[str, Met], set[str]]:
    """Return the cells, the results of each, and the ids of those whose engine pre-allocates memory."""
    met: defaultdict[str, Met] = defaultdict(Met)
    written: dict[str, Point] = {}
    preallocating: set[str] = set()
    counted: set[tuple[str, int]] = set()
    records = log.as_written(RecordedSession)  # a verdict on an engine changes no memory
    for record, cell in understood(log, records):
        written.setdefault(record.id, cell)
        if record.outcome.engine.preallocates:
            preallocating.add(record.id)
        if predict_oom.shows_fit(record.status) and (record.id, record.session) not in counted:
            counted.add((record.id, record.session))
            met[record.id].note(record.status, record.session, {"pid": record.worker.pid})
    planned = {cell.id: cell for cell in (log.plan.cells if log.plan else ())}
    others = [
        Cell(**msgspec.structs.asdict(cell))
        for name, cell in written.items()
        if name not in planned and None not in (cell.batch_size, cell.input_len, cell.output_len)
    ]
    return [*planned.values(), *others], met, preallocating


def _of_engine(
    seen: Sequence[Seen], predictions: Mapping[str, Prediction], *, preallocates: bool
) -> Iterator[Fit]:
    """Yield a Fit for each length of one engine."""
    limits = predict_oom.limits(seen)
    lengths: defaultdict[tuple[int | str, int], list[Seen]] = defaultdict(list)
    for cell, met in seen:
        lengths[cell.asked("input_len"), cell.output_len].append((cell, met))
    for members in lengths.values():
        members.sort(key=lambda pair: pair[0].batch_size)
        reasons = {
            cell.id: reason
            for cell, met in members
            if not (met.fitted or met.ooms)
            and (reason := predict_oom.inferred(cell, seen, limits, predictions.get(cell.id)))
        }
        yield _of_length(
            members, reasons, _roomiest(members, predictions), preallocates=preallocates
        )


def _of_length(
    members: Sequence[Seen],
    reasons: Mapping[str, str],
    predicted: int | None,
    *,
    preallocates: bool,
) -> Fit:
    first = members[0][0]
    runs = [(cell, met) for cell, met in members if met.fitted]
    largest = runs[-1][0].batch_size if runs else None
    above = [pair for pair in members if pair[0].batch_size > (largest or 0)]
    below = members[: len(members) - len(above)]
    oom = next(((cell, met) for cell, met in above if met.ooms), None)
    skipped = next((cell for cell, _ in above if cell.id in reasons), None)
    return Fit(
        model=first.model, backend=first.backend, options=first.options, device=first.device,
        dtype=first.dtype, load_format=first.load_format, input_len=first.asked("input_len"),
        output_len=first.output_len, context=max(predict_oom.context(cell) for cell, _ in runs or members),
        batches=[cell.batch_size for cell, _ in members],
        largest=largest, sessions=runs[-1][1].fitted if runs else 0,
        ooms_up_to_it=sum(len(met.ooms) for _, met in below),
        oom=oom[0].batch_size if oom else None, ooms=len(oom[1].ooms) if oom else 0,
        inferred=skipped.batch_size if skipped else None, why=reasons[skipped.id] if skipped else None,
        predicted=predicted, preallocates=preallocates,
    )  # fmt: skip


def _roomiest(members: Sequence[Seen], predictions: Mapping[str, Prediction]) -> int | None:
    """Return the largest batch whose predicted need fits, interpolated and extrapolated from the predictions.

    Every sequence needs the same; two batch sizes therefore determine all others. None if sequences differ.
    """
    if members[0][0].spread:
        return None
    known = [
        (cell.batch_size, prediction.need_bytes, prediction.have_bytes)
        for cell, _ in members
        if (prediction := predictions.get(cell.id))
        and prediction.need_bytes is not None
        and prediction.have_bytes is not None
    ]
    if len(known) < 2 or known[0][0] == known[-1][0]:
        return None
    (few, little, have), (many, much, _) = known[0], known[-1]
    each = (much - little) / (many - few)
    return max(0, floor(few + (have - little) / each)) if each > 0 else None
