"""Quantised weights: named in every label, counted in the bytes that are held, and told apart in comparisons."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import standin_vllm
from jobs import family, job
from lazily import Lazy, torch
from llmbench import backends
from llmbench.errors import LoadFailed, NothingToRun, Unsupported
from llmbench.measure import bounds
from llmbench.models import by_row, checkpoint, formulas, resolve
from llmbench.parity import check
from llmbench.parity.distance import Distance
from llmbench.predict import estimate
from llmbench.results.record import Parity
from llmbench.run.plan import plan
from llmbench.spec.sweep import Axes, Sweep
from make_records import make_cell, make_plan, make_record, make_samples, write_lines
from sweeps import asked
from test_bounds import PROBE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sweeps import Bench

safetensors: Any = Lazy("safetensors.torch")

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2, "vocab_size": 1024,
    "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
CT = {"config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}
AWQ = {"quant_method": "awq", "bits": 4}


def planned(model: str, **axes: Any) -> Any:
    point = {"device": "cpu", "dtype": "bfloat16", "batch_size": 1, "input_len": 8, "output_len": 4}
    return plan(Sweep(name="x", axes=Axes(model=model, **{**point, **axes})))


def folder(place: Path, quantization: dict[str, Any] | None) -> Path:
    """Write a configuration, quantised or not."""
    place.mkdir(exist_ok=True)
    stated = {"quantization_config": quantization} if quantization else {}
    (place / "config.json").write_text(json.dumps({**LLAMA, **stated}))
    return place


# -- names and labels -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "scheme"),
    [
        (AWQ, "awq-int4"),
        ({"quant_method": "gptq", "bits": 8}, "gptq-int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bnb-fp4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-int8"),
        ({"quant_method": "compressed-tensors", **CT}, "ct-int4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {}}}, "ct"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}, "torchao-int8"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "torchao"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt-nvfp4"),
        ({}, "unknown scheme"),
    ],
)  # fmt: skip
def test_a_scheme_is_a_method_and_a_type_of_number(stated: dict[str, Any], scheme: str) -> None:
    assert checkpoint.quantisation({"quantization_config": stated}) == scheme


def test_a_quantised_checkpoint_is_named_in_its_cells(tmp_path: Path) -> None:
    found = planned(str(folder(tmp_path / "model", AWQ)), backend="vllm")

    (cell,) = found.cells
    assert cell.options == {"quantization": "awq-int4"}
    assert "quantization=awq-int4" in cell.id


def test_the_cells_of_weights_that_are_not_quantised_keep_their_ids() -> None:
    plain = planned("llama-7b@tiny").cells
    spelled = planned("llama-7b@tiny", backend={"transformers": {"quantization": "none"}}).cells

    assert [cell.id for cell in plain] == [
        "llama-7b@tiny-transformers-bfloat16-b1-i8-o4-6c43c783bc"
    ]
    assert [cell.id for cell in spelled] == [cell.id for cell in plain]
    assert plain[0].options == {}


def test_what_is_quantised_is_not_quantised_again(tmp_path: Path) -> None:
    engine = {"transformers": {"quantization": "bnb-nf4"}}

    with pytest.raises(NothingToRun, match=r"are quantised already \(awq-int4\); leave the option"):
        planned(str(folder(tmp_path / "model", AWQ)), backend=engine, load_format="safetensors")


def test_a_package_that_is_missing_is_said_before_anything_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchao" else find(name)
    )
    engine = {"transformers": {"quantization": ["none", "torchao-int8"]}}
    bench.write(axes={"backend": engine, "batch_size": 1})

    done = asked("sweep", bench.file, "--output", bench.run)

    line = "quantization=torchao-int8 needs the package torchao: pip install torchao."
    assert (done.code, done.err) == (2, f"llmbench: {line}\n")
    assert not bench.run.exists()


# -- bytes ------------------------------------------------------------------------------------------

BNB = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def test_the_headers_of_a_checkpoint_say_its_bytes(tmp_path: Path) -> None:
    place = folder(tmp_path / "model", BNB)
    tensors = {"a": torch.zeros(10, 10, dtype=torch.int8), "b": torch.zeros(7)}
    safetensors.save_file(tensors, place / "model.safetensors")

    assert resolve.resolve(str(place)).stored_bytes == 10 * 10 + 7 * 4
    assert resolve.resolve(str(folder(place, None))).stored_bytes is None
    assert planned_bytes(str(folder(place, BNB)), "safetensors") == 128


def planned_bytes(model: str, load_format: str, **options: Any) -> int | None:
    found = planned(model, backend={"transformers": options}, load_format=load_format)
    place = estimate.PredictedMachine({"cpu": 2**34, "cuda": None}, None, (), {})
    (prediction,) = estimate.predictions(
        found.cells, found.models, found.sweep.protocol, place
    ).values()
    return prediction.weights_bytes


def test_no_bytes_are_predicted_of_a_scheme_that_only_a_configuration_states(
    tmp_path: Path,
) -> None:
    assert planned_bytes(str(folder(tmp_path / "model", BNB)), "dummy") is None


@pytest.mark.parametrize(
    ("scheme", "held"),
    [("bnb-nf4", 116_426_496), ("bnb-int8", 163_483_776), ("torchao-int8", 163_639_296),
     ("torchao-int4", 123_048_576)],
)  # fmt: skip
def test_the_bytes_of_a_scheme_are_those_that_the_library_held(scheme: str, held: int) -> None:
    """SmolLM2-135M in bfloat16, with bitsandbytes 0.50.2 and torchao 0.18.0."""
    smollm2 = {
        **LLAMA, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3, "num_hidden_layers": 30, "vocab_size": 49152, "tie_word_embeddings": True,
    }  # fmt: skip
    counts = by_row.counts_of("llama", smollm2)
    assert counts is not None
    saved = formulas.saved_bytes(counts, "bfloat16", scheme)

    assert saved is not None
    assert formulas.weight_bytes(counts, "bfloat16") - saved == held


def test_a_quantised_cell_has_no_times_because_its_kernels_are_others() -> None:
    found = planned("llama-7b", backend={"transformers": {"quantization": "bnb-nf4"}})
    place = estimate.PredictedMachine({"cpu": 2**34, "cuda": None}, None, (), {})

    (one,) = estimate.predictions(found.cells, found.models, found.sweep.protocol, place).values()

    assert one.basis == "no times: quantization=bnb-nf4 has its own kernels"
    assert one.ttft_s is None


def test_a_step_of_quantised_weights_reads_as_much_less() -> None:
    def decode_bytes(**options: Any) -> int:
        found = planned("llama-7b", backend={"transformers": options})
        place = estimate.PredictedMachine({"cpu": 2**34, "cuda": None}, None, (), {})
        (one,) = estimate.predictions(
            found.cells, found.models, found.sweep.protocol, place
        ).values()
        assert one.decode_bytes is not None
        return one.decode_bytes

    counts = by_row.counts_of("llama", resolve.resolve("llama-7b").config)
    assert counts is not None
    saved = formulas.saved_bytes(counts, "bfloat16", "bnb-nf4")
    assert saved is not None
    assert (
        decode_bytes() - decode_bytes(quantization="bnb-nf4") == 3 * saved
    )  # steps after the first token


def test_whole_numbers_have_no_probed_ceiling_on_a_cpu() -> None:
    cell = planned("llama-7b@tiny", backend={"transformers": {"quantization": "bnb-int8"}}).cells[0]
    engine = {"threads": 1, "quantization": "bnb-int8"}

    found = bounds.ceilings(cell, engine, [], [PROBE])
    assert found.flops is None
    assert found.bandwidth == PROBE.read_bytes_s["bfloat16"]


# -- comparisons ------------------------------------------------------------------------------------


def test_a_faster_scheme_is_said_to_be_another_model(tmp_path: Path) -> None:
    plain = make_cell(0)
    quantised = msgspec.structs.replace(plain, id="q", options={"quantization": "bnb-nf4"})
    records = [
        make_record(cell, number, make_samples([time] * 3, 0.2 * time, cell.output_len))
        for cell, time in ((plain, 1.0), (quantised, 0.5))
        for number in (1, 2, 3)
    ]
    verdict = Parity(
        cells=["q"], verdict="quantised", why="", model="m", backend="b", options={}, device="cpu",
        dtype="bfloat16", error_nats=0.25,
    )  # fmt: skip
    cells = [plain, quantised]
    write_lines(tmp_path / "run", [make_plan(run="run", cells=cells), *records, verdict])

    done = asked("compare", tmp_path / "run", "--by", "quantization")

    assert "faster" in done.out
    assert (
        "Quality differs: quantization is none in the baseline and bnb-nf4 (0.25 nats from float32) in the candidate."
        in " ".join(done.out.split())
    )


def test_the_same_scheme_on_both_sides_is_no_difference_of_quality(tmp_path: Path) -> None:
    cells = [
        msgspec.structs.replace(
            make_cell(0), id=dtype, dtype=dtype, options={"quantization": "bnb-nf4"}
        )
        for dtype in ("float32", "bfloat16")
    ]
    records = [
        make_record(cell, number, make_samples([1.0] * 3, 0.2, cell.output_len))
        for cell in cells
        for number in (1, 2)
    ]
    write_lines(tmp_path / "run", [make_plan(run="run", cells=cells), *records])

    assert "Quality differs" not in asked("compare", tmp_path / "run", "--by", "dtype").out


def away(error: float) -> Distance:
    return Distance(96, 90, error, error, (0.0,) * 96)


@pytest.mark.parametrize(
    ("error", "options", "verdict"),
    [
        (0.1, {"quantization": "bnb-nf4"}, "quantised"),
        (0.1, {}, "failed"),
        (0.001, {}, "passed"),
        (2.5, {"quantization": "bnb-nf4"}, "quantised"),
        (float("nan"), {"quantization": "bnb-nf4"}, "failed"),
    ],
)
def test_a_scheme_is_as_far_from_the_unquantised_as_it_is_and_no_failure(
    error: float, options: dict[str, Any], verdict: str
) -> None:
    cell = msgspec.structs.replace(make_cell(0), options=options)
    subject = check.Subject(msgspec.structs.replace(job(family("llama")), cells=[cell]), (cell,))

    told = check._verdict(subject, away(error), away(0.001), away(2.0))

    assert told.verdict == verdict
    if verdict == "quantised":
        assert told.why == (
            f"bnb-nf4 is off by {error:.2g} nats, the unquantised model by 0.001, and with one disturbed matrix by 2; "
            "0 of 96 tokens differ"
        )


def test_a_checkpoint_that_is_quantised_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    found = planned(str(folder(tmp_path / "model", AWQ)), backend="vllm")

    (told,) = check.check(found.cells, found.models, found.sweep.protocol, print)

    assert told.verdict == "untested"
    assert told.why == (
        "its files are quantised, and there is no unquantised model to compare it with"
    )


# -- vLLM, by its stand-in --------------------------------------------------------------------------


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    standin_vllm.forget()
    for name, module in standin_vllm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "set by the backend")
    yield
    standin_vllm.forget()


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize(
    ("scheme", "raised", "says"),
    [
        ("fp9", Unsupported, "has no such method. Did you mean 'fp8'?"),
        ("fp8", Unsupported, "on a CPU, vLLM quantises while loading as ct-int8, ct-int4, fp8_per_channel only"),
        ("ct-int8", LoadFailed, "holds its weights in float32; this would be measured as something that it is not"),
    ],
)  # fmt: skip
def test_vllm_refuses_what_it_would_not_quantise(
    scheme: str, raised: type[Exception], says: str
) -> None:
    with pytest.raises(raised, match=says):
        backends.load(job(family("llama"), backend="vllm", quantization=scheme))


@pytest.mark.usefixtures("standin")
def test_rounded_weights_are_within_half_a_step() -> None:
    ours = import_module("llmbench.backends.vllm.quantization")
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

    eight = ours._rounded("m", weight, ours.OURS["ct-int8"])
    four = ours._rounded("m", weight, ours.OURS["ct-int4"])

    scale = eight["m.weight_scale"]
    assert (eight["m.weight"] * scale - weight).abs().le(scale * 0.501).all()
    assert four["m.weight_packed"].shape == (8, 64 // 8)
    codes = torch.stack([four["m.weight_packed"] >> 4 * place & 15 for place in range(8)], -1)
    scales = four["m.weight_scale"].repeat_interleave(32, 1)
    assert ((codes.view(8, 64) - 8) * scales - weight).abs().le(scales * 0.501).all()


# -- with the libraries -----------------------------------------------------------------------------

PLAIN = 2 * 64 * 1024 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64
"""The parameters of LLAMA: embedding and head, two layers of attention, feed-forward and norms, a last norm."""
SCHEMES = ("bnb-nf4", "bnb-int8", "torchao-int8", "torchao-int4")
loud = pytest.mark.filterwarnings("ignore")  # bitsandbytes and torchao warn while they are imported


def model() -> resolve.Model:
    return resolve.Model(
        name="made", source="catalogue", location=None, model_type="llama", config=dict(LLAMA), vocab_size=1024,
        max_positions=512, digest="0",
    )  # fmt: skip


@loud
@pytest.mark.quant
@pytest.mark.parametrize("scheme", SCHEMES)
def test_random_weights_are_quantised(scheme: str) -> None:
    wanted = job(model(), dtype="bfloat16", quantization=scheme)
    engine: Any = backends.load(wanted)
    engine.prepare(wanted.cells[0])

    tokens = engine.generate([[5, 6, 7] * 4] * 2, 8)

    counts = by_row.counts_of("llama", LLAMA)
    assert counts is not None
    saved = formulas.saved_bytes(counts, "bfloat16", scheme)
    assert saved is not None
    assert [len(row) for row in tokens] == [8, 8]
    assert (engine.facts["quantization"], engine.facts["parameters"]) == (scheme, PLAIN)
    assert engine.facts["weights_bytes"] == formulas.weight_bytes(counts, "bfloat16") - saved


def dense_tensors() -> dict[str, Any]:
    engine: Any = backends.load(job(model(), dtype="bfloat16"))
    return dict(engine._model.state_dict())


@loud
@pytest.mark.quant
@pytest.mark.parametrize("scheme", SCHEMES)
def test_real_weights_are_quantised_while_loading(scheme: str, tmp_path: Path) -> None:
    place = folder(tmp_path / "model", None)
    safetensors.save_file(dense_tensors(), place / "model.safetensors")

    engine: Any = backends.load(
        job(place, dtype="bfloat16", load_format="safetensors", quantization=scheme)
    )

    assert (engine.facts["quantization"], engine.facts["parameters"]) == (scheme, PLAIN)


def saved_by_bitsandbytes(place: Path) -> Path:
    engine: Any = backends.load(job(model(), dtype="bfloat16", quantization="bnb-nf4"))
    engine._model.save_pretrained(place)
    return place


@loud
@pytest.mark.quant
def test_a_checkpoint_in_nf4_loads_as_one(tmp_path: Path) -> None:
    place = saved_by_bitsandbytes(tmp_path / "model")
    (cell,) = planned(str(place)).cells

    engine: Any = backends.load(
        job(place, dtype="bfloat16", load_format="safetensors", **cell.options)
    )

    assert cell.options == {"quantization": "bnb-nf4"}
    assert (engine.facts["quantization"], engine.facts["parameters"]) == ("bnb-nf4", PLAIN)
    assert engine.facts["param_dtypes"] == "bfloat16, uint8"


@loud
@pytest.mark.quant
def test_a_checkpoint_in_nf4_with_a_tensor_too_many_names_it(tmp_path: Path) -> None:
    place = saved_by_bitsandbytes(tmp_path / "model")
    file = place / "model.safetensors"
    extra = {"model.layers.0.mlp.up_proj.input_scale": torch.ones(1)}
    safetensors.save_file({**safetensors.load_file(file), **extra}, file, {"format": "pt"})

    with pytest.raises(LoadFailed, match=r"1 tensors for which .* has no place: .*input_scale"):
        backends.load(job(place, dtype="bfloat16", load_format="safetensors"))


@loud
@pytest.mark.quant
def test_random_weights_of_a_checkpoint_in_nf4_are_quantised_as_it_says(tmp_path: Path) -> None:
    place = folder(
        tmp_path / "model",
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    )
    (cell,) = planned(str(place), load_format="dummy").cells

    engine: Any = backends.load(job(place, dtype="bfloat16", **cell.options))

    assert (engine.facts["quantization"], engine.facts["parameters"]) == ("bnb-nf4", PLAIN)


@loud
@pytest.mark.quant
def test_rows_that_bitsandbytes_cannot_compute_with_on_a_cpu_are_named() -> None:
    odd = msgspec.structs.replace(model(), config={**LLAMA, "intermediate_size": 96})

    with pytest.raises(Unsupported, match=r"multiples of 64; .*down_proj has rows of 96"):
        backends.load(job(odd, dtype="bfloat16", quantization="bnb-nf4"))


# -- with vLLM --------------------------------------------------------------------------------------

EAGER: dict[str, Any] = {"backend": "vllm", "enforce_eager": True, "kv_cache_memory_bytes": 2**26}
GROUP = 32


def drawn(rows: int, columns: int) -> Any:
    """Return random whole numbers of 32 bits."""
    generator = torch.Generator().manual_seed(rows + columns)
    return torch.randint(
        -(2**31), 2**31 - 1, (rows, columns), generator=generator, dtype=torch.int32
    )


def as_awq(outs: int, ins: int) -> dict[str, Any]:
    scales = torch.full((ins // GROUP, outs), 0.01, dtype=torch.float16)
    return {
        "qweight": drawn(ins, outs // 8),
        "qzeros": drawn(ins // GROUP, outs // 8),
        "scales": scales,
    }


def as_gptq(outs: int, ins: int) -> dict[str, Any]:
    zeros = torch.full((ins // GROUP, outs // 8), 0x77777777, dtype=torch.int32)
    places = torch.arange(ins, dtype=torch.int32) // GROUP
    scales = torch.full((ins // GROUP, outs), 0.01, dtype=torch.float16)
    return {"qweight": drawn(ins // 8, outs), "qzeros": zeros, "scales": scales, "g_idx": places}


LAYOUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "awq-int4": (as_awq, {**AWQ, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
    "gptq-int4": (
        as_gptq,
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True},
    ),
}


def quantised_folder(place: Path, scheme: str) -> Path:
    """Write a checkpoint in the layout of a scheme, with random codes."""
    layout, stated = LAYOUTS[scheme]
    tensors: dict[str, Any] = {}
    for name, tensor in dense_tensors().items():
        if "proj" in name:
            module = name.removesuffix("weight")
            tensors |= {f"{module}{key}": each for key, each in layout(*tensor.shape).items()}
        else:
            tensors[name] = tensor.half()
    folder(place, stated)
    safetensors.save_file(tensors, place / "model.safetensors", {"format": "pt"})
    return place


@loud
@pytest.mark.vllm
@pytest.mark.parametrize("scheme", ["ct-int8", "ct-int4", "fp8_per_channel"])
@pytest.mark.parametrize("load_format", ["dummy", "safetensors"])
def test_vllm_quantises_while_loading(scheme: str, load_format: str, tmp_path: Path) -> None:
    place = folder(tmp_path / "model", None)
    safetensors.save_file(dense_tensors(), place / "model.safetensors", {"format": "pt"})

    engine: Any = backends.load(
        job(place, dtype="bfloat16", load_format=load_format, quantization=scheme, **EAGER)
    )

    assert (engine.facts["quantization"], engine.facts["parameters"]) == (scheme, PLAIN)
    counts = by_row.counts_of("llama", LLAMA)
    assert counts is not None
    assert engine.facts["weights_bytes"] < 0.9 * formulas.weight_bytes(counts, "bfloat16")
    assert [len(row) for row in engine.generate([[5, 6, 7] * 4] * 2, 8)] == [8, 8]
    engine.close()


@loud
@pytest.mark.vllm
@pytest.mark.parametrize("scheme", LAYOUTS)
def test_vllm_reads_a_quantised_checkpoint_as_it_is(scheme: str, tmp_path: Path) -> None:
    place = quantised_folder(tmp_path / "model", scheme)
    (cell,) = planned(str(place), backend="vllm").cells

    engine: Any = backends.load(
        job(place, dtype="bfloat16", load_format="safetensors", **cell.options, **EAGER)
    )

    assert cell.options == {"quantization": scheme}
    assert (engine.facts["quantization"], engine.facts["parameters"]) == (scheme, PLAIN)
    assert "int32" in engine.facts["param_dtypes"]
    assert [len(row) for row in engine.generate([[5, 6, 7] * 4] * 2, 8)] == [8, 8]
    engine.close()


@loud
@pytest.mark.vllm
def test_the_codes_of_random_weights_are_drawn() -> None:
    extension = import_module("llmbench.backends.vllm.worker_extension")
    layer = torch.nn.Module()
    for name, value in (
        ("weight", torch.zeros(16, 64, dtype=torch.int8)),
        ("scale", torch.ones(16)),
    ):
        layer.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))

    extension._fill_codes(layer)

    assert layer.weight.unique().numel() > 200
    assert (layer.scale == 1).all()


@loud
@pytest.mark.vllm
def test_vllm_changes_what_a_model_says_by_no_more_than_rounding(tmp_path: Path) -> None:
    """Eight bits are closer to the unquantised model than four: the codes are read as they were written."""
    place = folder(tmp_path / "model", None)
    safetensors.save_file(dense_tensors(), place / "model.safetensors", {"format": "pt"})

    def sure(**options: Any) -> Any:
        engine: Any = backends.load(
            job(place, dtype="bfloat16", load_format="safetensors", **options, **EAGER)
        )
        _, own = engine.speak([[5, 6, 7] * 4], 1)
        engine.close()
        return own[0][0]

    plain, eight, four = sure(), sure(quantization="ct-int8"), sure(quantization="ct-int4")

    assert abs(eight - plain) < 0.05
    assert abs(four - plain) < 0.5
