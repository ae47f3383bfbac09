"""LoRA adapters on transformers: the function that peft computes, beside the weights or merged, and their bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from jobs import at, family, job, prompts
from lazily import Lazy, transformers
from llmbench import backends
from llmbench.errors import LoadFailed, NothingToRun, RunError, SpecError
from llmbench.run import resume
from llmbench.run.plan import plan
from llmbench.spec.sweep import Axes, Sweep
from make_records import make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.results.record import Job

peft: Any = Lazy("peft")
reference: Any = Lazy("llmbench.backends.reference_model")

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
"""peft asks transformers 5.24 for what it calls otherwise now."""

MODEL = family("llama")
RANK = 4
# Rank x (inputs + outputs) of two matrices of 32 x 32 in each of two layers.
PARAMETERS = 2 * 2 * RANK * (32 + 32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    reference.save(job(MODEL), str(folder), disturbed=False)
    return folder


@pytest.fixture(scope="module")
def adapter(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an adapter with random numbers, which changes what the model says."""
    folder = tmp_path_factory.mktemp("adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(saved)
    wanted = peft.LoraConfig(
        r=RANK, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    peft.get_peft_model(base, wanted).save_pretrained(folder)
    return folder


def asked(saved: Path, **options: Any) -> Job:
    return at(job(MODEL, load_format="safetensors", **options), saved)


def tokens(one: Job) -> Any:
    engine: Any = backends.load(one)
    engine.prepare(one.cells[0])
    return engine.generate(prompts(one), 8), engine


def test_an_adapter_changes_the_text_as_it_does_by_hand(saved: Path, adapter: Path) -> None:
    one = asked(saved, lora=str(adapter))
    base = transformers.AutoModelForCausalLM.from_pretrained(saved)
    hand = peft.PeftModel.from_pretrained(base, adapter).eval()
    torch = Lazy("torch")
    whole = hand.generate(
        input_ids=torch.tensor(prompts(one)),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )

    ours, _ = tokens(one)

    assert ours == whole[:, 12:].tolist()
    assert ours != tokens(asked(saved))[0]


def test_merged_or_not_the_text_is_the_same(saved: Path, adapter: Path) -> None:
    beside, _ = tokens(asked(saved, lora=str(adapter)))
    merged, _ = tokens(asked(saved, lora=str(adapter), lora_merged=True))

    assert merged == beside


def test_its_bytes_are_not_those_of_the_weights(saved: Path, adapter: Path) -> None:
    one = asked(saved, lora=str(adapter))
    _, plain = tokens(asked(saved))
    _, beside = tokens(one)
    _, merged = tokens(asked(saved, lora=str(adapter), lora_merged=True))

    held = beside.memory(prompts(one), 8)

    assert held.weights_bytes == plain.facts["weights_bytes"] == merged.facts["weights_bytes"]
    assert held.adapter_bytes == 4 * PARAMETERS == 4 * beside.facts["lora_parameters"]
    assert merged.memory(prompts(one), 8).adapter_bytes is None
    assert (beside.facts["lora_rank"], beside.facts["lora_modules"]) == (RANK, "q_proj, v_proj")


def test_its_numbers_have_the_dtype_of_the_cell(saved: Path, adapter: Path) -> None:
    _, engine = tokens(asked(saved, lora=str(adapter), dtype="bfloat16"))

    assert {str(each.dtype) for each in engine._model.parameters()} == {"torch.bfloat16"}


def planned(backend: str, lora: Any, **more: Any) -> Any:
    engine: Any = {backend: {"lora": lora, **more}}
    axes = Axes(
        model="llama-7b@tiny",
        backend=engine,
        device="cpu",
        dtype="float32",
        input_len=8,
        output_len=4,
    )
    return plan(Sweep(name="x", axes=axes))


def test_several_adapters_are_for_vllm(adapter: Path) -> None:
    assert not planned("vllm", f"{adapter},{adapter}").refused
    with pytest.raises(
        NothingToRun, match="one adapter for a batch; use the vllm backend for several"
    ):
        planned("transformers", f"{adapter},{adapter}")


def test_the_plan_finds_that_an_adapter_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"lora: .*nowhere has no adapter_config\.json; give the"):
        planned("vllm", str(tmp_path / "nowhere"))


def fake_adapter(folder: Path, rank: int = 4, weights: bytes = b"x") -> Path:
    settings = {"r": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_an_adapter_without_weights_is_none(tmp_path: Path) -> None:
    (fake_adapter(tmp_path) / "adapter_model.safetensors").unlink()

    with pytest.raises(SpecError, match=r"has no adapter_model\.\*; give the folder that peft"):
        planned("vllm", str(tmp_path))


def test_a_rank_that_vllm_does_not_take_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NothingToRun, match="takes adapters of rank 512 at most, and one has 600"):
        planned("vllm", str(fake_adapter(tmp_path, rank=600)))


def test_other_weights_of_an_adapter_are_another_cell(tmp_path: Path) -> None:
    (one,) = planned("vllm", str(fake_adapter(tmp_path))).cells
    (again,) = planned("vllm", str(tmp_path)).cells
    (other,) = planned("vllm", str(fake_adapter(tmp_path, weights=b"y"))).cells

    assert one.id == again.id
    assert one.options == other.options
    assert one.id != other.id


def test_an_adapter_of_another_model_is_one_line(adapter: Path) -> None:
    other = job(family("llama", hidden_size=64), load_format="dummy", lora=str(adapter))

    with pytest.raises(LoadFailed, match=r"lora: .* cannot be put on the model") as refused:
        tokens(other)

    assert "\n" not in str(refused.value)


def test_a_damaged_adapter_is_one_line(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    with pytest.raises(
        LoadFailed, match=r"adapter_config\.json is damaged; give the folder that peft wrote"
    ):
        tokens(asked(saved, lora=str(tmp_path)))


def test_merging_nothing_is_the_cell_without_an_adapter(tmp_path: Path) -> None:
    somewhere = str(fake_adapter(tmp_path))

    found = planned("transformers", ["", somewhere], lora_merged=[False, True])

    assert [cell.options for cell in found.cells] == [
        {}, {"lora": somewhere}, {"lora": somewhere, "lora_merged": True},
    ]  # fmt: skip


def test_a_run_is_not_continued_with_an_adapter_of_other_weights(tmp_path: Path) -> None:
    (one,) = planned("vllm", str(fake_adapter(tmp_path))).cells
    (other,) = planned("vllm", str(fake_adapter(tmp_path, weights=b"y"))).cells

    with pytest.raises(RunError, match=r"other cells of this sweep \(attached_digest \+\w+ -\w+\)"):
        resume.refuse_other_grid(make_plan([one]), make_plan([other]), tmp_path)
