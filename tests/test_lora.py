"""LoRA adapters on transformers: the function that peft computes, beside the weights or merged, and their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jobs import at, family, job, prompts
from lazily import Lazy, transformers
from llmbench import backends
from llmbench.errors import LoadFailed, Unsupported
from llmbench.run.plan import plan
from llmbench.spec.sweep import Axes, Sweep

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.results.record import Job

peft: Any = Lazy("peft")
reference: Any = Lazy("llmbench.backends.reference_model")

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


def test_several_adapters_are_for_vllm(saved: Path, adapter: Path) -> None:
    with pytest.raises(
        Unsupported, match="one adapter for a batch; use the vllm backend for several"
    ):
        tokens(asked(saved, lora=f"{adapter},{adapter}"))


def test_an_adapter_of_another_model_is_one_line(adapter: Path) -> None:
    other = job(family("llama", hidden_size=64), load_format="dummy", lora=str(adapter))

    with pytest.raises(LoadFailed, match=r"lora: .* does not fit the model") as refused:
        tokens(other)

    assert "\n" not in str(refused.value)


def test_a_damaged_adapter_is_one_line(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    with pytest.raises(
        LoadFailed, match=r"adapter_config\.json is damaged; give the folder that peft wrote"
    ):
        tokens(asked(saved, lora=str(tmp_path)))


def test_merging_nothing_is_the_cell_without_an_adapter() -> None:
    engine: Any = {"transformers": {"lora": ["", "somewhere"], "lora_merged": [False, True]}}
    axes = Axes(
        model="llama-7b@tiny",
        backend=engine,
        device="cpu",
        dtype="float32",
        input_len=8,
        output_len=4,
    )

    found = plan(Sweep(name="x", axes=axes))

    assert [cell.options for cell in found.cells] == [
        {}, {"lora": "somewhere"}, {"lora": "somewhere", "lora_merged": True},
    ]  # fmt: skip
