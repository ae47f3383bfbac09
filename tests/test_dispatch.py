"""When a clock may run on a box, and what is heard of an attempt that has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmbench.results.record import Outcome
from llmbench.run import channel
from llmbench.run.dispatch import Dispatch
from llmbench.run.pins import Size
from llmbench.run.slots import Slot

ONE = Size(1, 1)


class Box:
    """A box that keeps what is sent to it."""

    def __init__(self) -> None:
        self.name, self.gone = "b", ""
        self.sent: list[tuple[str, channel.Order]] = []

    def send(self, order: channel.Order, slot: str) -> None:
        self.sent.append((slot, order))


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def dispatch(box: Box, notes: list[str]) -> Dispatch:
    """Return the dispatch of a box with three GPUs."""
    made = Dispatch.__new__(Dispatch)
    anything: Any = SimpleNamespace
    made.runner = anything(screen=anything(note=notes.append), must_stop=lambda: False)
    made.boxes = anything(all=[box], living=[box])
    given: Any = box
    made.slots = {ONE: [Slot(given, [number], [f"u{number}"]) for number in range(3)]}
    made.alone = made.company = made.spread = False
    for slot in made.slots[ONE]:
        slot.token = slot.name
    return made


def gone(box: Box) -> list[str]:
    """Return the slots that were told to go on since the last look."""
    sent, box.sent[:] = list(box.sent), []
    return [slot for slot, order in sent if isinstance(order, channel.Go)]


def test_nothing_warms_up_while_a_clock_runs(dispatch: Dispatch, box: Box) -> None:
    timed, paused, _ = dispatch.slots[ONE]
    timed.state, paused.state = "timed", "paused"

    dispatch._start()
    assert gone(box) == []

    timed.state = "idle"
    dispatch._start()
    assert gone(box) == ["1"]
    assert paused.state == "loud"


def test_no_clock_runs_until_all_are_warm_and_then_all_do(dispatch: Dispatch, box: Box) -> None:
    first, second, loading = dispatch.slots[ONE]
    first.state = second.state = "warm"
    loading.state = "loud"

    dispatch._start()
    assert gone(box) == []

    loading.state = "warm"
    dispatch._start()
    assert gone(box) == ["0", "1", "2"]
    assert {slot.state for slot in dispatch.slots[ONE]} == {"timed"}
    assert [slot.seen() for slot in dispatch.slots[ONE]] == [{"neighbours": 2}] * 3


def test_a_result_of_an_attempt_that_has_ended_is_dropped_and_said(
    dispatch: Dispatch, notes: list[str]
) -> None:
    slot = dispatch.slots[ONE][0]
    slot.state, slot.token = "timed", "new"
    late = channel.SlotResult(token="old", outcome=Outcome(cell="c"), last=True, telemetry={})  # noqa: S106 - of an attempt

    dispatch._take(slot, late)

    assert slot.state == "timed"
    assert notes == ["Box b, GPU 0: something about an attempt that had ended was dropped."]
