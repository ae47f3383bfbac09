"""Claims about memory: the size of a context, the use of a window, memory levels, the capacity of a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbench.claims.claim import Answer, ClaimVerdict, Range, grouped, held
from llmbench.models import formulas
from llmbench.numbers import binary, digits
from llmbench.stats.interval import exactly, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.claims.claim import Claim, Evidence
    from llmbench.results.cells import Measured
    from llmbench.stats.interval import Interval

GB = 1e9
FAR_BEYOND = 1.5
"""A prompt counts as far beyond a window if it is this many times as long as one that just fills it."""


def context_is_memory(claim: Claim, given: Evidence) -> Answer:
    """Compare the keys and values of a model's longest context with those of its shortest."""
    parts, notes = [], []
    for model, series in grouped(_series(given, "kv_cache_bytes"), lambda rows: rows[0].cell.model):
        rows = max(series, key=_times)  # growth is the same at every batch size
        short, long, times = rows[0], rows[-1], _times(rows)
        if times < claim.threshold("least_times"):
            continue
        grown = max(long.values["kv_cache_bytes"]) / max(short.values["kv_cache_bytes"])
        slack = claim.threshold("within")
        figure = exactly(grown / times)
        sentence = f"{digits(times)} x the context takes {digits(grown)} x the keys and values; one over the other:"
        parts.append(held(model, sentence, figure, Range(1 - slack, 1 + slack), rows=(short, long)))
        notes.append(_bytes_a_token(short))
    return Answer(tuple(parts), tuple(note for note in notes if note))


def _bytes_a_token(row: Measured) -> str:
    """Return a note that compares the bytes per token with the architecture's formula."""
    if row.shape is None:
        return ""
    tokens = _held_tokens(row)
    held = max(row.values["kv_cache_bytes"]) / row.cell.batch_size / tokens
    formula = formulas.held_kv_bytes(row.shape, row.cell.dtype, tokens) / tokens
    kind = "multi-head" if row.shape.kv_heads == row.shape.heads else "grouped or shared keys"
    return (
        f"{row.cell.model} ({kind}) holds {binary(round(held))} per token; the formula gives "
        f"{binary(round(formula))}."
    )


def _held_tokens(row: Measured) -> int:
    return (
        row.cell.input_len + row.cell.output_len - 1
    )  # the last token is never fed, and not cached


def selective_reads(claim: Claim, given: Evidence) -> Answer:
    """Compare the time per token far beyond the window with that just past it, and with a model without a window."""
    flat = 1 + claim.threshold("flat_within")
    parts, notes = [], []
    series = _series(given, "tpot_s")
    full = [rows for rows in series if rows[0].shape and not rows[0].shape.window]
    for rows in series:
        beyond = _beyond_window(rows)
        if not beyond:
            continue
        short, long = beyond
        beside = [others for others in full if others[0].alike == short.alike]
        grown = [
            (growth, others[0]) for others in beside if (growth := _growth(others, short, long))
        ]
        seen = [growth for growth, _ in grown if growth.low > flat]
        figure = ratio(long.values["tpot_s"], short.values["tpot_s"])
        where = f"{long.cell.model}, {short.cell.input_len:,} to {long.cell.input_len:,} tokens"
        part = held(where, "time of a token grows", figure, Range(high=flat), "x", (short, long))
        parts.append(part if seen else part._replace(verdict=ClaimVerdict.INCONCLUSIVE))
        notes += [
            f"Without a window, {row.cell.model} grows {digits(growth.value)}x."
            for growth, row in grown
        ]
        if not seen:
            notes.append(
                "The time of a model without a window did not grow either; a window had nothing to save."
            )
    return Answer(tuple(parts), tuple(dict.fromkeys(notes)))


def _growth(rows: Sequence[Measured], short: Measured, long: Measured) -> Interval | None:
    """Return how another model's time per token grows between the same two lengths; None if not measured."""
    at = {(row.cell.batch_size, row.cell.input_len): row for row in rows}
    first, last = (at.get((end.cell.batch_size, end.cell.input_len)) for end in (short, long))
    return ratio(last.values["tpot_s"], first.values["tpot_s"]) if first and last else None


