"""GGUF files as models: what their headers say, which engine runs them, and what is said about damaged ones."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_gguf
from jobs import job
from llmbench import backends
from llmbench.errors import LoadFailed, NothingToRun, SpecError
from llmbench.models import formulas, gguf, resolve
from llmbench.run.plan import plan
from llmbench.spec.sweep import Axes, Sweep

if TYPE_CHECKING:
    from pathlib import Path


def planned(model: Path, **axes: Any) -> Any:
    point = {
        "device": "cpu",
        "backend": "llamacpp",
        "batch_size": 1,
        "input_len": 8,
        "output_len": 4,
    }
    return plan(Sweep(name="x", axes=Axes(model=str(model), **{**point, **axes})))


def test_a_file_says_its_sizes_and_its_dtype(tmp_path: Path) -> None:
    model = resolve.resolve(str(tiny_gguf.write(tmp_path / "tiny.gguf")))

    assert (model.model_type, model.vocab_size, model.max_positions, model.dtype) == (
        "llama",
        300,
        512,
        "float16",
    )
    counts = resolve.counts_of(model)
    assert counts is not None
    # 2 layers x (keys and values) x 1 head x 32 numbers x 2 bytes
    assert formulas.kv_bytes_per_token(counts, "float16") == 256


def test_a_tied_file_has_no_output_head(tmp_path: Path) -> None:
    tied = tiny_gguf.write(tmp_path / "tied.gguf", tied=True)
    untied = tiny_gguf.write(tmp_path / "untied.gguf")

    assert gguf.config_of(gguf.read(tied))["tie_word_embeddings"] is True
    assert gguf.config_of(gguf.read(untied))["tie_word_embeddings"] is False


@pytest.mark.slow
def test_another_architecture_is_run_without_predictions(tmp_path: Path) -> None:
    other = {"general.architecture": "rwkv7", "rwkv7.context_length": 128}

    model = resolve.resolve(str(tiny_gguf.write(tmp_path / "other.gguf", settings=other)))

    assert (model.model_type, model.max_positions, model.vocab_size) == ("gguf rwkv7", 128, None)
    assert resolve.counts_of(model) is None
    assert not planned(tmp_path / "other.gguf").refused


def test_a_quantised_file_is_named_in_its_cells(tmp_path: Path) -> None:
    mixed = {**tiny_gguf.LLAMA, "general.file_type": 15}
    path = tiny_gguf.write(tmp_path / "tiny.gguf", settings=mixed, kind=tiny_gguf.Q4_K)

    (cell,) = planned(path).cells

    assert cell.options == {"quantization": "q4_k_m"}
    assert (cell.dtype, cell.load_format) == ("float16", "safetensors")


def test_a_file_keeps_its_dtype_on_a_cpu(tmp_path: Path) -> None:
    found = planned(tiny_gguf.write(tmp_path / "tiny.gguf"))

    assert found.cells[0].dtype == "float16"  # a checkpoint's would become bfloat16
    assert not any("slowly" in each for each in found.warnings)


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_other_engines_run_no_gguf_file(backend: str, tmp_path: Path) -> None:
    with pytest.raises(
        NothingToRun, match="a GGUF file, whose own weights the backend llamacpp runs"
    ):
        planned(tiny_gguf.write(tmp_path / "tiny.gguf"), backend=backend)


def test_random_weights_are_not_those_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(NothingToRun, match="whose own weights"):
        planned(tiny_gguf.write(tmp_path / "tiny.gguf"), load_format="dummy")


def test_a_quantised_file_is_not_quantised_again(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "tiny.gguf", kind=tiny_gguf.Q4_0)

    with pytest.raises(NothingToRun, match=r"quantised already \(q4_0\)"):
        planned(path, backend={"llamacpp": {"quantization": "q8_0"}})


def test_a_folder_of_files_names_one(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "tiny-q8.gguf")

    with pytest.raises(
        SpecError, match=r"1 GGUF file; name the one to run as the model: .*/tiny-q8"
    ):
        resolve.resolve(str(tmp_path))


def test_a_folder_of_several_files_lists_them_and_the_named_one_is_the_model(
    tmp_path: Path,
) -> None:
    for number in range(12):
        tiny_gguf.write(tmp_path / f"tiny-{number:02}.gguf")

    with pytest.raises(SpecError) as refused:
        resolve.resolve(str(tmp_path))

    line = str(refused.value)
    assert "holds 12 GGUF files; name the one to run as the model: " in line
    assert f"{tmp_path}/tiny-00.gguf (" in line
    assert f"{tmp_path}/tiny-09.gguf (" in line
    assert line.endswith("KiB) and 2 more.")
    assert resolve.resolve(f"{tmp_path}/tiny-03.gguf").location == str(tmp_path / "tiny-03.gguf")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"GGUF", "too short"),
        (b"GGML" + bytes(40), "does not begin with GGUF"),
        (b"GGUF" + b"\x09" + bytes(40), "version 9 of the format"),
        (b"GGUF" + b"\x03\0\0\0" + b"\xff" * 40, "header is damaged"),
        (tiny_gguf.data()[:-5], "ends too early"),
    ],
)
def test_a_damaged_file_is_one_line(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)

    with pytest.raises(SpecError, match=why):
        resolve.resolve(str(tmp_path / "x.gguf"))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"x\.gguf: .*No such file"):
        resolve.resolve(str(tmp_path / "x.gguf"))


@given(cut=st.integers(0, len(tiny_gguf.data())), byte=st.binary(min_size=1, max_size=8))
def test_no_damage_is_a_traceback(
    cut: int, byte: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = tiny_gguf.data()
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(whole[:cut] + byte + whole[cut + len(byte) :])

    with contextlib.suppress(SpecError):  # any other exception is a traceback
        resolve.resolve(str(path))


def test_a_missing_llama_cpp_is_one_line_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("llmbench.backends.llamacpp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # as if it were not installed

    with pytest.raises(LoadFailed) as refused:
        backends.load(job("llama-7b@tiny", backend="llamacpp"))

    assert str(refused.value) == (
        "the llamacpp backend needs the package llama_cpp: pip install 'llmbench[llamacpp]'."
    )
