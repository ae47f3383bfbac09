"""Runs as tables: the whole text of each format, and every kind of run that has little to show."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llmbench import cli, report
from llmbench.report.csv import safe
from llmbench.report.markdown import plain
from llmbench.report.words import figures
from llmbench.results import metrics, store, table
from llmbench.results.record import Finding, Given, Line, Record, Status, Stop
from llmbench.results.table import Numbers
from llmbench.spec.sweep import Protocol
from make_records import make_cell, make_plan, make_record, make_samples, write
from pages import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmbench.results.table import Table
    from llmbench.spec.sweep import Cell

GOLDEN = Path(__file__).parent / "golden" / "format-1"

SMALL = make_cell(0, batch_size=1, input_len=32)
LARGE = make_cell(0, batch_size=4, input_len=32)
TWO = Protocol(sessions=2)


def record(cell: Cell, session: int, e2e_s: float = 1.0, **changes: Any) -> Record:
    """Return a valid record of three iterations, the middle one as long as given."""
    samples = make_samples([0.98 * e2e_s, e2e_s, 1.02 * e2e_s], 0.2 * e2e_s, cell.output_len)
    return make_record(cell, session, samples, **changes)


def failed(cell: Cell, session: int, status: Status = Status.OOM, **changes: Any) -> Record:
    facts = {"phase": "warmup", "reason": "tried to allocate 2.0 GiB", **changes}
    return make_record(cell, session, status=status, **facts)


def served(session: int, goodput: float) -> Record:
    given = {"goodput_rps": Given(value=goodput, definition="d", clock="c")}
    return record(SMALL, session, outcome={"given": given})


def test_a_goodput_of_0_counts_and_is_shown(built: Any) -> None:
    made = built([served(1, 3.0), served(2, 0.0)], [SMALL])

    (goodput,) = (each for each in made.numbers if each.metric.key == "goodput_rps")

    assert (goodput.middle[0], goodput.sessions[0]) == (1.5, 2)
    assert np.isnan(goodput.half_width[0])


def test_a_goodput_of_0_in_every_session_is_no_absent_one(built: Any) -> None:
    made = built([served(1, 0.0), served(2, 0.0)], [SMALL])

    assert [each.middle[0] for each in made.numbers if each.metric.key == "goodput_rps"] == [0.0]


@pytest.fixture
def built(tmp_path: Path) -> Any:
    """Return a function from lines, with a plan before them, to their table."""

    def build(lines: Sequence[Line], cells: Sequence[Cell] = (SMALL, LARGE)) -> Table:
        with store.open_run(tmp_path / "run") as run:
            for line in (make_plan(cells, settings=TWO), *lines):
                run.append(line)
        return table.build(store.read(tmp_path / "run"))

    return build


@pytest.fixture
def full(built: Any) -> Table:
    """Return the table of a run with numbers, a warning, a failure and a session still to come."""
    warned = [Finding("trend", "the last third is slower")]
    made: Table = built(
        [
            record(SMALL, 1, 1.00, warnings=warned),
            record(SMALL, 2, 1.01),
            record(LARGE, 1, 2.00),
            failed(LARGE, 2),
        ],
        [SMALL, LARGE, make_cell(0, batch_size=16, input_len=32)],
    )
    return made


def terminal(made: Table, width: int | None = None, encoding: str = "utf-8") -> str:
    return shown(made, "terminal", report.Page(width=width, encoding=encoding))


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


# -- the formats -------------------------------------------------------------------------------------


# The figures below by hand: logs of 1.00 and 1.01 differ by 0.00995, so their standard error is 0.004975;
# times t(0.975, 1) = 12.706 that is 0.0632, and exp(0.0632) - 1 = 6.53 %: of 201 ms, 13.


REASONS = (
    "1 of 2 cells without an interval, which takes two sessions",
    "1 session failed",
    "1 of 3 cells without a number",
    "2 sessions still to come",
)


def test_the_terminal_shows_what_varies_first_and_every_value_with_its_spread(full: Table) -> None:
    text = terminal(full)

    assert lines_of(text) == lines_of(
        """
