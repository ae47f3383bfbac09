"""One document in five formats: what each makes of tables, notes, plots and names from anywhere."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from llmbench import report
from llmbench.report import Page, html
from llmbench.report.document import Column, Document, Grid, Note, Plot, Section, foreign
from llmbench.report.views import facts
from pages import Page as Read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOSTILE = '=a|b`c\x1b[31m</script><img src=x onerror="a">\u202e'

MODELS = Grid([Column("model", ["模型", "llama"], "name"), Column("tokens", ["1,200", "3"])])


@pytest.fixture(autouse=True)
def plain_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "library", lambda: "/* the library */")


def document(*blocks: Grid | Plot | Note, title: str = "", notes: Sequence[Note] = ()) -> Document:
    return Document(title, [Section(blocks)], [], dict, notes=notes)


def text_of(made: Document, format: str = "terminal", width: int | None = None) -> str:
    return report.render(made, format, Page(width=width))


# -- terminal and Markdown -------------------------------------------------------------------------


def test_columns_stand_straight_beside_characters_of_two_cells() -> None:
    text = text_of(document(MODELS))

    assert text == "model  tokens\n─────  ──────\n模型    1,200\nllama       3\n"
    assert {cell_len(line) for line in text.splitlines()} == {13}


def test_markdown_is_aligned_in_its_source() -> None:
    table = Grid([Column("model", ["llama"], "name"), Column("tokens", ["3"])])

    text = text_of(document(table), "markdown")

    assert text == "| model | tokens |\n| :---- | -----: |\n| llama |      3 |\n"


def test_a_narrow_screen_repeats_the_keys_and_breaks_words_beneath_their_head() -> None:
    why = Column("why", ["", "the disk was full at noon"], "words")
    table = Grid([Column("model", ["llama", "opt"], "name"), Column("tokens", ["3", "1"]), why])

    text = text_of(document(table), width=24)

    assert text == (
        "model  tokens\n─────  ──────\nllama       3\nopt         1\n\n"
        "model  why\n─────  ─────────────────\nopt    the disk was full\n       at noon\n"
    )


def test_several_columns_of_long_words_stand_below_their_row() -> None:
    long = Column("why", ["it was tried and it did not fit into memory"], "words")
    table = Grid([Column("run", ["a"], "name"), long, Column("which", ["x " * 20], "words")])

    text = text_of(document(table), width=50)

    assert text == (
        "run\n───\na\n    why: it was tried and it did not fit into\n      memory\n"
        "    which: x x x x x x x x x x x x x x x x x x x x\n"
    )


def test_keys_wider_than_the_screen_are_broken_beneath_their_head() -> None:
    options = ["jitter=0.02, session_spread=0.05, tpot_ms=2.0, warming=0.3", "none"]
    keys = [Column("model", ["a", "b"], "name"), Column("options", options, "words")]
    table = Grid([*keys, Column("batch", ["1", "16"])], 2)

    text = text_of(document(table), width=56)

    assert text == (
        "model  options                                     batch\n"
        "─────  ──────────────────────────────────────────  ─────\n"
        "a      jitter=0.02, session_spread=0.05,               1\n"
        "       tpot_ms=2.0, warming=0.3\n"
        "b      none                                           16\n"
    )


def test_only_a_screen_breaks_sentences() -> None:
    made = document(Note("A note that is long."))

    assert text_of(made) == "A note that is long.\n"
    assert text_of(made, width=12) == "A note that\n  is long.\n"


def test_colour_only_where_it_is_wanted() -> None:
    made = document(MODELS, title="Title", notes=[Note("Beware.", "warning")])

    assert "\x1b" not in text_of(made)
    coloured = report.render(made, "terminal", Page(colour=True))
    assert coloured.startswith("\x1b[1mTitle\x1b[0m\n")
    assert coloured.endswith("\x1b[33mBeware.\x1b[0m\n")


def test_a_narrow_encoding_gets_signs_that_it_has() -> None:
    table = Grid([Column("a", ["1"], spreads=["±2"]), Column("b", ["≥ 5"])])

    text = report.render(document(table), "terminal", Page(encoding="ascii"))

    assert text == "    a     b\n-----  ----\n1 +-2  >= 5\n"


def test_background_is_for_a_page_only() -> None:
    made = Document("t", [Section([Note("behind it")], "Details", detail=True)], [], dict)

    assert "behind it" in text_of(made, "html")
    assert "behind it" not in text_of(made) + text_of(made, "markdown")


def test_everything_about_one_thing_is_a_row_a_fact() -> None:
    table = facts.tree({"cpu_flags": ["avx", "avx2"], "sources": {"a": "one two"}, "none": None})

    assert [list(column.texts) for column in table.columns] == [
        ["cpu flags", "sources: a"],
        ["avx, avx2", "one two"],
    ]


# -- files -------------------------------------------------------------------------------------------


def test_csv_writes_the_sheet_and_json_the_data() -> None:
    sheet: list[tuple[str, list[object]]] = [("a", [1, None]), ("b", [["x", "y"], 0.5])]
    made = Document("t", [], sheet, lambda: {"a": [1, float("nan")]})

    assert text_of(made, "csv") == "a,b\n1,x; y\n,0.5\n"
    assert json.loads(text_of(made, "json")) == {"a": [1, None]}


def test_nothing_is_worked_out_for_a_format_that_does_not_show_it() -> None:
    def never() -> object:
        raise AssertionError

    made = Document("t", (never() for _ in "x"), [("a", [1])], never)  # type: ignore[misc]

    assert text_of(made, "csv") == "a\n1\n"


# -- a page ----------------------------------------------------------------------------------------


def test_a_page_without_a_plot_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "library", lambda: pytest.fail("asked for"))

    page = Read(text_of(document(MODELS, title="Models"), "html"))

    assert page.sections[""]["rows"][1] == ["模型", "1,200"]
    assert not [tag for tag, _ in page.tags if tag == "script"]


def test_a_plot_stands_below_what_must_be_known_and_above_its_table() -> None:
    made = document(Plot({"mark": "bar"}, MODELS, "How to read it."), Note("Beware.", "warning"))

    text = text_of(made, "html")

    places = [text.index(part) for part in ("Beware.", "How to read it.", "data-plot", "<table>")]
    assert places == sorted(places)


# -- names from anywhere ---------------------------------------------------------------------------


@pytest.mark.parametrize("format", report.FORMATS)
def test_a_name_acts_nowhere(format: str) -> None:
    kinds = [Column(HOSTILE, [HOSTILE], kind) for kind in ("name", "words")]
    table = Grid([*kinds, Column("c", [f"ours: {foreign(HOSTILE)}"], "prose")])
    made = Document(
        f"t {foreign(HOSTILE)}",
        [Section([table, Plot({"title": HOSTILE}, table)], f"s {foreign(HOSTILE)}")],
        [(HOSTILE, [HOSTILE])],
        lambda: {HOSTILE: HOSTILE},
        facts={HOSTILE: HOSTILE},
        notes=[Note(foreign(HOSTILE)), Note(HOSTILE)],
    )

    text = text_of(made, format)

    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    if format == "html":
        page = Read(text)
        assert "img" not in {tag for tag, _ in page.tags}
    if format == "csv":
        assert [row[0][:2] for row in csv.reader(io.StringIO(text))] == ["'=", "'="]
    if format == "json":
        assert json.loads(text) == {HOSTILE: HOSTILE}


def test_markdown_has_foreign_words_in_code_and_ours_as_they_are() -> None:
    made = document(Note(f"Made by {foreign('a <b> c')}, 5 < 6."))

    assert text_of(made, "markdown") == "- Made by `a <b> c`, 5 \\< 6.\n"


# -- size, and where it goes -------------------------------------------------------------------------


def test_thirty_thousand_rows_take_a_second_at_most() -> None:
    rows = 30_000
    numbers = [Column(head, [f"{n * 0.37:,.2f}" for n in range(rows)]) for head in "abcdef"]
    made = document(Grid([Column("model", ["llama-7b@tiny"] * rows, "name"), *numbers]))

    start = time.process_time()
    text = text_of(made, width=120)

    assert text.count("\n") > rows
    assert time.process_time() - start < 1.5


def test_an_encoding_that_cannot_say_a_name_gets_its_escapes(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        report.show(document(MODELS), stream=stream)

    assert r"\u6a21\u578b" in (tmp_path / "out").read_text()


def test_a_page_is_named_and_the_others_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    report.destination("models", "html").write(document(MODELS), ", 2 rows")
    report.destination("models", "markdown").write(document(MODELS))

    out = capsys.readouterr().out
    assert re.match(r"models\.html: \d kB, 2 rows\.\n\| model \|", out)
    assert [path.name for path in tmp_path.iterdir()] == ["models.html"]
