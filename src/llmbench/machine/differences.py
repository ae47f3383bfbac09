"""Facts of two machines, environments or settings side by side: nested ones by one name each, and what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmbench.machine import info

if TYPE_CHECKING:
    from collections.abc import Mapping


def differing(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Return every fact that differs, with both values."""
    return [
        f"{key} {_change(before.get(key, 'none'), after.get(key, 'none'))}"
        for key in dict.fromkeys((*before, *after))
        if before.get(key) != after.get(key)
    ]


def _change(before: object, after: object) -> str:
    """Return how a fact changed; for a list, what it lost and gained."""
    if not isinstance(before, list) or not isinstance(after, list):
        return f"{before} -> {after}"
    lost = [f"-{item}" for item in before if item not in after]
    gained = [f"+{item}" for item in after if item not in before]
    return " ".join([*lost, *gained]) or "in another order"


def flat(facts: Mapping[str, Any]) -> dict[str, object]:
    """Return nested facts by their innermost names; those of a list of GPUs by both, one value if all have the same."""
    by_name: dict[str, object] = {}
    for key, value in facts.items():
        if isinstance(value, dict):
            by_name |= flat(value)
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            for name in dict.fromkeys(name for each in value for name in each):
                of_each = [each.get(name) for each in value]
                alike = of_each.count(of_each[0]) == len(of_each)
                by_name[f"{key}.{name}"] = of_each[0] if alike else of_each
        elif key not in info.VOLATILE:
            by_name[key] = value
    return by_name
