"""Work and time: sums against a loop over every step, ceilings against arithmetic, rates between a probe's points."""

from typing import Any

import msgspec
import pytest

from jobs import job
from llmbench.machine import chips
from llmbench.machine.peaks import Probe, Rate
from llmbench.models import formulas, resolve
from llmbench.models.by_row import counts_of
from llmbench.models.counts import Counts
from llmbench.predict import estimate, roofline
from llmbench.results.prediction import Prediction
from llmbench.spec.sweep import Cell, Protocol

H200 = estimate.elsewhere(chips.chip("h200"))


def shape(name: str) -> Counts:
    found = resolve.resolve(name)
    known = counts_of(found.model_type, found.config)
    assert known is not None
    return known


def on_gpu(name: str = "llama-7b", **changes: Any) -> Cell:
    (cell,) = job(name, dtype="bfloat16", device="cuda", batch_size=2, input_len=10).cells
    return msgspec.structs.replace(cell, **changes)


def predicted(cell: Cell, place: estimate.PredictedMachine = H200, **protocol: Any) -> Prediction:
    models = {cell.model: resolve.resolve(cell.model)}
    return estimate.predictions([cell], models, Protocol(**protocol), place)[cell.id]


@pytest.mark.parametrize("name", ["llama-7b", "mistral-7b-v0.1@tiny", "qwen3-8b", "flan-t5-xl"])
@pytest.mark.parametrize("output_len", [1, 2, 5, 40])
def test_the_work_is_the_sum_over_every_step(name: str, output_len: int) -> None:
    cell, known = on_gpu(name, output_len=output_len), shape(name)
    first, encoded = (1, 10) if known.encoder_layers else (10, 0)
    steps = range(first, first + output_len - 1)

    work = roofline.work(known, cell)

    assert work.decode_flops == 2 * sum(
        formulas.decode_flops(known, past, encoded) for past in steps
    )
    assert work.decode_bytes == sum(
        formulas.step_weight_bytes(known, "bfloat16")
        + 2 * formulas.kv_bytes(known, "bfloat16", past + 1, encoded)
        for past in steps
    )
    assert work.prefill_flops == 2 * formulas.prefill_flops(known, 10)


def test_the_least_of_a_step_is_its_bytes_at_the_bandwidth() -> None:
    told = predicted(on_gpu(output_len=2))

    # 6.607 G weights without the embedding, and 11 tokens of 2 sequences at 524,288 bytes each, at 4.8 TB/s
    read = (6_738_415_616 - 32_000 * 4096) * 2 + 2 * 11 * 524_288
    assert told.source == "datasheet"
    assert told.least_decode_s == pytest.approx(read / 4.8e12)
    assert told.tpot_s
    assert told.least_decode_s
    assert told.tpot_s > told.least_decode_s


def test_a_long_prompt_is_bound_by_operations() -> None:
    told = predicted(on_gpu(input_len=2048, batch_size=8))

    least = 8 * formulas.prefill_flops(shape("llama-7b"), 2048) / 989e12
    assert told.least_prefill_s == pytest.approx(least)
    assert told.ttft_s is not None
    assert least < told.ttft_s < 5 * least


def test_no_estimate_is_below_its_bound() -> None:
    for batch_size in (1, 8, 64):
        for name in ("llama-7b", "mpt-7b", "gpt-neox-20b", "mixtral-8x7b-v0.1", "flan-t5-xl"):
            told = predicted(on_gpu(name, batch_size=batch_size, input_len=512, output_len=32))
            assert told.ttft_s
            assert told.tpot_s
            assert told.least_prefill_s
            assert told.least_decode_s
            assert told.ttft_s >= told.least_prefill_s
            assert 31 * told.tpot_s >= 0.99 * told.least_decode_s


def test_without_rates_there_is_no_time_and_it_says_how_to_get_one() -> None:
    (cell,) = job("llama-7b", dtype="bfloat16").cells
    nowhere = estimate.PredictedMachine({"cpu": 2**40, "cuda": None}, None, (), {})

    told = predicted(cell, nowhere)

    assert (told.ttft_s, told.tpot_s, told.session_s, told.least_decode_s) == (None,) * 4
    assert "llmbench machine --probe" in told.basis
    assert told.fits == "fits"


