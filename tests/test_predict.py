"""What is predicted of which engine: all of ours, the work alone of another, nothing of a made-up one."""

from typing import Any

import msgspec
import pytest

from llmbench.machine import chips
from llmbench.models import resolve
from llmbench.predict import estimate
from llmbench.results.prediction import Prediction
from llmbench.spec.sweep import Cell, Protocol

CELL = Cell(
    id="one", model="llama-7b", model_digest="", backend="transformers", options={}, device="cuda",
    dtype="bfloat16", load_format="dummy", prompts="synthetic", batch_size=2, input_len=128, output_len=9,
)  # fmt: skip
TIMES = ("ttft_s", "tpot_s", "session_s")
MEMORY = ("need_bytes", "kv_cache_bytes", "have_bytes")


def predicted(**changes: Any) -> Prediction:
    """Return the prediction of a cell on an H200 that is not at hand."""
    cell = msgspec.structs.replace(CELL, **changes)
    models = {"llama-7b": resolve.resolve("llama-7b")}
    place = estimate.elsewhere(chips.chip("h200"))
    return estimate.predictions([cell], models, Protocol(), place)["one"]


def absent(prediction: Prediction, names: tuple[str, ...]) -> bool:
    return all(getattr(prediction, name) is None for name in names)


def cell_weights(prediction: Prediction) -> bool:
    """Return whether the weights are known, which quarters of a number or parts of a model are not."""
    return prediction.weights_bytes is not None


def test_the_work_is_the_same_whatever_engine_does_it() -> None:
    ours, other = predicted(), predicted(backend="vllm")

    for name in (
        "prefill_flops",
        "decode_flops",
        "decode_bytes",
        "weights_bytes",
        "flops_s",
        "source",
    ):
        assert getattr(other, name) == getattr(ours, name)
    assert ours.prefill_flops == pytest.approx(2 * 128 * 2 * 6.5e9, rel=0.05)


def test_what_another_engine_holds_and_takes_is_not_guessed() -> None:
    other = predicted(backend="vllm")

    assert other.fits == "unknown"
    assert absent(other, (*TIMES, *MEMORY))
    assert not absent(predicted(), TIMES)


def test_float32_is_not_expected_to_be_as_fast_as_what_it_may_be_rounded_to() -> None:
    long = predicted(dtype="float32", batch_size=8, input_len=1024)

    assert long.prefill_flops is not None
    assert long.ttft_s is not None
    assert long.prefill_flops / long.ttft_s <= 67e12
    assert long.flops_s == 494.5e12  # what it cannot beat, whatever a program allows


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"device_map": "auto"}},
        {"backend": "vllm", "options": {"tensor_parallel_size": 2}},
        {"backend": "vllm", "options": {"quantization": "fp8"}},
    ],
)
def test_no_ceiling_of_one_device_is_held_against_several_or_other_numbers(
    changes: dict[str, Any],
) -> None:
    prediction = predicted(**changes)

    assert absent(prediction, ("flops_s", "bytes_s", "source", *TIMES))
    assert prediction.fits == (
        "unknown" if changes.get("backend") else "fits"
    )  # in all GPUs together
    assert prediction.prefill_flops
    assert cell_weights(prediction) is (changes.get("backend") != "vllm")


def test_an_engine_that_computes_nothing_has_no_work() -> None:
    assert predicted(backend="fake") == Prediction(basis="no predictions for the backend fake")
