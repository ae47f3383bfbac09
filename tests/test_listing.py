"""Rows of plain facts as text."""

import pytest
from rich.cells import cell_len

from llmbench import numbers
from llmbench.report import rows

COLUMNS = (rows.Column("model", "model"), rows.Column("tokens", "tokens", numbers.whole))
FACTS = [{"model": "模型", "tokens": 1200}, {"model": "llama", "tokens": 3}]


def test_columns_stand_straight_beside_characters_of_two_cells() -> None:
    text = rows.rows(COLUMNS, FACTS, "terminal")

    assert text == "model  tokens\n-----  ------\n模型    1,200\nllama       3\n"
    assert {cell_len(line) for line in text.splitlines()} == {13}


def test_markdown_is_aligned_in_its_source() -> None:
    text = rows.rows(COLUMNS, FACTS[1:], "markdown")

    assert text == "| model | tokens |\n| :---- | -----: |\n| llama |      3 |\n"


def test_a_narrow_screen_repeats_the_names_and_breaks_words_beneath_their_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    columns = (*COLUMNS, rows.Column("why", "why"))
    facts = [
        {"model": "llama", "tokens": 3, "why": ""},
        {"model": "opt", "tokens": 1, "why": "the disk was full at noon"},
    ]

    text = rows.rows(columns, facts, "terminal")

    assert text == (
        "model  tokens\n-----  ------\nllama       3\nopt         1\n\n"
        "model  why\n-----  -----------------\nopt    the disk was full\n       at noon\n"
    )


def test_only_a_screen_breaks_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    note = "A note that is long."

    monkeypatch.delenv("COLUMNS", raising=False)
    anywhere = rows.wrapped([note])
    monkeypatch.setenv("COLUMNS", "12")

    assert anywhere == rows.wrapped([note], "markdown") == note + "\n"
    assert rows.wrapped([note, "", "b"]) == "A note that\n  is long.\n\nb\n"


def test_facts_of_one_thing_are_broken_beneath_their_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "20")

    text = rows.one({"cpu_flags": ["avx", "avx2", "fma"], "sources": {"a": "one two three four"}})

    assert text == "cpu flags: avx,\n  avx2, fma\nsources:\n  a: one two three\n    four\n"
