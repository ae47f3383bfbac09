"""Rows of plain facts as text."""

from rich.cells import cell_len

from llmbench import listing

COLUMNS = (listing.Column("model", "model"), listing.Column("tokens", "tokens", listing.whole))
FACTS = [{"model": "模型", "tokens": 1200}, {"model": "llama", "tokens": 3}]


def test_columns_stand_straight_beside_characters_of_two_cells() -> None:
    text = listing.rows(COLUMNS, FACTS, "terminal")

    assert text == "model  tokens\n-----  ------\n模型    1,200\nllama       3\n"
    assert {cell_len(line) for line in text.splitlines()} == {13}


def test_markdown_is_aligned_in_its_source() -> None:
    text = listing.rows(COLUMNS, FACTS[1:], "markdown")

    assert text == "| model | tokens |\n| :---- | -----: |\n| llama |      3 |\n"
