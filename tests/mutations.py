"""Hypothesis strategies for broken files: damaged bytes, odd values in JSON, odd words in YAML."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([
        [], {}, [[]], {"a": None}, 0, -1, 0.0, -0.5, 1e308, 1e-308, 2**63, 2**64, -(2**63) - 1, 10**400,
        "", "1", "nan", "\x1b[2J", "\x9b2J", "\u202e", "</script>", "=1+1", "../../x", "x" * 999,
    ]),
)  # fmt: skip
"""Unexpected values."""

FACTORS = (2, 10, 0.5, 1e3, 1e-3, 1e9, -1, 0)
"""By which a number is off: another unit, another sign, nothing."""

WORDS = (
    "~", "", "[]", "{}", "-1", "0", "1e400", ".nan", "-.inf", "0x10", "0o17", "1_000", "12:30:00", "2024-01-01", "no",
    "true", "!!binary x", "!!set {a}", "!!python/name:os.system", "&a 1", "*a", "<<", "|", ">", "'", '"', "\t", "- - -",
    "? a", "x" * 999, "%YAML 1.1", "---", "...", "@", "`", "#", ": :", "9" * 5000, "[" * 200, "\x00", "\ufeff",
    "\u202e", "1-9999",
)  # fmt: skip
"""Pieces of YAML that are invalid or have a surprising meaning."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value inside a JSON value."""
    if path:
        yield path
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in pairs:
        yield from places(inner, (*path, key))


@st.composite
def changed(draw: st.DrawFn, value: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a JSON value with one thing in it gone, scaled or replaced, and where."""
    where = draw(st.sampled_from(list(places(value))))
    whole = copy.deepcopy(value)
    *parents, last = where
    inside = whole
    for key in parents:
        inside = inside[key]
    ways = ["gone", "odd"] if isinstance(inside[last], bool) else ["gone", "odd", "scaled"]
    way = draw(st.sampled_from(ways if isinstance(inside[last], int | float) else ways[:2]))
    if way == "gone":
        del inside[last]
    elif way == "scaled":
        inside[last] = scaled(inside[last], draw(st.sampled_from(FACTORS)))
    else:
        inside[last] = draw(ODD)
    return whole, where


def scaled(value: float, factor: float) -> float:
    """Return a number times a factor, whole if it was."""
    product = value * factor
    return int(product) if isinstance(value, int) and product == int(product) else product


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Return bytes with one damage: some flipped, lost, doubled, overwritten or inserted, or the end cut off."""
    at = draw(st.integers(0, len(data) - 1))
    more = draw(st.one_of(st.integers(1, 8), st.integers(1, 2000)))
    return draw(st.sampled_from([
        data[:at],
        data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :],
        data[:at] + data[at + more :],
        data[: at + more] + data[at:],
        data[:at] + bytes(more) + data[at + more :],
        data[:at] + draw(st.binary(min_size=1, max_size=40)) + data[at:],
    ]))  # fmt: skip


@st.composite
def garbled(draw: st.DrawFn, text: str) -> str:
    """Return lines of YAML with one of them lost, doubled, moved, cut, or with an odd word."""
    lines = text.split("\n")
    at = draw(st.integers(0, len(lines) - 1))
    word = draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)))
    key, colon, value = lines[at].partition(":")
    cut = draw(st.integers(0, len(lines[at])))
    instead = draw(st.sampled_from([
        [],
        [lines[at]] * 2,
        [f"  {lines[at]}"],
        [lines[at].lstrip()],
        [lines[at][:cut]],
        [lines[at][:cut] + word + lines[at][cut:]],
        [f"{key}{colon} {word}"],
        [f"{word}{colon}{value}"],
        [word],
    ]))  # fmt: skip
    return "\n".join([*lines[:at], *instead, *lines[at + 1 :]])


def as_json(value: Any) -> bytes:
    """Return a value as compact JSON, with NaN and infinity as Python writes them."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