def test_an_unverified_datasheet_gives_no_time() -> None:
    doubted = msgspec.structs.replace(chips.chip("h200"), unverified=["dense_tflops"])

    told = predicted(on_gpu(), estimate.elsewhere(doubted))

    assert (told.source, told.ttft_s) == (None, None)
    assert told.have_bytes == 143_771 * 2**20  # as the driver tells


@pytest.mark.parametrize(
    ("name", "fits"),
    [("llama-7b", "fits"), ("llama-65b", "fits"), ("llama-2-70b", "tight"), ("bloom-176b", "no")],
)
def test_models_of_the_catalogue_on_an_h200(name: str, fits: str) -> None:
    assert predicted(on_gpu(name)).fits == fits


def test_an_unknown_family_is_not_guessed() -> None:
    cell = on_gpu()
    odd = msgspec.structs.replace(resolve.resolve("llama-7b"), model_type="mamba")

    told = estimate.predictions([cell], {cell.model: odd}, Protocol(), H200)[cell.id]

    assert told == Prediction(basis="the shape of mamba is not known")


def test_another_engine_is_not_guessed() -> None:
    assert predicted(on_gpu(backend="fake")).need_bytes is None


def test_weights_that_lie_elsewhere_need_not_fit() -> None:
    told = predicted(on_gpu("bloom-176b", options={"device_map": "disk_offload"}))

    assert (told.fits, told.ttft_s, told.source) == ("unknown", None, None)
    assert "device_map=disk_offload" in told.basis


def test_a_session_is_warm_up_iterations_and_one_more() -> None:
    cell = on_gpu(output_len=1)
    told = predicted(cell, iterations=7, min_time_s=0, warmup=3)
    assert told.ttft_s

    load = estimate.LOAD_S + 13_476_831_232 / estimate.LOAD_BYTES_S
    assert told.session_s == pytest.approx(load + (5 + 7 + 1) * told.ttft_s)
    assert told.tpot_s is None


def test_cells_of_a_group_share_its_load() -> None:
    one, two = on_gpu(id="one"), on_gpu(id="two", input_len=11)
    found = {one.model: resolve.resolve(one.model)}

    together = estimate.predictions([one, two], found, Protocol(), H200)
    alone = estimate.predictions([one], found, Protocol(), H200)

    assert together["one"].session_s < alone["one"].session_s  # type: ignore[operator]


def test_a_rate_lies_between_the_points_of_its_curve() -> None:
    points = [(1, 1e9), (100, 1e11)]
    probe = Probe(
        device="cpu", name="made up", at="today", torch="none", copy_bytes_s=1e10,
        read_bytes_s={"float32": 1e10}, flops_s={"float32": 1e11},
        rates=[Rate(dtype="float32", rows=r, inner=64, columns=64, flops_s=f) for r, f in points],
    )  # fmt: skip
    speeds = roofline.Speeds(probe, "float32")

    assert speeds.flops_s(10, 64 * 64) == pytest.approx(1e10)
    assert speeds.flops_s(1000, 64 * 64) == pytest.approx(1e11)
    assert speeds.product_s(100, 64, 64, 0) == pytest.approx(2 * 100 * 64 * 64 / 1e11)


def test_a_measured_ceiling_is_called_so() -> None:
    probe = Probe(
        device="cpu", name="made up", at="today", torch="none", copy_bytes_s=2e10,
        read_bytes_s={"float32": 1e10}, flops_s={"float32": 1e11}, step_s=1e-6,
    )  # fmt: skip
    (cell,) = job("pythia-160m", output_len=4).cells

    told = predicted(cell, estimate.PredictedMachine({"cpu": 2**40}, None, [probe], {}))

    assert (told.source, told.flops_s, told.bytes_s) == ("measured", 1e11, 2e10)
    assert "probe of today" in told.basis
