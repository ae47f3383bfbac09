"""Changes since a run began: those of the sweep are reported, those of the environment refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmbench.errors import RunError
from llmbench.machine.differences import differing, flat
from llmbench.spec.sweep import AXES_AFTER, AXES_BEFORE, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from llmbench.results.record import Plan
    from llmbench.spec.sweep import Cell


UNSEEN = ("input_lens", "model_digest", "attached_digest")
"""Fields of a cell that no table shows, and that change its id."""


def same(earlier: Plan, written: Plan) -> bool:
    """Return whether two plans ask for the same measurements in the same environment."""
    return (earlier.cells, earlier.settings, earlier.environment_digest) == (
        written.cells,
        written.settings,
        written.environment_digest,
    )


def since(earlier: Plan, written: Plan) -> Iterator[str]:
    """Yield the differences between the sweep and the run's last plan."""
    if differences := _differences(earlier, written):
        yield f"{written.name}: the sweep has changed since this run was planned: {'; '.join(differences)}."
    before, now = ({cell.id for cell in plan.cells} for plan in (earlier, written))
    if before != now:
        yield (
            f"New cells: {len(now - before)}. Cells no longer planned: {len(before - now)}; their results are kept."
        )


def _differences(earlier: Plan, written: Plan) -> list[str]:
    return [*_of_settings(earlier, written), *_of_axes(earlier.cells, written.cells)]


def _of_settings(earlier: Plan, written: Plan) -> list[str]:
    return differing(*(flat(msgspec.to_builtins(plan.settings)) for plan in (earlier, written)))


def _of_axes(before: Sequence[Cell], now: Sequence[Cell]) -> Iterator[str]:
    """Yield the values that each axis, and each option, has gained and lost."""
    names = (*AXES_BEFORE, *AXES_AFTER, *UNSEEN)
    values = [values_of(cells, names) for cells in (before, now)]
    for name in dict.fromkeys((*values[0], *values[1])):
        old, new = (each.get(name, {}) for each in values)
        changes = [f"+{value}" for value in new if value not in old]
        changes += [f"-{value}" for value in old if value not in new]
        if changes:
            yield f"{name} {' '.join(changes)}"


def refuse_other_sweep(earlier: Plan, name: str, folder: Path) -> None:
    """Raise RunError if a sweep of another name began the run."""
    if earlier.name != name:
        raise RunError(
            f"{folder}: contains a run of the sweep {earlier.name!r}, and this one is {name!r}. "
            "A run holds one sweep only; use another --output."
        )


def refuse_other_grid(earlier: Plan, written: Plan, folder: Path) -> None:
    """Raise RunError, with the differences, if the sweep has other cells than the run."""
    if {cell.id for cell in earlier.cells} == {cell.id for cell in written.cells}:
        return
    changes = "; ".join(_differences(earlier, written))
    raise RunError(
        f"{folder}: holds other cells of this sweep ({changes}). Add to it with --add, or use another --output."
    )


def refuse_other_environment(earlier: Plan, facts: Mapping[str, Any], digest: str) -> None:
    """Raise RunError, with the differences, if the run began in another environment."""
    if earlier.environment_digest == digest:
        return
    changed = differing(flat(earlier.environment), flat(facts))
    raise RunError(
        f"{earlier.name}: the environment has changed since this run began ({'; '.join(changed)}). "
        "New sessions would not be replicates of the earlier ones; use another --output, or "
        "--new-environment to continue."
    )
