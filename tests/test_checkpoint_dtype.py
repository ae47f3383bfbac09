"""The dtype that `auto` means: of a folder's configuration, of its weights, of a cached hub id, of the catalogue."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from llmbench.errors import SpecError
from llmbench.machine import chips
from llmbench.models import checkpoint, resolve
from llmbench.run import plan
from llmbench.spec.grid import DTYPES
from llmbench.spec.sweep import Axes, Sweep


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "float16"}, "float16"),
        ({"dtype": "torch.float16"}, "float16"),
        ({"text_config": {"torch_dtype": "bfloat16"}}, "bfloat16"),
        ({"torch_dtype": None, "text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"torch_dtype": "float8_e4m3fn"}, None),
        ({"torch_dtype": "auto"}, "float32"),
        ({}, "float32"),  # as transformers builds it
    ],
)
def test_a_configuration_names_the_dtype(config: dict[str, Any], dtype: str | None) -> None:
    assert checkpoint.of_folder(config, []) == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_tell_what_the_configuration_does_not(tmp_path: Path, dtype: str) -> None:
    shard = tmp_path / "model.safetensors"
    save_file(
        {
            "steps": torch.zeros(2, dtype=torch.int64),
            "w": torch.ones(2, dtype=getattr(torch, dtype)),
        },
        shard,
    )

    assert checkpoint.of_folder({}, [shard]) == dtype


@pytest.mark.parametrize(
    "content", [b"", b"\x08\0\0\0\0\0\0\0nonsense", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]"]
)
def test_weights_that_cannot_be_read_tell_nothing(tmp_path: Path, content: bytes) -> None:
    shard = tmp_path / "model.safetensors"
    shard.write_bytes(content)

    assert checkpoint.of_folder({}, [shard]) is None


def test_a_hub_id_is_looked_up_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16"}))

    assert resolve.resolve("org/name").dtype == "bfloat16"
    assert resolve.resolve("org/other").dtype is None


@pytest.mark.parametrize("name", resolve.catalogue())
def test_every_entry_of_the_catalogue_has_a_dtype(name: str) -> None:
    assert resolve.entry(name).dtype in DTYPES
    assert resolve.resolve(name).dtype == resolve.entry(name).dtype


def planned(chip: str | None, **axes: Any) -> plan.Planned:
    sweep = Sweep(
        name="x",
        axes=Axes(backend="transformers", device="cpu" if chip is None else "auto", **axes),
    )
    return plan.plan(sweep, chip=chips.chip(chip) if chip else None)


def test_auto_is_part_of_the_cell_as_what_it_resolved_to() -> None:
    automatic, named = (
        planned("h200", model="mistral-7b-v0.1"),
        planned("h200", model="mistral-7b-v0.1", dtype="bfloat16"),
    )

    assert [cell.id for cell in automatic.cells] == [cell.id for cell in named.cells]


def test_auto_next_to_the_dtype_that_it_means_is_one_cell() -> None:
    both = planned("h200", model="mistral-7b-v0.1", dtype=["auto", "bfloat16"])

    assert len(both.cells) == 1
    assert len(both.warnings) == 1
    assert both.warnings[0].startswith("Asked for twice, and measured once: 1 cell (")


def test_a_gpu_without_bfloat16_gets_float16_and_says_so() -> None:
    on_t4 = planned("t4", model=["mistral-7b-v0.1", "gpt2"])

    assert [cell.dtype for cell in on_t4.cells] == ["float16", "float32"]
    assert on_t4.warnings == ["T4 has no bfloat16: mistral-7b-v0.1 in float16."]
    assert planned("t4", model="mistral-7b-v0.1", dtype="bfloat16").cells[0].dtype == "bfloat16"


def test_a_cpu_gets_bfloat16_for_float16_and_says_so() -> None:
    here = planned(None, model=["pythia-70m", "gpt2", "mistral-7b-v0.1@tiny"])

    assert [cell.dtype for cell in here.cells] == ["bfloat16", "float32", "bfloat16"]
    assert here.warnings == ["CPUs compute float16 slowly: pythia-70m in bfloat16."]
    named = planned(None, model="pythia-70m", dtype="float16")
    assert (named.cells[0].dtype, named.warnings) == ("float16", [])


def test_an_unknown_checkpoint_needs_a_dtype() -> None:
    with pytest.raises(
        SpecError,
        match="not known for 'org/other', which is no folder here and not in the hub's cache; name one",
    ):
        planned(None, model="org/other")
