"""The page of `llmbench report`: what it shows is what was measured, and foreign names stay text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmbench import cli
from llmbench.commands import report
from llmbench.errors import LlmbenchError
from llmbench.measure.reasons import MEANINGS
from llmbench.report import html
from llmbench.report.figures import cells as figures_cells
from llmbench.report.views import report as views_report
from llmbench.results import store
from llmbench.results.prediction import Prediction
from llmbench.results.record import Finding, Memory, Status
from llmbench.spec.sweep import NOT_SAID
from make_records import make_cell, make_record
from pages import Page, grid, page_of, save, timed, told

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmbench.results.record import Record
    from llmbench.spec.sweep import Cell


IMPORTED = Path(__file__).parent / "importers"


@pytest.fixture
def built(tmp_path: Path) -> Any:
    """Return a function from records and cells to their page."""

    def build(records: Iterable[Record], cells: Sequence[Cell], **plan: Any) -> Page:
        return page_of(save(tmp_path / "run", records, cells, **plan))

    return build


# -- the numbers -----------------------------------------------------------------------------------


def test_every_plot_has_its_table_and_as_many_rows_as_it_shows(built: Any) -> None:
    cells = grid()

    page = built([timed(cell, s, 0.1, 0.01) for cell in cells for s in (1, 2)], cells)

    plots = {title: held for title, held in page.sections.items() if held["spec"]}
    assert len(plots) == 4
    assert all(held["rows"] for held in plots.values())
    front = page.section("Throughput against latency: TPOT")
    assert len(front["spec"]["data"]["values"]) == len(front["rows"]) - 1 == 4


def test_a_point_is_the_number_of_the_table_with_its_interval(built: Any) -> None:
    cells = grid()
    tpot = {1: 0.010, 2: 0.011, 3: 0.012}

    page = built([timed(cell, s, 0.1, tpot[s]) for cell in cells for s in tpot], cells)

    first = page.values("Decode latency")[0]
    assert first["y"] == pytest.approx(1e3 * (0.01 * 0.011 * 0.012) ** (1 / 3), rel=1e-4)
    assert first["y_low"] < first["y"] < first["y_high"]
    assert page.column("Decode latency", "TPOT (ms)")[0] == page.column("Results", "TPOT (ms)")[0]
    assert page.column("Decode latency", "TPOT (ms)")[0] == "11.0 (8.7 to 13.8)"


def test_the_front_holds_what_nothing_of_the_same_work_beats(built: Any) -> None:
    cells = grid()
    tpot = (0.01, 0.02, 0.3, 0.5)  # 64 x 16 / 4.6 s = 223 tok/s, and 8 x 16 / 0.4 s = 320

    page = built([timed(c, 1, 0.1, t) for c, t in zip(cells, tpot, strict=True)], cells)

    found = {row["cell"]: row["front"] for row in told(page, "Throughput against latency: TPOT")}
    assert found == {
        "m, batch 1, in 128": "on it",
        "m, batch 8, in 128": "on it",
        "m, batch 64, in 128": "beaten",
        "m, batch 1, in 1024": "on it",  # other work: nothing to be beaten by
    }


def test_the_parts_of_memory_add_up_to_the_peak(built: Any) -> None:
    mib = 2**20
    memory = Memory(weights_bytes=100 * mib, kv_cache_bytes=20 * mib, peak_allocated_bytes=150 * mib,
                    host_peak_rss_bytes=999 * mib)  # fmt: skip
    cells = grid()[:1]

    page = built([timed(cells[0], 1, 0.1, 0.01, outcome={"memory": memory})], cells)

    parts = {row["part"]: row["y"] for row in page.values("Memory")}
    assert parts == {"weights": 100, "KV cache": 20, "the rest": 30}
    assert told(page, "Memory")[0]["peak alloc (MiB)"] == "150"


def test_parts_beyond_the_peak_leave_no_rest(built: Any) -> None:
    memory = Memory(weights_bytes=100, kv_cache_bytes=20, host_peak_rss_bytes=90)
    cells = grid()[:1]

    page = built([timed(cells[0], 1, 0.1, 0.01, outcome={"memory": memory})], cells)

    assert {row["part"] for row in page.values("Memory")} == {"weights", "KV cache"}
    assert "unknown, not nothing" in page.section("Memory")["text"]


def test_a_session_is_shown_against_the_middle_of_its_cell(built: Any) -> None:
    cells = grid(output_len=1)[:1]

    page = built([timed(cells[0], 1, 0.9, 0), timed(cells[0], 2, 1.0, 0)], cells)

    assert [row["y"] for row in page.values("Spread")] == pytest.approx([-0.0513, 0.0541], abs=1e-4)
    assert page.column("Spread", "each session against the middle (%)") == ["-5.1, +5.4"]


def test_a_roofline_needs_predicted_work(built: Any) -> None:
    cells = grid()[:1]

    page = built([timed(cells[0], 1, 0.1, 0.01)], cells)

    assert page.section("Roofline")["spec"] is None
    assert "holds no predicted work" in page.section("Roofline")["text"]


def test_a_roofline_divides_predicted_work_by_measured_time(built: Any) -> None:
    cell = grid()[0]
    work = Prediction(weights_bytes=10**9, prefill_flops=4 * 10**11, decode_flops=3 * 10**10,
                      decode_bytes=15 * 10**9, flops_s=1e13, bytes_s=2e11, source="measured")  # fmt: skip

    page = built([timed(cell, 1, 0.1, 0.01)], [cell], predictions={cell.id: work})

    prefill, decode = told(page, "Roofline")
    assert (prefill["FLOP/byte"], prefill["GFLOP/s"], prefill["of the roof"]) == (
        "400",
        "4,000",
        "40%",
    )
    assert (decode["FLOP/byte"], decode["GFLOP/s"], decode["of the roof"]) == ("2", "200", "50%")
    roof = page.section("Roofline")["spec"]["layer"][0]["data"]["values"]
    assert [(corner["x"], corner["y"]) for corner in roof] == [
        (1, 200),
        (50, 10_000),
        (800, 10_000),
    ]


def test_failures_are_counted_with_their_reasons_and_have_no_number(built: Any) -> None:
    cells = grid()
    lost = [
        make_record(cells[3], s, status=Status.OOM, phase="warmup", reason=f"{s} GiB")
        for s in (1, 2)
    ]
    broken = make_record(
        cells[1], 1, status=Status.INVALID, problems=[Finding("token_count", "15")]
    )

    page = built([timed(cells[0], 1, 0.1, 0.01), broken, *lost], cells)

    rows = told(page, "Failures")
    assert [(row["sessions"], row["how"], row["why"]) for row in rows] == [
        ("2", "oom in warmup", "1 GiB"),
        ("1", "invalid", "token_count"),
    ]
    assert page.section("Sessions")["rows"][1] == ["run", "1", "0", "1", "2", "8"]
    assert len(told(page, "Results")) == 1


def test_warnings_are_counted_and_told_in_words(built: Any) -> None:
    cells = grid()[:2]
    spike = [Finding("spike", "the slowest iteration took 2.4x the median")]

    page = built(
        [timed(cells[0], 1, 0.1, 0.01, warnings=spike), timed(cells[1], 1, 0.1, 0.01)], cells
    )

    assert told(page, "Warnings") == [
        {
            "run": "run",
            "warning": "spike",
            "valid sessions": "1 of 2",
            "meaning": MEANINGS["spike"],
            "such as": spike[0].detail,
        }
    ]


def test_a_run_without_any_number_still_has_its_page(built: Any) -> None:
    cells = grid()

    page = built([], cells)

    assert page.section("Sessions")["rows"][1][-1] == "12"
    assert "No cell has a valid session" in page.section("Results")["text"]


def test_a_run_without_any_cell_still_has_its_page(built: Any) -> None:
    page = built([], [])

    assert page.section("Sessions")["rows"][1] == ["run", "0", "0", "0", "0", "0"]


# -- what was found, first ------------------------------------------------------------------------


def test_a_page_leads_with_a_title_three_sentences_and_the_results(built: Any) -> None:
    cells = grid()
    tpot = (0.01, 0.02, 0.3, 0.5)
    ends = [
        timed(c, s, 0.1, t * (1 + s / 100))
        for c, t in zip(cells, tpot, strict=True)
        for s in (1, 2, 3)
    ]

    page = built(ends, cells, machine={"name": "xeon-2cpu"}, at="2026-11-26T03:16:45Z")

    assert "m with transformers on xeon-2cpu, 2026-11-26" in page.section("")["text"]
    assert (
        "Output is highest at 315.3 ±5.8 tok/s with m, batch 8, in 128, "
        "and lowest at 2.065 ±0.050 tok/s with m, batch 1, in 1024."
    ) in page.section("")["text"]
    assert "All 12 sessions have a number." in page.section("")["text"]
    assert list(page.sections)[1] == "Results"


def test_cells_whose_intervals_overlap_are_not_told_apart(built: Any) -> None:
    cells = grid()[:2]
    ends = [
        timed(c, s, 0.1 + s / 100, 0.01 * p + s / 1000)
        for c, p in zip(cells, (1, 1.01), strict=True)
        for s in (1, 2, 3)
    ]

    page = built(ends, cells)

    assert page.section("")["text"].count("with intervals that overlap") == 2


def test_sessions_without_a_number_are_told_at_the_top(built: Any) -> None:
    cells = grid()[:1]
    lost = make_record(cells[0], 2, status=Status.OOM, phase="warmup", reason="1 GiB")

    page = built([timed(cells[0], 1, 0.1, 0.01), lost], cells)

    assert "1 of 3 sessions have a number, 1 failed, 1 still to come." in page.section("")["text"]


@pytest.mark.parametrize("models", [7, 9, 30])
def test_no_plot_has_more_than_seven_colours_or_one_twice(built: Any, models: int) -> None:
    cells = [
        make_cell(number * 2 + batch, model=f"m{number}", batch_size=batch + 1)
        for number in range(models)
        for batch in (0, 1)
    ]

    page = built([timed(c, s, 0.1, 0.01) for c in cells for s in (1, 2)], cells)

    plots = [held["spec"] for held in page.sections.values() if held["spec"]]
    assert len(plots) == 4
    for spec in plots:
        domain = colours(spec)
        assert len(domain) == len(set(domain)) <= 7
        owners: dict[tuple[str, str], set[str]] = {}
        for row in spec["data"]["values"]:
            owners.setdefault((row["panel"], row["colour"]), set()).add(row["series"])
        assert all(len(series) == 1 for series in owners.values())
        assert {colour for _, colour in owners} <= set(domain)
        assert len({panel for panel, _ in owners}) <= figures_cells.MOST_PANELS


def colours(spec: Any) -> list[str]:
    """Return the names that have a colour in a plot, in order."""
    layers = spec.get("spec", spec)["layer"]
    domains = (
        layer["encoding"]["color"]["scale"]["domain"]
        for layer in layers
        if "color" in layer["encoding"]
    )
    return list(next(domains))


# -- several runs ----------------------------------------------------------------------------------


def test_runs_are_told_apart_in_every_plot(tmp_path: Path) -> None:
    cells = grid()
    work = {cell.id: Prediction(weights_bytes=10**9, prefill_flops=10**11) for cell in cells}
    held = {"memory": Memory(weights_bytes=10**8, kv_cache_bytes=10**7, host_peak_rss_bytes=10**9)}
    ends = [timed(cell, s, 0.1, 0.01, outcome=held) for cell in cells for s in (1, 2)]
    folders = [
        save(tmp_path / name / "run", ends, cells, predictions=work, machine={"cpu": name})
        for name in ("a", "b")
    ]

    page = page_of(*folders)

    for title in ("Throughput", "Decode", "Memory", "Roofline", "Spread"):
        rows = page.values(title)
        for name in ("a/run", "b/run"):
            assert any(name in str(row) for row in rows), title
    machine = next(row for row in page.section("Conditions")["rows"] if "cpu" in row[0])
    assert machine == ["machine: cpu (differs)", "a", "b"]


def test_a_series_names_the_options_of_its_own_engine_only(
    tmp_path: Path,
) -> None:
    alone = make_cell(0, backend="transformers")
    eager = make_cell(1, backend="vllm", options={"enforce_eager": True})
    ends = [timed(cell, 1, 0.1, 0.01) for cell in (alone, eager)]

    page = page_of(*(save(tmp_path / name / "run", ends, (alone, eager)) for name in ("a", "b")))

    assert {row["series"] for row in page.values("Throughput")} == {
        "llama-7b@tiny, transformers, a/run", "mpt-7b@tiny, vllm, enforce_eager True, a/run",
        "llama-7b@tiny, transformers, b/run", "mpt-7b@tiny, vllm, enforce_eager True, b/run",
    }  # fmt: skip


@pytest.mark.usefixtures("drawn_by")
@pytest.mark.parametrize(
    ("machine", "told_of"),
    [
        ({"cpu": "a CPU", "cores": 2}, "4 cells: 4 slower"),
        ({"cpu": "another"}, "Left out: "),
    ],
)
def test_runs_get_the_verdicts_of_compare_or_its_reason_to_refuse(
    machine: dict[str, Any], told_of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = grid()
    for name, pace, where in (("a", 1.0, {"cpu": "a CPU", "cores": 2}), ("b", 1.2, machine)):
        ends = [
            timed(c, s, 0.1 * pace, 0.01 * pace * (1 + s / 1000)) for c in cells for s in (1, 2, 3)
        ]
        save(tmp_path / name, ends, cells, machine=where, run=name)

    code = cli.run(["report", "a", "b", "-o", "page.html"])

    assert code == 0
    page = Page(Path("page.html").read_text())
    assert told_of in page.section("Comparison")["text"]
    if page.section("Comparison")["spec"]:
        assert {row["verdict"] for row in told(page, "Comparison")} == {"slower"}
        assert page.column("Comparison", "ratio") == ["1.200"] * 4


def test_what_another_tool_does_not_say_is_in_no_name(tmp_path: Path) -> None:
    code = cli.run(
        ["import", *map(str, sorted(IMPORTED.glob("*.json*"))), "-o", str(tmp_path / "imported")]
    )

    own = save(tmp_path / "own", [timed(grid()[0], 1, 0.1, 0.01)], grid())
    runs = [views_report.seen(store.read(path), path.name) for path in (tmp_path / "imported", own)]
    names = [dot.name for dot in figures_cells.dots(runs)]

    assert code == 0
    assert any("llama.cpp" in name for name in names)
    assert not any(f", {NOT_SAID}" in name for name in names)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save(tmp_path / "run", [timed(cell, 1, 0.1, 0.01) for cell in grid()], grid())


@pytest.fixture
def drawn_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "library", lambda: "/* the library */")


@pytest.mark.usefixtures("drawn_by")
def test_the_command_writes_a_page_and_writes_it_again(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    page = tmp_path / "page.html"

    assert [cli.run(["report", str(run), "-o", str(page)]) for _ in range(2)] == [0, 0]

    assert "4 cells of 1 run" in capsys.readouterr().out
    assert Page(page.read_text()).section("Decode latency")["spec"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]


@pytest.mark.usefixtures("drawn_by")
def test_a_file_that_is_no_report_is_not_overwritten_unless_forced(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    precious = tmp_path / "thesis.html"
    precious.write_text("years of work")

    assert cli.run(["report", str(run), "-o", str(precious)]) == 2

    assert precious.read_text() == "years of work"
    assert "is not a page of llmbench" in capsys.readouterr().err
    assert cli.run(["report", str(run), "-o", str(precious), "--force"]) == 0
    assert precious.read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("drawn_by")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "-o", "."], "is a folder"),
        (["run", "-o", "no/page.html"], "there is no folder"),
        (["run", "./run", "-o", "page.html"], "is named twice"),
        (["circle"], "does not exist"),
        (["missing", "-o", "page.html"], "does not exist. Give the folder of a run"),
        ([], "there is no run under results/. Give the folder of one"),
    ],
)
def test_a_mistake_is_one_line(
    run: Path, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(run.parent)
    Path("circle").symlink_to("circle")

    code = cli.run(["report", *arguments])

    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    assert sentence in lines[0]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)

    with pytest.raises(LlmbenchError, match=r"vl_convert: pip install 'llmbench\[report\]'"):
        html.library()


def test_two_runs_of_one_name_are_called_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]

    assert [label for _, label in report.labelled(paths)] == ["a/run", "b/run"]
