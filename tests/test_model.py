"""Models: the catalogue is whole and honest, names resolve, and small copies keep their structure."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from llmbench import cli
from llmbench.errors import SpecError
from llmbench.models import resolve
from llmbench.models.by_row import counts_of
from llmbench.models.counts import Counts
from llmbench.models.shape import shape_of
from llmbench.spec import configs

CATALOGUE = resolve.catalogue()
ELEVEN = {
    "cerebras-gpt-13b", "cerebras-gpt-6.7b", "gpt-j-6b", "gpt-neox-20b", "llama-7b", "mpt-7b", "opt-13b",
    "opt-6.7b", "pythia-12b", "pythia-6.9b", "stablelm-base-alpha-7b",
}  # fmt: skip
TASKS = {
    "LAMBADA", "HellaSwag", "PIQA", "ARC-Easy", "ARC-Challenge", "BoolQ", "COPA", "Winograd", "Winogrande",
    "TriviaQA", "Jeopardy", "MMLU",
}  # fmt: skip

every_entry = pytest.mark.parametrize("name", CATALOGUE)
ROWED = [name for name in CATALOGUE if resolve.counts_of(resolve.resolve(name)) is not None]
every_row = pytest.mark.parametrize("name", ROWED)
"""Entries whose family has a row; the others say their counts themselves (`test_asked_models`)."""


def shaped(name: str) -> Counts:
    found = resolve.resolve(name)
    shape = counts_of(found.model_type, found.config)
    assert shape is not None
    return shape


def own(folder: Path, name: str, **changes: Any) -> None:
    """Write an entry of one's own: a tiny LLaMA."""
    config = {**resolve.resolve("llama-7b@tiny").config, **changes}
    settings = "".join(f"  {key}: {str(value).lower()}\n" for key, value in config.items())
    (folder / f"{name}.yaml").write_text(f"name: Mine\nmodel_type: llama\nconfig:\n{settings}")


def test_every_model_that_the_reports_name_is_there() -> None:
    assert len(CATALOGUE) >= 95
    assert set(CATALOGUE) >= ELEVEN


@every_entry
def test_an_entry_leaves_nothing_out(name: str) -> None:
    found = resolve.entry(name)

    assert found.family
    assert re.fullmatch(r"[\w-]+/[\w.-]+", found.hub_id or "")
    assert re.match(r"20\d\d-\d\d", found.release_date or "")
    assert found.license
    assert found.context
    assert found.published_parameters
    assert found.engines.transformers or found.engines.vllm
    tried = set(found.engines.vllm)
    assert tried == (
        set() if "No version of vLLM was tried." in found.doubts else {"0.26.0", "0.32.0"}
    )
    assert found.sources


@every_row
def test_an_entry_explains_how_far_the_published_count_is_off(name: str) -> None:
    found = resolve.entry(name)

    counted = shaped(name).parameters

    assert f"{counted:,}" in (found.published_difference or "")
    assert (found.published_difference or "").startswith("None") == (
        found.published_parameters == counted
    )


@every_row
def test_a_published_count_is_near_the_real_one(name: str) -> None:
    published = str(resolve.entry(name).published_parameters)

    number, unit = re.match(r"([\d.]+)([MB]?)", published).groups()  # type: ignore[union-attr]
    claimed = float(number) * {"": 1, "M": 1e6, "B": 1e9}[unit]

    assert shaped(name).parameters == pytest.approx(claimed, rel=0.12)  # T5's own head


def test_the_printed_accuracies_stand_with_the_eleven_models_that_have_them() -> None:
    found = {name: resolve.entry(name).zero_shot for name in CATALOGUE}

    assert {name for name, figures in found.items() if figures} == ELEVEN
    for figures in filter(None, found.values()):
        assert set(figures.accuracy) == TASKS
        assert all(0 <= value <= 1 for value in figures.accuracy.values())
        assert "State of LLM" in figures.source


@every_entry
def test_an_entry_names_no_place_outside_the_public(name: str) -> None:
    text = (configs.folder("models") / f"{name}.yaml").read_text()

    assert not re.search(r"https?:|localhost|/work|/home|/root|/tmp| \n", text)


@every_row
def test_a_tiny_copy_is_tiny(name: str) -> None:
    tiny = shaped(f"{name}@tiny")

    assert tiny.layers == 2
    assert tiny.hidden <= 1024
    assert tiny.vocabulary == 2048


@every_row
def test_a_small_copy_has_a_64th_of_the_parameters(name: str) -> None:
    full, small = shaped(name), shaped(f"{name}@small")
    if 1 < full.kv_heads < 4:
        pytest.skip("two key heads have no quarter")

    # Learned positions are not scaled; of the smallest models they are a tenth.
    shrunk = full.parameters / small.parameters
    assert shrunk == pytest.approx(64, rel=0.04 if full.hidden > 4096 else 0.2)
    assert (
        small.cached[0].token_numbers * full.kv_heads
        == full.cached[0].token_numbers * small.kv_heads
    )