example, 2025-06-01: 3 cells; 6 sessions: 2 valid, 1 valid with warnings, 1 failed, 2 still to come
Show what a table looks like.
Made by llmbench sweep configs/sweeps/example.yaml.
Each cell: 1 to 2 sessions of 3 iterations. Intervals hold within this run: another day or machine can differ by more.
model llama-7b@tiny, backend transformers, device cpu, dtype float32, weights dummy, prompts synthetic, in 32, out 16

batch  sessions          TTFT          TPOT         output  peak RSS  warnings
                           ms            ms          tok/s       MiB
─────  ────────  ────────────  ────────────  ─────────────  ────────  ──────────────
    1         2    201 ±13      53.6 ±3.5     15.9 ±1.0        512.0  trend (1 of 2)
    4         1  400.0 (±0.0)  106.7 (±2.7)  32.00 (±0.64)     512.0

Without a number: 1 session
sessions  how            why                        cells
────────  ─────────────  ─────────────────────────  ───────
       1  oom in warmup  tried to allocate 2.0 GiB  batch 4

NAME@tiny: a scaled-down copy with two layers, not the model it is named after; its speed is not that model's.
±, or (low to high) where ± would mislead: 95 % interval between sessions, Student's t on the logarithms of medians.
(±): half the range within the only session's process; not an interval.
TTFT: call to the first new token of every sequence in the batch; in-process, without a queue.
TPOT: (e2e - ttft) / (n - 1) for n new tokens per sequence; absent when n = 1.
output: batch x n / e2e: new tokens only, including the time of the prefill.
peak RSS: peak resident host memory of a worker, with imports and memory of earlier cells; the largest of the sessions.
trend: iterations got steadily slower or faster, from heat, a filling cache or a short warm-up.
Take these numbers with care: REASONS.
""".replace("REASONS", "; ".join(REASONS))
    )


def stop(cell: Cell, sessions: int, reason: Any, half_width: float | None) -> Stop:
    return Stop(cell=cell.id, sessions=sessions, reason=reason, half_width=half_width)


@pytest.fixture
def stopped(built: Any) -> Table:
    """Return a table of cells that stopped for every reason, one of which went on when it was resumed."""
    many = [make_cell(0, batch_size=size) for size in (1, 2, 4, 8, 16)]
    made: Table = built(
        [
            *(record(cell, session) for cell in many for session in (1, 2)),
            record(many[2], 3),
            stop(many[0], 2, "interval", 0.0112),
            stop(many[1], 2, "maximum", 0.042),
            stop(many[2], 2, "budget", 0.5),
            stop(many[2], 3, "maximum", 0.0949),
            stop(many[3], 1, "budget", 0.5),
            stop(many[4], 2, "failed", None),
        ],
        many,
    )
    return made


def test_people_are_told_where_sessions_did_not_suffice(stopped: Table) -> None:
    told = (
        "End-to-end times: 1 cell within ±1.5% after 2 sessions; 2 cells at ±4.2% to ±9.5% after 2 to 3 "
        "sessions, the most allowed (max_sessions)."
    )

    assert told in terminal(stopped)
    assert told.replace("±", "+-") in terminal(stopped, encoding="ascii")
    assert f"- {told}" in shown(stopped, "markdown")


def test_exports_tell_the_last_reason_of_each_cell(stopped: Table) -> None:
    exported = json.loads(shown(stopped, "json"))["cells"]

    assert [cell["stopped"] and cell["stopped"]["reason"] for cell in exported] == [
        "interval", "maximum", "maximum", None, "failed",
    ]  # fmt: skip
    assert exported[2]["stopped"]["half_width"] == 0.0949


def test_markdown_pastes_into_an_issue_with_the_command_that_made_it(full: Table) -> None:
    text = shown(full, "markdown")

    assert text.startswith("""\
