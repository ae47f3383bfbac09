"""Claims about memory: the size of a context, the use of a window, memory levels, the capacity of a device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmbench.claims.claim import Answer, ClaimVerdict, Part, Range, grouped, held
from llmbench.models import formulas
from llmbench.numbers import binary, digits, interval
from llmbench.results.cells import READ_RATE
from llmbench.stats.interval import around, exactly, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmbench.claims.claim import Claim, Evidence
    from llmbench.results.cells import Measured
    from llmbench.stats.interval import Interval

GB = 1e9
SIZES = ("llama-7b", "llama-13b", "llama-30b")
PHONES = ("snapdragon", "dimensity", "apple-a", "tensor-g")
"""The first letters of the names of phones' chips."""
FOUR_BITS = ("q4_", "int4", "4bit", "nf4")
"""How tools write that weights have four bits."""
STEP_RATES = ("decode_tok_s", "forward_decode_tok_s")
"""Tokens per second of single steps: ours, and llama.cpp's, which chooses no token."""
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
    if row.counts is None or row.cell.dtype not in formulas.ITEMSIZE:
        return ""  # another tool may not say the dtype
    tokens = _held_tokens(row)
    held = max(row.values["kv_cache_bytes"]) / row.cell.batch_size / tokens
    formula = formulas.held_kv_bytes(row.counts, row.cell.dtype, tokens) / tokens
    kind = "multi-head" if row.counts.kv_heads == row.counts.heads else "grouped or shared keys"
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
    full = [rows for rows in series if rows[0].counts and not rows[0].counts.window]
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
    for below, above in _offloaded(given):
        price = ratio(below.values["tpot_s"], above.values["tpot_s"])
        where = f"{below.cell.model}, {below.cell.options['device_map']}"
        notes.append(
            f"{where}: with weights one level down, a token takes {digits(price.value)} times as long."
        )
        reading_s = _reading_s(below)
        if not reading_s:
            notes.append(f"{where}: the read rate of that level was not recorded; no verdict.")
            continue
        part = _level_down(claim, below, above, reading_s)._replace(where=where)
        parts.append(part)
    return Answer(tuple(parts), tuple(notes))


def _reading_s(row: Measured) -> tuple[float, ...]:
    """Return the time to read all weights in each session at the session's own rate; empty unless all have one."""
    rates, times = row.values.get(READ_RATE, ()), row.values["tpot_s"]
    weights = max(row.values["weights_bytes"])
    return tuple(weights / rate for rate in rates) if len(rates) == len(times) else ()


def _level_down(claim: Claim, below: Measured, above: Measured, reading_s: Sequence[float]) -> Part:
    """Compare a step with reading its weights or with the step in memory, whichever takes longer.

    A step that is faster than reading its own weights is implausible, and settles nothing.
    """
    steps_s = below.values["tpot_s"]
    of_reading = around([step / read for step, read in zip(steps_s, reading_s, strict=True)])
    of_memory = ratio(steps_s, above.values["tpot_s"])
    figure = min(of_reading, of_memory, key=lambda share: share.value)
    factor = claim.threshold("within_factor")
    reading = digits(around(reading_s).value * 1e3)
    sentence = f"step against {reading} ms to read its weights from there, or the step in memory if longer:"
    part = held("", sentence, figure, Range(1 / factor, factor), "x", (below, above))
    if of_reading.high < 1:
        faster = f"implausible, faster than the {reading} ms to read its own weights:"
        return part._replace(verdict=ClaimVerdict.INCONCLUSIVE, said=faster, figure=of_reading)
    return part


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


def phone_runs_llama_2(claim: Claim, given: Evidence) -> Answer:
    """Compare LLaMA-2 in four bits on a phone with its memory and a reader's speed."""
    limit, speed = claim.threshold("memory_gb") * GB, Range(claim.threshold("tokens_per_s"))
    parts: list[Part] = []
    notes: list[str] = []
    able = [row for row in given.rows if row.cell.model.startswith("llama-2-") and _in_4_bits(row)]
    for (model, where), rows in grouped(able, lambda r: (r.cell.model, r.machine.chip or r.where)):
        timed = [(row, key) for row in rows for key in STEP_RATES if row.has(key)]
        if not where.startswith(PHONES) or not timed:
            notes.append(f"{model} on {where}: not timed on a phone, so not judged.")
            continue
        row, key = max(timed, key=lambda pair: pair[0].middle(pair[1]))
        needed = _needed_bytes(row) or _weights_bytes(row, claim.assumed("bits_per_parameter"))
        said = f"{digits(needed / GB)} GB,"
        part = held(f"{model} on {where}", said, row.figure(key), speed, "tok/s", (row,))
        parts.append(part if needed <= limit else part._replace(verdict=ClaimVerdict.CONTRADICTED))
    return Answer(tuple(parts), tuple(notes))


def _in_4_bits(row: Measured) -> bool:
    """Return whether a cell's dtype or options say that its weights have four bits."""
    words = [row.cell.dtype, *map(str, row.cell.options.values())]
    return any(bits in word.lower() for word in words for bits in FOUR_BITS)


def _weights_bytes(row: Measured, bits: float) -> float:
    """Return the size of a model's weights at so many bits; infinite if it is not known."""
    return row.counts.parameters * bits / 8 if row.counts else math.inf


def thirteen_b_is_enough(claim: Claim, given: Evidence) -> Answer:
    """Compare the memory of LLaMA's sizes with a consumer card's, and tell what each size costs."""
    limit = claim.threshold("memory_gb")
    parts, notes = [], []
    rows = [r for r in given.rows if r.cell.model in SIZES and r.has("weights_bytes")]
    for _, same in grouped(rows, _but_model):
        by_model = {row.cell.model: row for row in same}
        if not {"llama-13b", "llama-30b"} <= by_model.keys():
            continue
        middle, large = by_model["llama-13b"], by_model["llama-30b"]
        where = f"{middle.cell.dtype}, batch {middle.cell.batch_size}, {middle.cell.input_len:,} in"
        for row, name, range_ in (
            (middle, "13B fits", Range(high=limit)),
            (large, "30B does not", Range(limit)),
        ):
            needed = exactly(_held_bytes(row) / GB)
            said = f"weights, keys and values against a card of {digits(limit)} GB:"
            parts.append(held(f"{name}, {where}", said, needed, range_, "GB", (row,)))
        notes += [_times_cost(by_model[name], middle) for name in SIZES if name in by_model]
    return Answer(tuple(parts), tuple(note for note in notes if note))


def _held_bytes(row: Measured) -> float:
    return max(row.values["weights_bytes"]) + max(row.values.get("kv_cache_bytes", (0.0,)))


def _times_cost(row: Measured, middle: Measured) -> str:
    """Return a note on a size's cost per token against 13B; empty for 13B, or if either was not timed."""
    if row is middle or not row.has("output_tok_s") or not middle.has("output_tok_s"):
        return ""
    times = ratio(middle.values["output_tok_s"], row.values["output_tok_s"])
    return f"A token of {row.cell.model} costs {interval(times)} x one of {middle.cell.model}."


def _but_model(row: Measured) -> tuple[object, ...]:
    return row.alike, row.cell.batch_size, row.cell.input_len, row.cell.output_len


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
    counts = rows[0].counts
    window = counts and counts.window
    if counts is None or not window or not all(each.limit for each in counts.attended):
        return None
    beyond = [row for row in rows if row.cell.input_len >= window]
    far = len(beyond) > 1 and beyond[-1].cell.input_len >= FAR_BEYOND * beyond[0].cell.input_len
    return (beyond[0], beyond[-1]) if far else None
