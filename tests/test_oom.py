"""What an OOM says about other cells, and what it does not."""

import msgspec
import pytest

from llmbench.predict import oom
from llmbench.predict.oom import GIB, Met
from llmbench.results.prediction import Prediction
from llmbench.results.record import Status
from llmbench.spec.sweep import Cell
from make_records import make_cell

MIDDLE = (8, 512, 128)
"""Batch, prompt, answer."""


def cell(point: tuple[int, int, int]) -> Cell:
    batch_size, input_len, output_len = point
    return msgspec.structs.replace(
        make_cell(),
        id=str(point),
        batch_size=batch_size,
        input_len=input_len,
        output_len=output_len,
    )


def met(*statuses: Status) -> Met:
    """Return what a cell met in these sessions, each in a process of its own."""
    found = Met()
    for session, status in enumerate(statuses, 1):
        found.note(status, session, {"pid": session})
    return found


TWICE = (Status.OOM, Status.OOM)


def verdict(asked: tuple[int, int, int], *seen: tuple[tuple[int, int, int], Met]) -> str | None:
    return oom.dominated(cell(asked), oom.limits([(cell(point), found) for point, found in seen]))


@pytest.mark.parametrize(
    "larger", [MIDDLE, (9, 512, 128), (8, 513, 128), (8, 512, 129), (16, 1024, 256), (8, 600, 40)]
)
def test_what_is_no_smaller_in_anything_is_dominated(larger: tuple[int, int, int]) -> None:
    reason = verdict(larger, (MIDDLE, met(*TWICE)))

    assert (
        reason == "needs at least as much memory as the OOM at batch 8, context 640 (seen 2 times)"
    )


@pytest.mark.parametrize(
    "other", [(7, 4096, 128), (64, 256, 128), (64, 512, 127), (8, 511, 200), (1, 1, 1)]
)
def test_what_is_smaller_in_something_is_not(other: tuple[int, int, int]) -> None:
    assert verdict(other, (MIDDLE, met(*TWICE))) is None


def test_one_oom_is_not_enough() -> None:
    assert verdict((64, 4096, 128), (MIDDLE, met(Status.OOM))) is None


def test_ooms_of_two_smaller_cells_are_enough() -> None:
    reason = verdict(
        (64, 4096, 128), (MIDDLE, met(Status.OOM)), ((4, 1024, 128), met(Status.OK, Status.OOM)),
        ((4, 1024, 64), met(Status.CRASH)),
    )  # fmt: skip

    assert reason is None  # the second has fitted

    reason = verdict(
        (64, 4096, 128), (MIDDLE, met(Status.OOM)), ((4, 1024, 128), met(Status.CRASH, Status.OOM))
    )

    assert reason == (
        "needs at least as much memory as the OOMs at batch 4, context 1152 (seen once) and at batch 8, "
        "context 640 (seen once)"
    )


def test_a_load_that_several_cells_met_counts_once() -> None:
    shared = [(point, Met()) for point in (MIDDLE, (4, 512, 128), (2, 512, 128))]
    for _, found in shared:
        found.note(Status.OOM, 1, {"pid": 7})

    assert verdict((64, 4096, 128), *shared) is None


@pytest.mark.parametrize("status", [Status.OK, Status.INVALID])
@pytest.mark.parametrize("fitted", [MIDDLE, (16, 1024, 128)])
def test_what_fitted_at_least_once_frees_what_is_above_it_of_doubt(
    fitted: tuple[int, int, int], status: Status
) -> None:
    assert verdict((64, 4096, 128), (MIDDLE, met(*TWICE)), (fitted, met(status))) is None


def test_what_fitted_elsewhere_does_not() -> None:
    assert verdict((64, 4096, 128), (MIDDLE, met(*TWICE)), ((64, 256, 128), met(Status.OK)))


def test_a_prediction_says_its_figures() -> None:
    predicted = Prediction(
        weights_bytes=13 * GIB, kv_cache_bytes=128 * GIB, need_bytes=148 * GIB, have_bytes=139 * GIB, fits="no"
    )  # fmt: skip

    assert oom.too_big(predicted) == (
        "predicted to need 148.0 GiB of 139.0: weights 13.0, keys and values 128.0, the rest 7.0"
    )


@pytest.mark.parametrize("fits", ["fits", "tight", "unknown"])
def test_a_prediction_that_leaves_room_or_doubt_says_nothing(fits: str) -> None:
    predicted = msgspec.convert(
        {"need_bytes": 148 * GIB, "have_bytes": 139 * GIB, "fits": fits}, Prediction
    )

    assert oom.too_big(predicted) is None
    assert oom.too_big(None) is None
