"""This machine with its ceilings, or a known chip, as a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench import numbers
from llmbench.machine import chips
from llmbench.measure import probe
from llmbench.report.document import Document, Note, Section, foreign
from llmbench.report.views import facts
from llmbench.report.views.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.machine.peaks import Probe

NO_GPU = "No NVIDIA driver shows a GPU, and no processor has verified ceilings: no shares of a datasheet are given."
UNKNOWN = "No known chip has this name and memory: no shares of a datasheet are given."
UNVERIFIED = "Not all of this chip's ceilings are verified: shares of the others are not given."
NO_PROBE = "No measured ceilings are kept of this machine; llmbench machine --probe measures them."
TYPICAL_ROWS = (1, 16, 256, 4096)
"""Of the measured curve, those that people are shown; programs get all."""


CHIPS = (
    Fact("chip", "chip", kind="name"),
    Fact("name", "name"),
    Fact("memory_gb", "memory\nGiB", numbers.digits),
    Fact("bandwidth_gb_s", "bandwidth\nGB/s", numbers.digits),
    Fact("bfloat16_tflops", "bfloat16\nTFLOP/s", numbers.digits),
)
"""What a list of the known chips shows; not every value of it is verified."""


def every() -> Document:
    """Return the known chips, a row each."""
    known = {short: chips.chip(short) for short in chips.known()}
    rows = [
        {
            "chip": short,
            "name": each.name,
            "memory_gb": each.memory_gb,
            "bandwidth_gb_s": each.bandwidth_gb_s,
            "bfloat16_tflops": each.dense_tflops.get("bfloat16"),
        }
        for short, each in known.items()
    ]
    return Document(
        numbers.plural(len(rows), "chip"),
        [Section([facts.table(CHIPS, rows)])],
        facts.sheet(rows, [fact.key for fact in CHIPS]),
        lambda: rows,
        notes=[
            Note("llmbench machine CHIP shows all of one, with its sources and what is unverified.")
        ],
    )


def chip(name: str) -> Document:
    """Return the facts of a chip."""
    whole = msgspec.to_builtins(chips.chip(name))
    return _document(whole["name"], whole, whole)


def this(machine: Mapping[str, Any], probes: Sequence[Probe], notice: str) -> Document:
    """Return a machine's facts and its probes, or in words why there are none."""
    gpus = [{**gpu, **peaks(chips.match(gpu))} for gpu in machine["gpus"]]
    shares = [probe.shares(each, machine) for each in probes]
    pairs = list(zip(probes, shares, strict=True))
    exact = [{**msgspec.to_builtins(each), "share_of_datasheet": share} for each, share in pairs]
    shown = [figures(each, share) for each, share in pairs]
    whole = {**machine, "gpus": gpus, "remark": None if gpus else NO_GPU}
    without = notice or NO_PROBE
    return _document(
        "This machine",
        {**whole, "measured_ceilings": shown or without},
        {**whole, "measured_ceilings": exact or without},
    )


def _document(title: str, for_people: Mapping[str, Any], whole: Mapping[str, Any]) -> Document:
    leaves = list(facts.leaves(whole))
    return Document(
        foreign(title),
        [Section([facts.tree(for_people)])],
        [
            ("fact", [".".join(path) for path, _ in leaves]),
            ("value", [value for _, value in leaves]),
        ],
        lambda: whole,
    )


def figures(each: Probe, shares: dict[str, float]) -> dict[str, Any]:
    """Return a probe for people: the best that was reached, and how much of a datasheet that is."""
    curve: dict[str, dict[str, str]] = {}
    for rate in each.rates:
        if rate.rows in TYPICAL_ROWS:
            shape = curve.setdefault(f"{rate.dtype} {rate.inner}x{rate.columns}, by rows", {})
            shape[str(rate.rows)] = numbers.rate(rate.flops_s, "FLOP/s")

    def reached(key: str, value: float | None, unit: str) -> str | None:
        share = f" ({shares[key]:.0%} of the datasheet's)" if key in shares else ""
        return None if value is None else numbers.rate(value, unit) + share

    return {
        "device": f"{each.device}, {each.name}",
        "measured": f"{each.at} with torch {each.torch}"
        + (f", {each.threads} threads" if each.threads else ""),
        "copy, read and written": reached("copy", each.copy_bytes_s, "B/s"),
        **{
            f"weights read, {dtype}": reached(f"read {dtype}", value, "B/s")
            for dtype, value in each.read_bytes_s.items()
        },
        **{
            f"matrix product, {dtype}": reached(dtype, value, "FLOP/s")
            for dtype, value in each.flops_s.items()
        },
        "one operation": each.step_s and f"{each.step_s * 1e6:.3g} us",
        "matrix products with weights from memory": {
            name: ", ".join(f"{rows}: {rate}" for rows, rate in points.items())
            for name, points in curve.items()
        },
    }


def peaks(short: str | None) -> dict[str, Any]:
    """Return a chip's name and its verified ceilings; without a known chip there are none."""
    if short is None:
        return {"chip": None, "remark": UNKNOWN}
    chip = chips.chip(short)
    bandwidth, unverified = chip.bandwidth(), "dense_tflops" in chip.unverified
    return {
        "chip": short,
        "chip_name": chip.name,
        "bandwidth_gb_s": bandwidth and bandwidth / chips.GIGA,
        "dense_tflops": {} if unverified else chip.dense_tflops,
        "remark": UNVERIFIED if unverified or bandwidth is None else None,
    }
