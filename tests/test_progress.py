"""What a person sees while a sweep runs: how far it is at least and at most, and which cell a line is about."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from llmbench.errors import RunError
from llmbench.machine import processes
from llmbench.measure import telemetry
from llmbench.results.record import Finding, Given, Status
from llmbench.run import plan, sweep
from llmbench.run.progress import LINE, Screen
from llmbench.spec.overrides import read
from make_records import make_cell, make_record, make_samples


def screen_of(width: int, *, terminal: bool = True) -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, no_color=True)
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

    assert "example  1 of 2 to 13 sessions, 30 s elapsed, about 30 s to 6 min left" in whole(file)
    assert "example  2 of 2 to 13 sessions, 30 s elapsed, about 0 s to 3 min left" in whole(file)
    assert (screen.planned, screen.further) == (3, 10)


def whole(file: io.StringIO) -> str:
    """Return what was written without colours, with a space for every line break."""
    return re.sub(r"\s*\n", " ", re.sub(r"\x1b\[[\d?;]*[A-Za-z]", "", file.getvalue()))


def test_a_narrow_screen_shows_figures_and_tells_the_shapes_of_cells_apart() -> None:
    screen, file = screen_of(80)
    cell = make_cell(0, model="llama-2-7b@tiny", input_len=1024)

    with screen:
        screen.ended_with(make_record(cell, 1, make_samples([0.5], 0.05, 16)))

    assert re.search(r"session +TTFT ms +TPOT ms +tok/s +cell", whole(file))
    assert re.search(r"ok +1 +50\.0 +30\.0 +128 +llama-2-7b@tiny b4 i1024 o16", whole(file))


def test_a_served_session_shows_its_own_figures_and_its_load() -> None:
    screen, file = screen_of(80)
    served = {"served_ttft_s": 0.05, "served_tpot_s": 0.03, "steady_output_tok_s": 128.0}
    given = {key: Given(value=value, definition="d", clock="c") for key, value in served.items()}
    cell = make_cell(0, model="llama-2-7b@tiny", input_len=1024, options={"load": "10/s"})

    with screen:
        screen.ended_with(make_record(cell, 1, outcome={"given": given}))

    assert re.search(r"ok +1 +50\.0 +30\.0 +128 +llama-2-7b@tiny load 10/s i1024 o16", whole(file))


def test_the_screen_says_which_cell_of_how_many_is_timed_and_that_it_stands_still() -> None:
    screen, file = screen_of(100)
    cells = [make_cell(number) for number in range(3)]

    with screen:
        screen.begin_round(3)
        screen.measuring(cells[0], 2)
        screen.ended_with(make_record(cells[0], 2, make_samples([0.5], 0.1, 16)))
        screen.measuring(cells[1], 2)

    assert "session 2, cell 1 of 3, since " in file.getvalue()
    assert "session 2, cell 2 of 3, since " in file.getvalue()
    assert "The display stands still on purpose while a cell is timed" in file.getvalue()


@pytest.mark.parametrize("planned", [2, 2400])
@pytest.mark.parametrize("codes", [0, 2, 9])
@pytest.mark.parametrize("name", ["m", "a-model-of-a-long-name@small" * 3])
@pytest.mark.parametrize("e2e_s", [0.01, 4321.0])
def test_a_line_of_a_log_fits_and_keeps_the_digest(
    planned: int, codes: int, name: str, e2e_s: float
) -> None:
    screen, file = screen_of(80, terminal=False)
    screen.planned = planned
    screen.began -= 12_345
    cell = make_cell(7, model=name, batch_size=512)
    warnings = [Finding("warmup_not_converged", "x")] * codes
    reason = "CUDA out of memory: tried to allocate 1 GiB. " * 9

    screen.ended_with(make_record(cell, 1, make_samples([e2e_s], e2e_s / 2, 16), warnings=warnings))
    screen.ended_with(make_record(cell, 2, status=Status.LOAD_FAILED, reason=reason))

    ok, failed = file.getvalue().splitlines()
    assert max(len(ok), len(failed)) <= LINE <= 120
    assert "0000000007" in ok
    assert "0000000007 b512" in failed
    assert all(word in ok for word in ("TTFT", "TPOT", "tok/s"))
    assert "CUDA out of memory" in failed
    assert bool(codes) == ("warning" in ok or "warmup_not_converged" in ok)


# -- a busy machine --------------------------------------------------------------------------------


def test_who_is_busy_is_named_with_its_process_and_share(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __init__(self, pid: int, name: str) -> None:
            self.pid, self.name = pid, lambda: name

    pytest_, idle = Other(4242, "pytest"), Other(5, "idle")
    used = iter([{pytest_: 10.0, idle: 1.0}, {pytest_: 10.0 + 0.1, idle: 1.0}])
    monkeypatch.setattr(processes, "_cpu_s", lambda: next(used))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    clock = iter([7.0, 7.1])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))

    assert processes.busiest(0.1) == "pytest (pid 4242) 50%"


def waited(monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> str:
    """Wait for a quiet machine on which others take these shares of the CPUs, one look after the other."""
    file = io.StringIO()
    left = iter(shares)
    monkeypatch.setattr(telemetry.CpuWindow, "others", lambda _: next(left))
    monkeypatch.setattr(processes, "busiest", lambda _: "pytest (pid 4242) 40%")
    planned = plan.plan(read(None, ["llama-7b@tiny"]))
    sweep.wait_for_quiet(planned, Console(file=file))
    return file.getvalue()


def test_a_quiet_machine_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, [0.01]) == ""


def test_a_busy_machine_is_waited_for_and_said_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = waited(monkeypatch, [0.4, 0.3, 0.01])

    assert said == (
        "Waiting for a quiet machine, 10 min at most: other processes use 40% of the CPUs: "
        "pytest (pid 4242) 40%.\n"
    )


def test_a_machine_that_stays_busy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "QUIET_WITHIN_S", 0.0)

    with pytest.raises(RunError, match=r"--wait-for-quiet: after 0 min, other processes use 40%"):
        waited(monkeypatch, [0.4, 0.4])
