"""The page of `llmbench compare --format html`: it says what the other formats say, and draws it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmbench import cli
from llmbench.report import html
from llmbench.report.figures import forest
from llmbench.results.record import Finding, Status
from make_records import make_cell, make_record
from pages import Page, grid, save, timed, told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.results.record import Record
    from llmbench.spec.sweep import Cell

SESSIONS = (1, 2, 3)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with pages that hold no library."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(html, "library", lambda: "/* the library */")


def run(name: str, pace: float = 1.0, cells: Sequence[Cell] = (), **plan: Any) -> str:
    """Write a run in which every cell takes so much longer than it would, and a session hardly."""
    cells = cells or grid()
    ends = [of_pace(cell, session, pace) for cell in cells for session in SESSIONS]
    save(Path(name), ends, cells, run=name, **plan)
    return name


def of_pace(cell: Cell, session: int, pace: float) -> Record:
    return timed(cell, session, 0.1 * pace, 0.01 * pace * (1 + session / 1000))


def compare(*arguments: str, code: int = 0) -> Page:
    """Run the command and return its page."""
    assert cli.run(["compare", *arguments, "--format", "html"]) == code
    return Page(Path("compare.html").read_text())


def as_json(capsys: Any, *arguments: str) -> Any:
    capsys.readouterr()
    cli.run(["compare", *arguments, "--format", "json"])
    return json.loads(capsys.readouterr().out)


def test_every_cell_has_a_row_and_a_dot_between_the_ends_of_its_interval(capsys: Any) -> None:
    runs = run("a"), run("b", 1.2)

    page = compare(*runs, code=1)

    rows, dots = told(page, "Comparison"), page.values("Comparison")
    [candidate] = as_json(capsys, *runs)["candidates"]
    assert [row["ratio"] for row in rows] == ["1.200"] * 4
    assert {row["verdict"] for row in rows} == {"slower"}
    assert [row["batch"] for row in rows] == ["1", "8", "64", "1"]
    for dot, cell in zip(dots, candidate["cells"], strict=True):
        assert dot["x"] == pytest.approx(cell["ratio"], rel=1e-4)
        assert (dot["x_low"], dot["x_high"]) == pytest.approx((cell["low"], cell["high"]), rel=1e-4)
        assert (dot["from"], dot["to"]) == pytest.approx((1 / 1.02, 1.02), rel=1e-4)


def test_the_mean_of_all_ratios_and_the_counts_are_told(capsys: Any) -> None:
    page = compare(run("a"), run("b", 1.2), code=1)

    text = page.section("Comparison")["text"]
    assert "4 cells: 4 slower." in text
    assert "Geometric mean of the ratios: 1.200 (95 % interval over sessions 1.1" in text
    assert "compare.html: " in capsys.readouterr().out


def test_what_is_unclear_says_what_it_would_take() -> None:
    cells = grid()[:1]
    for name, paces in (("a", (1.0, 1.2, 0.9)), ("b", (1.1, 1.3, 0.95))):
        ends = [of_pace(cells[0], n, pace) for n, pace in enumerate(paces, 1)]
        save(Path(name), ends, cells, run=name)

    page = compare("a", "b", code=3)

    [verdict] = page.column("Comparison", "verdict")
    assert verdict.startswith("unclear (needs ")


def test_cells_without_a_number_on_one_side_are_named_with_the_reason() -> None:
    cells = grid()
    broken = make_record(
        cells[1], 1, status=Status.INVALID, problems=[Finding("token_count", "15 of 16")]
    )
    ends = [of_pace(cells[0], session, 1.0) for session in SESSIONS]
    save(Path("b"), [*ends, broken], cells[:2], run="b")

    page = compare(run("a"), "b", code=3)

    groups = [tuple(row.values()) for row in told(page, "Cells without")]
    assert groups == [
        ("2", "in the candidate", "not planned on this side", f"{cells[2].id}; {cells[3].id}"),
        ("1", "in the candidate", "invalid: token_count", cells[1].id),
    ]


def test_conditions_that_differ_come_first_and_are_marked() -> None:
    runs = run("a", environment={"torch": "2.9.0"}), run("b", environment={"torch": "2.10.0"})

    page = compare(*runs)

    heads, *rows = page.section("Conditions")["rows"]
    marked = [row[0].endswith("(differs)") for row in rows]
    assert heads == ["condition", "a", "b"]
    assert ["torch (differs)", "2.9.0", "2.10.0"] in rows
    assert marked == sorted(marked, reverse=True)
    assert not all(marked)
    assert "machine's state instead of the change" in page.section("Comparison")["text"]


def test_several_candidates_have_a_section_each_and_one_together() -> None:
    page = compare(run("a"), run("b", 1.2), run("c", 0.9), code=1)

    together = told(page, "All candidates")
    assert [(row["candidate"], row["slower"], row["faster"]) for row in together] == [
        ("b", "4", "0"),
        ("c", "0", "4"),
    ]
    assert [dot["x"] for dot in page.values("All candidates")] == pytest.approx(
        [1.2, 0.9], rel=1e-3
    )
    assert page.column("Comparison: b", "ratio") == ["1.200"] * 4
    assert page.column("Comparison: c", "ratio") == ["0.900"] * 4


def test_the_parts_of_one_run_are_compared_without_the_factor_as_a_coordinate() -> None:
    cells = [
        make_cell(2 * number + place, model=f"m{number}", backend=backend)
        for number in range(3)
        for place, backend in enumerate(("fake", "vllm"))
    ]
    ends = [
        of_pace(cell, session, 1.2 if cell.backend == "vllm" else 1.0)
        for cell in cells
        for session in SESSIONS
    ]
    save(Path("one"), ends, cells)

    page = compare("one", "--by", "backend", code=1)

    assert [row["model"] for row in told(page, "Comparison")] == ["m0", "m1", "m2"]
    assert "backend" not in told(page, "Comparison")[0]
    assert page.section("Conditions")["rows"][0] == ["condition", "one"]


def test_an_imported_run_is_told_by_where_it_was_read_from() -> None:
    file = next((Path(__file__).parent / "importers").glob("vllm_latency*.json"))
    assert cli.run(["import", str(file), "-o", "imported"]) == 0

    page = compare("imported", "imported", "--cross-machine", code=3)

    assert any("tool" in row[0] for row in page.section("Conditions")["rows"])


@pytest.mark.parametrize(("pace", "code"), [(1.0, 0), (1.2, 1)])
def test_the_exit_code_is_that_of_the_other_formats(pace: float, code: int) -> None:
    runs = run("a"), run("b", pace)

    assert cli.run(["compare", *runs]) == code
    assert cli.run(["compare", *runs, "--format", "html"]) == code


def test_nothing_comparable_has_its_page_and_its_exit_code() -> None:
    page = compare(run("a"), run("b", cells=[make_cell(9, model="other")]), code=3)

    assert "5 cells: 5 missing." in page.section("Comparison")["text"]
    assert page.section("Comparison")["spec"] is None


def test_of_many_cells_those_that_differ_are_drawn_first() -> None:
    many = [make_cell(number, model="m", batch_size=number + 1) for number in range(300)]
    slower = {cell.id for cell in many[4::10]}
    save(Path("a"), [of_pace(c, s, 1.0) for c in many for s in SESSIONS], many, run="a")
    ends = [of_pace(c, s, 1.2 if c.id in slower else 1.0) for c in many for s in SESSIONS]
    save(Path("b"), ends, many, run="b")

    page = compare("a", "b", code=1)

    drawn, rows = page.values("Comparison"), told(page, "Comparison")
    assert (len(drawn), len(rows)) == (forest.MOST_ROWS, 300)
    for shown in (drawn, rows):
        assert sum(row["verdict"] == "slower" for row in shown) == len(slower) == 30
    assert {dot["row"] for dot in drawn} < {f"batch {row['batch']}, in {row['in']}" for row in rows}
    assert "100 of 300 cells are drawn" in page.section("Comparison")["text"]


def test_a_page_is_written_again_and_nothing_else_is_overwritten(capsys: Any) -> None:
    runs = run("a"), run("b")
    Path("thesis.html").write_text("years of work")

    compare(*runs)
    compare(*runs)
    code = cli.run(["compare", *runs, "--format", "html", "-o", "thesis.html"])

    assert code == 2
    assert Path("thesis.html").read_text() == "years of work"
    assert "is not a page of llmbench" in capsys.readouterr().err
    assert not [path for path in Path().iterdir() if path.name.endswith(".new")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["-o", "page.html"],
            "only applies to --format html; send --format terminal to a file with >",
        ),
        (["--format", "json", "-o", "x.json"], "send --format json to a file with >"),
        (
            ["--format", "html", "-o", "-"],
            "-: is no file, and a page is written to one: -o compare.html",
        ),
        (["--format", "html", "-o", "pipe"], "pipe: is no file"),
        (["--format", "html", "-o", "a"], "a: is a folder. Name a file in it: a/compare.html"),
        (["--format", "html", "-o", "no/page.html"], "there is no folder no"),
        (["--format", "html", "--by", "dtype"], "--by compares inside one run"),
        (["--format", "htm"], "'htm' is not one of"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], sentence: str, capsys: Any) -> None:
    runs = run("a"), run("b")
    os.mkfifo("pipe")

    code = cli.run(["compare", *runs, *arguments])

    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not Path("compare.html").exists()


def test_a_refusal_writes_no_page(capsys: Any) -> None:
    runs = run("a"), run("b", machine={"cpu": "another"})

    code = cli.run(["compare", *runs, "--format", "html"])

    assert code == 5
    assert "from the machine instead of the change" in capsys.readouterr().err
    assert not Path("compare.html").exists()


def test_the_same_run_twice_has_its_page() -> None:
    run("a")
    shutil.copytree("a", "twin")

    page = compare("a", "a")

    assert page.column("Comparison", "ratio") == ["1.000"] * 4
    assert page.section("Conditions")["rows"][0] == ["condition", "a", "a"]