**example, 2025-06-01: 3 cells; 6 sessions: 2 valid, 1 valid with warnings, 1 failed, 2 still to come**

Show what a table looks like.
Made by llmbench sweep configs/sweeps/example.yaml.
Each cell: 1 to 2 sessions of 3 iterations. Intervals hold within this run: another day or machine can differ by more.
model llama-7b@tiny, backend transformers, device cpu, dtype float32, weights dummy, prompts synthetic, in 32, out 16.

| batch | sessions |    TTFT (ms) |    TPOT (ms) | output (tok/s) | peak RSS (MiB) | warnings       |
| ----: | -------: | -----------: | -----------: | -------------: | -------------: | :------------- |
|     1 |        2 |      201 ±13 |    53.6 ±3.5 |      15.9 ±1.0 |          512.0 | trend (1 of 2) |
|     4 |        1 | 400.0 (±0.0) | 106.7 (±2.7) |  32.00 (±0.64) |          512.0 |                |

**Without a number: 1 session**

| sessions | how           | why                       | cells   |
| -------: | :------------ | :------------------------ | :------ |
|        1 | oom in warmup | tried to allocate 2.0 GiB | batch 4 |

- NAME@tiny: a scaled-down copy with two layers, not the model it is named after; its speed is not that model's.
- ±, or (low to high) where ± would mislead: 95 % interval between sessions, Student's t on the logarithms of medians.
""")


def test_csv_has_every_cell_and_every_coordinate_with_units_in_the_heads(full: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(full, "csv"))))

    assert [row["batch_size"] for row in rows] == ["1", "4", "16"]
    assert [row["sessions_valid"] for row in rows] == ["2", "1", "0"]
    assert [row["sessions_without_number"] for row in rows] == ["0", "1", "0"]
    assert [row["sessions_to_come"] for row in rows] == ["0", "0", "2"]
    assert [row["failures"] for row in rows] == ["", "1 oom/warmup", ""]
    assert [row["warnings"] for row in rows] == ["trend", "", ""]
    first = {key: float(rows[0][key]) for key in ("e2e_s", "e2e_s_low", "e2e_s_high")}
    assert first["e2e_s"] == pytest.approx(1.01**0.5)
    assert first["e2e_s_low"] * first["e2e_s_high"] == pytest.approx(1.01)
    assert rows[1]["e2e_s_low"] == ""
    assert float(rows[1]["e2e_s_half_range_in_process"]) == pytest.approx(0.04)
    assert rows[2]["e2e_s"] == ""
    assert rows[0]["host_peak_rss_bytes"] == str(512 * 2**20)


def test_json_says_of_every_metric_what_it_is_and_where_it_comes_from(full: Table) -> None:
    whole = json.loads(shown(full, "json"))

    assert whole["metrics"]["tpot_s"] == {
        "definition": "(e2e - ttft) / (n - 1) for n new tokens per sequence; absent when n = 1",
        "better": "lower",
        "tokens": "ids returned, checked against the requested length",
        "clock": "e2e by host, monotonic, device synchronised before and after; "
        "ttft by the engine's own token times, from the same start",
        "within_session": "median over iterations",
        "over_sessions": "exp of the mean of logarithms",
        "interval": "95 %, Student's t on logarithms",
    }
    assert whole["progress"]["to_come"] == 2
    assert whole["run"]["command"] == "llmbench sweep configs/sweeps/example.yaml"
    small, large, none = whole["cells"]
    assert small["values"]["e2e_s"]["value"] == pytest.approx(1.01**0.5)
    assert large["values"]["e2e_s"]["low"] is None
    assert large["values"]["e2e_s"]["sessions"] == 1
    assert none["values"] == {}
    assert whole["failures"][0]["cells"] == {LARGE.id: 1}


def test_every_format_is_a_file_and_the_command_offers_each() -> None:
    assert report.FORMATS == ("terminal", "markdown", "csv", "json", "html")


# -- what a number is made of ------------------------------------------------------------------------


def test_an_invalid_session_is_never_among_the_numbers(built: Any) -> None:
    invalid = record(
        SMALL, 2, 9.0, status=Status.INVALID, problems=[Finding("token_count", "too few")]
    )

    made = built([record(SMALL, 1), invalid], [SMALL])

    (e2e,) = (numbers for numbers in made.numbers if numbers.metric.key == "e2e_s")
    assert e2e.middle.tolist() == pytest.approx([1.0])
    assert made.progress.invalid == 1
    assert [failure.reason for failure in made.failures] == ["token_count"]


def test_the_first_final_record_of_a_session_counts_and_no_other(built: Any) -> None:
    cut_off = failed(SMALL, 1, Status.INTERRUPTED)

    made = built([cut_off, record(SMALL, 1, 1.0), record(SMALL, 1, 5.0)], [SMALL])

    (e2e,) = (numbers for numbers in made.numbers if numbers.metric.key == "e2e_s")
    assert e2e.middle.tolist() == pytest.approx([1.0])
    assert made.progress.ended == 1
    assert made.progress.interrupted == 0


def test_memory_is_the_largest_of_the_sessions(built: Any) -> None:
    memory = [{"memory": {"host_peak_rss_bytes": mib * 2**20}} for mib in (300, 500)]

    lines = [record(SMALL, 1), record(SMALL, 2)]
    made = built([with_memory(line, o) for line, o in zip(lines, memory, strict=True)], [SMALL])

    (rss,) = (n for n in made.numbers if n.metric.key == "host_peak_rss_bytes")
    assert rss.middle.tolist() == [500 * 2**20]
    assert np.isnan(rss.half_width).all()


def with_memory(line: Record, outcome: dict[str, Any]) -> Record:
    return make_record(line.cell, line.session, line.outcome.samples, outcome=outcome)


def test_a_metric_that_was_measured_nowhere_has_no_column(full: Table) -> None:
    assert "peak_allocated_bytes" not in {numbers.metric.key for numbers in full.numbers}


def test_one_new_token_leaves_its_cell_without_time_per_token(built: Any) -> None:
    one = make_cell(1, model="llama-7b@tiny", output_len=1)

    text = terminal(built([record(LARGE, 1), record(one, 1)], [LARGE, one]))

    assert re.search(r"^  1 +200\.0 \(±0\.0\) +- ", text, re.MULTILINE)


def test_failures_alike_but_for_their_figures_are_counted_together(built: Any) -> None:
    made = built([failed(SMALL, n, reason=f"tried to allocate {n}.5 GiB") for n in (1, 2)])

    assert [(f.sessions, f.reason) for f in made.failures] == [(2, "tried to allocate 1.5 GiB")]


def test_a_warning_of_all_sessions_is_said_once(built: Any) -> None:
    shared = [Finding("synthetic_routing", "x")]

    text = terminal(built([record(SMALL, 1, warnings=shared), record(LARGE, 1, warnings=shared)]))

    assert "Every number: synthetic_routing." in text
    assert text.count("synthetic_routing") == 1


def test_what_holds_for_every_number_and_where_it_is_from_stand_above_them(tmp_path: Path) -> None:
    findings = [Finding("busy_machine", "others used 76% of the CPUs")]
    with store.open_run(tmp_path / "run") as run:
        run.append(make_plan([SMALL], machine={"name": "xeon-2cpu"}, at="2026-11-26T04:50:00Z"))
        run.append(record(SMALL, 1, warnings=findings))
    made = table.build(store.read(tmp_path / "run"))

    head, second, *_ = terminal(made).splitlines()
    marked = shown(made, "markdown").splitlines()

    assert head.startswith("example, on xeon-2cpu, 2026-11-26: 1 cell; ")
    assert marked[0].startswith("**example, on xeon-2cpu, 2026-11-26: 1 cell; ")
    assert second == marked[2] == "Every number: busy_machine."


@pytest.mark.parametrize("odd", [False, True])
def test_signs_are_explained_where_they_stand_and_only_there(built: Any, *, odd: bool) -> None:
    other = make_cell(0, batch_size=4, output_len=1 if odd else 16)
    times = (1.0, 9.0 if odd else 1.0)

    text = terminal(
        built(
            [*(record(SMALL, n, time) for n, time in enumerate(times, 1)), record(other, 1)],
            [SMALL, other],
        )
    )

    assert ("(over 10x): the interval reaches over ten times the value; m" in text) is odd
    assert ("-: no figure; the engine does not tell it" in text) is odd


def test_an_option_that_a_backend_never_sets_has_no_default_in_its_rows(built: Any) -> None:
    eager = make_cell(0, backend="vllm", options={"enforce_eager": True})
    both = make_cell(1, backend="vllm", options={})

    alone = built([record(cell, 1) for cell in (SMALL, eager)], (SMALL, eager))
    beside = built([record(cell, 1) for cell in (SMALL, eager, both)], (SMALL, eager, both))

    (axis,) = [axis for axis in alone.axes if axis.name == "enforce_eager"]
    (wider,) = [axis for axis in beside.axes if axis.name == "enforce_eager"]
    assert axis.values == ("-", True)
    assert wider.values == ("-", True, None)


def test_the_same_coordinates_measured_in_two_ways_are_told_apart_by_id(built: Any) -> None:
    other = make_cell(
        5, **{key: getattr(SMALL, key) for key in ("model", "batch_size", "input_len")}
    )

    made = built([record(SMALL, 1), record(other, 1)], [SMALL, other])

    assert [axis.name for axis in made.axes] == ["id"]


def test_cells_of_an_earlier_plan_are_shown_and_said(built: Any) -> None:
    made = built([record(SMALL, 1), record(LARGE, 1)], [SMALL])

    assert len(made.rows) == 2
    assert made.progress.to_come == 1
    assert made.notices == ("1 cells are of an earlier plan of this run.",)


def test_records_of_two_environments_are_said(built: Any) -> None:
    made = built([record(SMALL, 1), record(SMALL, 2, environment="other")], [SMALL])

    assert made.notices == ("The records come from 2 environments; see run.json.",)


def test_chosen_metrics_are_shown_in_the_order_asked(tmp_path: Path) -> None:
    write(tmp_path, 6)

    made = table.build(store.read(tmp_path), metrics.named(["e2e_s", "decode_tok_s"]))

    assert [n.metric.label for n in made.headline] == ["E2E", "decode"]


# -- runs with little to show ------------------------------------------------------------------------


def test_a_plan_without_records_says_what_is_to_come(built: Any) -> None:
    assert terminal(built([])).startswith(
        "example, 2025-06-01: 2 cells; 4 sessions: 4 still to come\n"
    )


def test_a_run_with_nothing_in_it_is_a_table_too(tmp_path: Path) -> None:
    store.open_run(tmp_path).close()

    for format in report.FORMATS:
        assert shown(table.build(store.read(tmp_path)), format)
    assert (
        terminal(table.build(store.read(tmp_path)))
        == f"{tmp_path.name}: 0 cells; 0 sessions: none planned\n"
    )


def test_only_failures_are_counted_and_no_number_is_made_up(built: Any) -> None:
    text = terminal(built([failed(cell, n) for cell in (SMALL, LARGE) for n in (1, 2)]))

    assert "4 sessions: 4 failed" in text
    assert "No cell has a valid session." in text
    assert "Without a number: 4 sessions" in text
    assert "batch 1 (2 sessions); batch 4 (2 sessions)" in text
    assert "±" not in text


def test_one_session_has_a_spread_in_brackets_and_no_interval(built: Any) -> None:
    text = terminal(built([record(SMALL, 1)], [SMALL]))

    assert "53.3 (±1.3)" in text
    assert "95 % interval" not in text


@pytest.mark.parametrize("format", ["terminal", "markdown", "csv", "json"])
def test_the_golden_run_of_format_1_is_shown_in_every_format(format: str) -> None:
    text = shown(table.build(store.read(GOLDEN)), format)

    assert "llama-7b@tiny" in text
    assert "token_count" in text or format == "csv"


# -- strange names, narrow places --------------------------------------------------------------------

STRANGE = (
    "org/model[/bold]",
    "=cmd()",
    "a|b`c",
    "<script>alert(1)</script>",
    "two\nlines",
    "\x1b[31mred",
    "abc\u202edef",
    "模型🚀",
    "x" * 300,
)


@pytest.fixture
def strange(built: Any) -> Table:
    cells = [make_cell(number, model=name) for number, name in enumerate(STRANGE)]
    made: Table = built([record(cell, 1) for cell in cells], cells)
    return made


def test_a_strange_name_cannot_act_on_a_terminal_or_break_its_line(strange: Table) -> None:
    text = terminal(strange)

    assert all(character.isprintable() for line in text.split("\n") for character in line)
    assert r"two\nlines" in text
    assert r"\x1b[31mred" in text
    assert "org/model[/bold]" in text
    assert "…" in text


def test_columns_stand_straight_under_names_of_two_cells_a_character(strange: Table) -> None:
    (wide,) = (line for line in terminal(strange).splitlines() if line.startswith("模型🚀"))
    (plain_name,) = (line for line in terminal(strange).splitlines() if line.startswith("=cmd()"))

    assert len(wide) == len(plain_name) - 3


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("llama-7b@tiny", "llama-7b@tiny"),
        ("gpt_neox, 7 B (a/b)", "gpt_neox, 7 B (a/b)"),
        ("@someone", "`@someone`"),
        ("a *b*", "`a *b*`"),
        ("_a_", "`_a_`"),
        ("a|b", r"`a\|b`"),
        ("a`b", "``a`b``"),
        ("`a", "`` `a ``"),
        ("<script>", "`<script>`"),
        ("#1", "`#1`"),
        ("two\nlines", r"`two\nlines`"),
        ("", ""),
    ],
)
def test_markdown_finds_nothing_to_do_in_a_foreign_name(text: str, escaped: str) -> None:
    assert plain(text) == escaped


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@SUM(A1)", "|x", "%x"])
def test_a_spreadsheet_finds_no_formula_in_a_foreign_name(text: str) -> None:
    assert safe(text) == f"'{text}"


def test_strange_names_stay_whole_in_csv_and_json(strange: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(strange, "csv"))))
    cells = json.loads(shown(strange, "json"))["cells"]

    assert rows[1]["model"] == "'=cmd()"
    assert rows[3]["model"] == STRANGE[3]
    assert [cell["model"] for cell in cells] == list(STRANGE)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_longer_than_the_page_is_wide(full: Table, width: int) -> None:
    text = terminal(full, width=width)

    assert max(map(len, text.splitlines())) <= width


def test_columns_that_do_not_fit_stand_under_the_same_rows_again(full: Table) -> None:
    narrow = terminal(full, width=60)

    heads = [line for line in narrow.splitlines() if line.startswith("batch  sessions")]
    assert len(heads) > 1
    assert all(label in narrow for label in ("TTFT", "TPOT", "output", "peak RSS", "trend"))


def test_ascii_terminals_get_signs_that_they_can_show(strange: Table) -> None:
    text = terminal(strange, encoding="ascii")

    assert "(+-" in text
    assert "±" not in text
    assert "─" not in text


# -- the command -------------------------------------------------------------------------------------


def llmbench(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmbench", *arguments],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_the_table_of_a_run_and_exits_0() -> None:
    done = llmbench("table", GOLDEN)

    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith(
        "example, 2025-06-01: 2 cells; 4 sessions: 1 valid, 1 valid with warnings, "
    )


def test_a_folder_that_is_not_a_run_exits_2_with_one_line(tmp_path: Path) -> None:
    done = llmbench("table", tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"llmbench: {tmp_path}: is not a run: it has no records.jsonl.\n"


def test_an_unknown_metric_exits_2_and_says_which_was_meant() -> None:
    done = llmbench("table", GOLDEN, "--metric", "tpot_ms")

    assert done.returncode == 2
    assert "unknown metric 'tpot_ms'. Did you mean 'tpot_s'?" in done.stderr


def test_the_command_works_without_colour_in_the_c_locale_in_80_columns() -> None:
    done = llmbench(
        "table",
        GOLDEN,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
        NO_COLOR="1",
        COLUMNS="80",
    )

    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_nothing_beyond_the_base_packages_is_loaded_to_show_a_table() -> None:
    script = (
        "import sys; from llmbench.cli import run; run(['table', sys.argv[1]]);"
        "print({'torch', 'transformers', 'scipy.stats', 'rich.table'} & set(sys.modules), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, GOLDEN], capture_output=True, text=True, check=True
    )

    assert done.stderr == "set()\n"


def test_the_time_to_read_grows_with_the_records_and_no_faster(tmp_path: Path) -> None:
    seconds = []
    for count in (1000, 4000):
        write(tmp_path / str(count), count)
        seconds.append(min(time_to_show(tmp_path / str(count)) for _ in range(3)))

    assert seconds[1] < 8 * seconds[0]


def time_to_show(folder: Path) -> float:
    start = time.process_time()
    for format in ("terminal", "markdown", "csv"):
        shown(table.build(store.read(folder)), format)
    return time.process_time() - start


def test_an_interval_has_a_single_half_only_while_both_are_nearly_alike() -> None:
    widths = np.array([0.1, 0.101, 0.95, 9.0, 9.1, 1200.0])
    nothing = np.full(len(widths), np.nan)
    middles = np.full(len(widths), 0.00063)
    sessions = np.full(len(widths), 2)

    texts = figures(Numbers(metrics.BY_KEY["ttft_s"], middles, widths, nothing, sessions), range(6))

    assert texts.values == ["0.630", "0.630", "0.63", "0.63", "0.63", "0.63"]
    assert texts.spreads == [
        "±0.063", "(0.572 to 0.694)", "(0.32 to 1.23)", "(0.06 to 6.30)", "(over 10x)", "(over 10x)"
    ]  # fmt: skip


@pytest.mark.parametrize("format", report.FORMATS)
def test_rounds_that_differ_are_told_in_every_format(
    tmp_path: Path, built: Any, capsys: Any, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [make_cell(number) for number in range(6)]
    times = {1: 1.0, 2: 1.1, 3: 1.0}
    noise = iter(np.random.default_rng(1).normal(0, 0.01, 18).tolist())
    built([record(c, n, (1 + next(noise)) * times[n]) for c in cells for n in times], cells)
    monkeypatch.chdir(tmp_path)

    cli.run(["table", "run", "--format", format])

    told = "".join(capsys.readouterr()) + "".join(p.read_text() for p in tmp_path.glob("*.html"))
    assert re.search(r"round\s+2\s+was\s+(9|10|11)\.?\d*\s%\s+slower", told)


def test_one_iteration_is_no_median_and_the_table_says_so(built: Any) -> None:
    alone = make_record(SMALL, 1, make_samples([1.0], 0.2, SMALL.output_len))

    one = terminal(built([alone]))
    mixed = terminal(built([record(LARGE, 1)]))

    assert "Each cell: 1 session of 1 iteration.\n1 iteration a session: such a value is one" in one
    assert "1 iteration a session in 1 of 2 cells: " in mixed
    assert "Each cell: 1 session of 1 to 3 iterations.\n" in mixed
