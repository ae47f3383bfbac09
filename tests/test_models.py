"""`llmbench models` lists what the catalogue knows, in four formats, and shows one model whole."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from llmbench import cli, numbers
from llmbench.models import resolve
from test_startup import ENGINES, loaded_by

Output = pytest.CaptureFixture[str]


def said(capsys: Output, *arguments: str) -> str:
    """Return what the command prints."""
    assert cli.run(["models", *arguments]) == 0
    return capsys.readouterr().out


def from_json(capsys: Output, *arguments: str) -> Any:
    return json.loads(said(capsys, *arguments, "--format", "json"))


def test_every_model_has_a_line(capsys: Output) -> None:
    lines = said(capsys).splitlines()

    assert [line.split()[0] for line in lines[4:]] == resolve.catalogue()


def test_a_line_says_what_there_is_to_choose_by(capsys: Output) -> None:
    (line,) = [line for line in said(capsys).splitlines() if line.startswith("mixtral-8x7b-v0.1")]

    assert " ".join(line.split()) == (
        "mixtral-8x7b-v0.1 Mixtral 46.7B 12.9B 128 KiB 32,768 2023-12-11 transformers, vllm 0.26.0 0.32.0"
        " Apache-2.0"
    )


def test_a_list_is_plain_text_that_a_narrow_screen_goes_on_with_below(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = said(capsys)
    monkeypatch.setenv("COLUMNS", "80")
    title, *blocks = said(capsys).split("\n\n")

    lines = "\n".join(blocks).splitlines()
    names = [
        [line.split()[0] for line in block.splitlines()[2:] if line[0] != " "] for block in blocks
    ]
    assert title == f"Catalogue: {len(resolve.catalogue())} models"
    assert max(map(len, lines)) <= 80 < max(map(len, wide.splitlines()))
    assert names == [resolve.catalogue()] * len(blocks)
    assert set(wide.split()) - set(wide.splitlines()[3].split()) <= set(
        " ".join([title, *lines]).split()
    )


def test_numbers_for_other_programs_are_exact(capsys: Output) -> None:
    rows = {row["name"]: row for row in from_json(capsys)}
    cells = {
        row["name"]: row for row in csv.DictReader(io.StringIO(said(capsys, "--format", "csv")))
    }

    assert set(rows) == set(cells) == set(resolve.catalogue())
    assert rows["llama-2-70b"]["parameters"] == 68_976_648_192
    assert int(cells["llama-2-70b"]["kv_bytes_per_token_bfloat16"]) == 327_680
    assert rows["mpt-7b"]["engines"] == ["transformers", "vllm 0.26.0"]
    assert cells["flan-t5-xl"]["engines"] == "transformers"


def test_markdown_is_a_table(capsys: Output) -> None:
    lines = said(capsys, "--format", "markdown").splitlines()[2:]

    (line,) = [line for line in lines if line.startswith("| llama-7b ")]
    assert {line.count(" | ") for line in lines} == {8}
    assert " ".join(line.split()).startswith(
        "| llama-7b | LLaMA | 6.74B | 6.74B | 512 KiB | 2,048 | 2023-02-24 |"
    )


def test_one_model_is_shown_with_its_sources_and_doubts(capsys: Output) -> None:
    lines = [" ".join(line.split()) for line in said(capsys, "llama-7b").splitlines()]

    assert "parameters 6,738,415,616" in lines
    assert "weight bytes: bfloat16 13,476,831,232" in lines
    assert "sources: 3 LLaMA paper, arXiv 2302.13971, Table 2" in lines
    assert "doubts: 1 The release date is general knowledge, not looked up." in lines
    assert "zero shot: accuracy: HellaSwag 0.751" in lines


def test_one_model_in_json_holds_the_whole_entry(capsys: Output) -> None:
    found = from_json(capsys, "flan-t5-xl")

    assert found["cross_kv_bytes_per_token_bfloat16"] == 196_608
    assert found["config"]["num_decoder_layers"] == 24
    assert "not supported" in found["engines"]["vllm"]["0.32.0"]


def test_a_name_that_is_not_there_is_a_mistake(capsys: Output) -> None:
    assert cli.run(["models", "lama-7b"]) == 2
    assert "Did you mean 'llama-7b'?" in capsys.readouterr().err


def test_a_model_of_ones_own_is_listed_with_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (tmp_path / "=mine.yaml").write_text("name: Mine\nmodel_type: mamba\nconfig: {}\n")
    monkeypatch.setenv("LLMBENCH_MODELS", str(tmp_path))

    (row,) = [row for row in from_json(capsys) if row["name"] == "=mine"]
    line = said(capsys).splitlines()[4]

    assert (row["family"], row["parameters"], row["engines"]) == ("mamba", None, [])
    assert line.split() == ["=mine", "mamba", "-", "-", "-", "-", "-", "-"]
    assert "\n'=mine,mamba" in said(capsys, "--format", "csv")


def test_listing_loads_no_engine() -> None:
    assert loaded_by("models").isdisjoint(ENGINES)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (70_426_624, "70.4M"),
        (176_247_271_424, "176B"),
        (999, "999"),
        (1e12, "1T"),
        (999.6e6, "1,000M"),
    ],
)
def test_counts_have_three_digits(value: float, text: str) -> None:
    assert numbers.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(512, "512 B"), (8192, "8 KiB"), (4014080, "3.83 MiB"), (1023 * 1024, "1,023 KiB")],
)
def test_bytes_have_three_digits(value: int, text: str) -> None:
    assert numbers.binary(value) == text