@every_row
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_a_copy_keeps_the_structure(name: str, size: str) -> None:
    full, small = (
        shape_of(found.model_type, found.config)
        for found in (resolve.resolve(name), resolve.resolve(f"{name}@{size}"))
    )

    assert full is not None
    assert small is not None
    assert small.kv_heads == 1 or full.kv_heads > 1
    if full.kv_heads > 1:
        assert small.heads / small.kv_heads == full.heads / full.kv_heads
    for structure in (
        "gated", "experts", "experts_per_token", "norm_vectors", "layer_norms", "embedding_norms",
        "final_norms", "qk_norm", "qkv_bias", "out_bias", "mlp_bias", "head_bias", "tied", "positions",
        "relative_buckets",
    ):  # fmt: skip
        assert getattr(small, structure) == getattr(full, structure), structure
    assert bool(small.encoder_layers) == bool(full.encoder_layers)
    assert bool(small.window) == bool(full.window)
    assert small.inner / small.hidden == pytest.approx(full.inner / full.hidden, rel=0.05)


def test_a_size_that_no_rule_knows_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"'llama-7b@smal': no such size\. Did you mean 'small'\?"):
        resolve.resolve("llama-7b@smal")


def test_a_small_copy_is_another_model() -> None:
    assert resolve.resolve("llama-7b").digest != resolve.resolve("llama-7b@tiny").digest
    assert resolve.resolve("llama-7b@tiny").location is None


def test_an_encoder_decoder_sets_no_limit_to_its_positions() -> None:
    assert resolve.resolve("flan-t5-xl").max_positions is None
    assert resolve.entry("flan-t5-xl").context == 512


def test_a_folder_of_ones_own_adds_to_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    own(tmp_path, "mine")
    own(tmp_path / "other", "theirs", hidden_size=128)
    monkeypatch.setenv("LLMBENCH_MODELS", f"{tmp_path}{os.pathsep}{tmp_path / 'other'}")

    names = resolve.catalogue()

    assert set(names) == {*CATALOGUE, "mine", "theirs"}
    assert resolve.resolve("mine").source == "catalogue"
    assert resolve.resolve("theirs@tiny").config["hidden_size"] == 128
    assert resolve.entry("mine").license is None


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("llama-7b", "", "the model 'llama-7b' already exists"),
        ("mine", "name: Mine\nmodel_typ: llama\nconfig: {}\n", "Did you mean 'model_type'?"),
        ("mine", "name: Mine\nconfig: {}\n", "the key 'model_type' is missing"),
    ],
)
def test_a_wrong_file_of_ones_own_says_what_is_wrong(
    name: str, text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("LLMBENCH_MODELS", str(tmp_path))

    with pytest.raises(SpecError, match=re.escape(says)):
        resolve.resolve("mine")


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_MODELS", "/nowhere")

    with pytest.raises(SpecError, match="LLMBENCH_MODELS: '/nowhere' is not a folder"):
        resolve.catalogue()


def test_a_family_without_a_rule_has_no_small_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("name: Mine\nmodel_type: mamba\nconfig: {hidden_size: 8}\n")
    monkeypatch.setenv("LLMBENCH_MODELS", str(tmp_path))

    with pytest.raises(SpecError, match="no rule scales mamba down"):
        resolve.resolve("mine@tiny")


def test_a_name_that_is_nearly_right_is_understood() -> None:
    with pytest.raises(SpecError, match=re.escape("Did you mean 'mpt-7b'?")):
        resolve.entry("mpt7b")


def test_a_folder_with_a_name_that_is_passed_over_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "falcon", "n_layer": 2}')

    with pytest.raises(SpecError, match="'n_layer' and would build another size"):
        resolve.resolve(str(tmp_path))


def test_an_old_name_beside_the_new_one_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "falcon", "n_layer": 2, "num_hidden_layers": 2}'
    )

    assert resolve.resolve(str(tmp_path)).model_type == "falcon"


def test_a_model_that_transformers_has_no_class_for_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", "baichuan-13b", "--device", "cpu", "-o", str(tmp_path / "run"))

    code = cli.run(["sweep", *flags])

    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert "transformers has no class for baichuan; baichuan-13b names vllm as its engine" in err
    assert not (tmp_path / "run").exists()


def test_a_chat_model_has_the_shape_of_its_base() -> None:
    chat, base = (resolve.entry(name) for name in ("gpt-neoxt-chat-20b", "gpt-neox-20b"))

    assert chat.config == base.config
    assert chat.model_type == base.model_type
