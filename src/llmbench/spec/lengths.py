"""Prompts of different lengths in one batch: a range from which they are drawn, or a file that lists them."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench import files
from llmbench.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMS = "128-1024@uniform, or lengths FILE with a whole number on each line"
RANGE = re.compile(r"(\d{1,12})-(\d{1,12})@(\w+)")
OF_FILE = re.compile(r"lengths\s+(?P<file>\S.*)")
UNIFORM = "uniform"
MOST_BYTES = 2**24
"""The size limit of a file of lengths: about a million of them."""


def is_spread(text: str) -> bool:
    """Return whether a value of the axis input_len names prompts of different lengths."""
    return "@" in text or text.split(" ", maxsplit=1)[0] == "lengths"


def file_of(text: str) -> str:
    """Return the file that a value names; empty if it names none."""
    found = OF_FILE.fullmatch(text.strip())
    return found["file"] if found else ""


def shown(text: str) -> str:
    """Return a value without the folder of its file."""
    file = file_of(text)
    return f"lengths {Path(file).name}" if file else text


def of_batch(
    text: str, batch_size: int, seed: int, listed: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Return the length of each prompt of a batch; a larger batch has those of a smaller one first.

    Args:
        text: as it was asked for.
        batch_size: how many are wanted; a file that lists fewer yields what it has.
        seed: of the sweep.
        listed: the lengths of each file.

    Raises:
        SpecError: the text is none of the forms, with those that there are.

    """
    if file := file_of(text):
        return listed[file][:batch_size]
    first, last = _ends(text)
    draw = random.Random(f"{seed} {first}-{last}@{UNIFORM}")  # noqa: S311 - lengths are no secret
    return tuple(draw.randint(first, last) for _ in range(batch_size))


def _ends(text: str) -> tuple[int, int]:
    found = RANGE.fullmatch(text)
    if not found:
        raise SpecError(f"input_len: {text!r} is not a spread of lengths; write {FORMS}.")
    first, last = int(found[1]), int(found[2])
    if found[3] != UNIFORM:
        raise SpecError(f"input_len: {text!r}: lengths are drawn {UNIFORM}; write {FORMS}.")
    if not 1 <= first < last:
        raise SpecError(
            f"input_len: {text!r}: the range begins at 1 or more and ends above its beginning."
        )
    return first, last


def read(name: str) -> tuple[int, ...]:
    """Return the lengths that a file lists; raise SpecError with the line and what it should have."""
    try:
        text = files.read_text(Path(name).expanduser(), MOST_BYTES)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "is not a text file"
        raise SpecError(f"input_len: lengths {name!r}: {reason}.") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (word := line.strip()):
            continue
        if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) < 1:
            raise SpecError(
                f"input_len: lengths {name!r}, line {number}: {word[:40]!r} is not a whole number of tokens above 0; "
                "write one on each line, and nothing else."
            )
        found.append(int(word))
    if not found:
        raise SpecError(f"input_len: lengths {name!r}: lists no length.")
    return tuple(found)
