"""What a person sees while a sweep runs: how far it is at least and at most, and which cell a line is about."""

from __future__ import annotations

import io

from rich.console import Console

from llmbench.run.progress import Screen
from make_records import make_cell, make_record, make_samples


def screen_of(width: int) -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, no_color=True)
    screen = Screen(console, "example")
    screen.planned = 2
    return screen, file


def test_what_wide_intervals_may_add_is_said_from_the_start() -> None:
    screen, file = screen_of(80)
    screen.further = 11
    screen.began -= 30
    cell = make_cell(0)

    with screen:
        screen.ended_with(make_record(cell, 1, make_samples([0.5], 0.1, 16)))
        screen.ended_with(make_record(cell, 2, make_samples([0.5], 0.1, 16)))
    screen.more_planned(1, 10)

    assert "example  1 of 2 to 13 sessions, about 30 s to 6 min left" in file.getvalue()
    assert "example  2 of 2 to 13 sessions, about 0 s to 3 min left" in file.getvalue()
    assert (screen.planned, screen.further) == (3, 10)


def test_a_narrow_screen_tells_the_shapes_of_cells_apart() -> None:
    screen, file = screen_of(80)
    cell = make_cell(0, model="llama-2-7b@tiny", input_len=1024)

    with screen:
        screen.ended_with(make_record(cell, 1, make_samples([0.5], 0.1, 16)))

    assert "500.00 ms a call" in file.getvalue()
    assert "llama-2-7b@tiny b4 i1024 o16" in file.getvalue()