def tiered_memory(claim: Claim, given: Evidence) -> Answer:
    """Compare the extra time of weights one level down with the time to read them from there."""
    parts, notes = [], []
    for below_row, above_row in _offloaded(given):
        rate = below_row.engine.offload_read_bytes_s
        weights = max(below_row.values["weights_bytes"])
        price = ratio(below_row.values["tpot_s"], above_row.values["tpot_s"])
        where = f"{below_row.cell.model}, {below_row.cell.options['device_map']}"
        notes.append(
            f"{where}: with weights one level down, a token takes {digits(price.value)} times as long."
        )
        if not rate:
            notes.append(f"{where}: the read rate of that level was not recorded; no verdict.")
            continue
        expected_s = max(above_row.figure("tpot_s").value, weights / rate)
        figure = below_row.figure("tpot_s").times(1 / expected_s)
        factor = claim.threshold("within_factor")
        sentence = f"step against {digits(weights / rate * 1e3)} ms to read its weights from there:"
        both = (below_row, above_row)
        parts.append(held(where, sentence, figure, Range(1 / factor, factor), "x", both))
    return Answer(tuple(parts), tuple(notes))


def _offloaded(given: Evidence) -> Iterator[tuple[Measured, Measured]]:
    """Yield each offloaded cell with the cell that differs only in not being offloaded."""
    for row in given.rows:
        if "offload" not in str(row.cell.options.get("device_map")) or not row.has("tpot_s"):
            continue
        for other in given.rows:
            if other.run == row.run and _but_map(other) == _but_map(row) and other is not row:
                yield row, other


def _but_map(row: Measured) -> tuple[object, ...]:
    options = tuple(sorted(item for item in row.cell.options.items() if item[0] != "device_map"))
    cell = row.cell
    return (
        cell.model,
        cell.dtype,
        cell.device,
        options,
        cell.batch_size,
        cell.input_len,
        cell.output_len,
    )


def edge_models(claim: Claim, given: Evidence) -> Answer:
    """Compare each full-size model at batch 1 with a device's memory and a reader's speed."""
    limit, speed = claim.threshold("memory_gb") * GB, claim.threshold("tokens_per_s")
    parts = []
    able = [
        r for r in given.rows if r.cell.batch_size == 1 and not r.scaled and r.has("decode_tok_s")
    ]
    for model, rows in grouped(able, lambda row: row.cell.model):
        best = max(rows, key=lambda row: row.middle("decode_tok_s"))
        needed, figure = _needed_bytes(best), best.figure("decode_tok_s")
        if needed is None:
            continue
        part = held(model, f"{digits(needed / GB)} GB,", figure, Range(speed), "tok/s", (best,))
        parts.append(part if needed <= limit else part._replace(verdict=ClaimVerdict.CONTRADICTED))
    return Answer(tuple(parts))


def _needed_bytes(row: Measured) -> float | None:
    """Return a cell's peak memory on the device, or on the host for a CPU."""
    keys = (
        ("host_peak_rss_bytes",)
        if row.cell.device == "cpu"
        else ("peak_reserved_bytes", "device_used_bytes")
    )
    return next((max(row.values[key]) for key in keys if row.has(key)), None)


def _series(given: Evidence, key: str) -> list[list[Measured]]:
    """Return lists of one model's cells that differ only in prompt length, the shortest first."""
    rows = [row for row in given.rows if row.has(key)]
    groups = grouped(rows, lambda r: (r.alike, r.cell.model, r.cell.batch_size, r.cell.output_len))
    return [
        sorted(cells, key=lambda row: row.cell.input_len)
        for _, cells in groups
        if len({row.cell.input_len for row in cells}) > 1
    ]


def _times(rows: Sequence[Measured]) -> float:
    """Return the ratio of the longest to the shortest context of a series."""
    return _held_tokens(rows[-1]) / _held_tokens(rows[0])


def _beyond_window(rows: Sequence[Measured]) -> tuple[Measured, Measured] | None:
    """Return the cells just past a model's window and farthest beyond it; None if either or the window is missing."""
    shape = rows[0].shape
    if shape is None or not shape.window or shape.sliding_layers < shape.layers:
        return None
    beyond = [row for row in rows if row.cell.input_len >= shape.window]
    far = len(beyond) > 1 and beyond[-1].cell.input_len >= FAR_BEYOND * beyond[0].cell.input_len
    return (beyond[0], beyond[-1]) if far else None
