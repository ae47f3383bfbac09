"""Runs beside each other: what is matched, what is refused, what is said, and the exit code of every case."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from llmbench.results.record import Finding, Given, Status
from llmbench.spec.sweep import Protocol
from make_records import make_cell, make_plan, make_record, make_samples, write, write_lines
from sweeps import asked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from llmbench.results.record import Record
    from llmbench.spec.sweep import Cell

CELLS = [make_cell(number) for number in range(3)]
QUIET = (0.999, 1.0, 1.001)


class Done:
    """What the command printed, and its exit code."""

    def __init__(self, *arguments: object) -> None:
        self.code, self.out, self.err = asked("compare", *arguments)

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def sessions(cell: Cell, times: Iterable[float] = QUIET, **changes: Any) -> list[Record]:
    return [
        make_record(cell, number, make_samples([t] * 3, 0.2 * t, cell.output_len), **changes)
        for number, t in enumerate(times, 1)
    ]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Return a function that writes a run of records and returns its folder; each run has an id of its own."""

    def write_run(name: str, records: Sequence[Record], **plan: Any) -> Path:
        cells = list({record.id: record.cell for record in records}.values())
        facts = {"run": name, "cells": cells, "settings": Protocol(sessions=3), **plan}
        write_lines(tmp_path / name, [make_plan(**facts), *records])
        return tmp_path / name

    return write_run


def all_cells(times: Sequence[float] = QUIET, **changes: Any) -> list[Record]:
    return [record for cell in CELLS for record in sessions(cell, times, **changes)]


def like_the_first(number: int, **changes: Any) -> Cell:
    """Return a cell with an id of its own that only the changes tell from the first."""
    return make_cell(number, model=CELLS[0].model, input_len=CELLS[0].input_len, **changes)


def scaled(factor: float) -> list[float]:
    return [factor * time for time in QUIET]


def verdicts_of(done: Done) -> dict[str, int]:
    counts: dict[str, int] = done.json["candidates"][0]["verdicts"]
    return {verdict: count for verdict, count in counts.items() if count}


# -- verdicts and exit codes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "metric", "verdict", "code"),
    [
        (1.05, "e2e_s", "slower", 1),
        (0.95, "e2e_s", "faster", 0),
        (1.05, "output_tok_s", "slower", 1),
        (0.95, "output_tok_s", "faster", 0),
        (1.05, "tpot_s", "slower", 1),
        (1.001, "e2e_s", "same", 0),
        (1.0195, "e2e_s", "unclear", 3),
    ],
)
def test_the_verdict_and_the_exit_code(
    written: Any, factor: float, metric: str, verdict: str, code: int
) -> None:
    baseline, candidate = written("a", all_cells()), written("b", all_cells(scaled(factor)))

    done = Done(baseline, candidate, "--metric", metric, "--format", "json")

    assert verdicts_of(done) == {verdict: 3}
    assert done.code == code


def test_more_memory_is_more_and_not_slower(written: Any) -> None:
    def with_rss(mebibytes: int) -> list[Record]:
        return [
            make_record(cell, session, make_samples([1.0] * 3, 0.2, 16),
                        outcome={"memory": {"host_peak_rss_bytes": mebibytes * 2**20}})
            for cell in CELLS for session in (1, 2, 3)
        ]  # fmt: skip

    baseline, candidate = written("a", with_rss(500)), written("b", with_rss(600))

    done = Done(baseline, candidate, "--metric", "host_peak_rss_bytes", "--format", "json")

    assert verdicts_of(done) == {"more": 3}
    assert done.code == 1


@pytest.mark.parametrize(
    ("flag", "code"),
    [("slower", 0), ("faster", 1), ("faster,unclear", 1), ("missing", 0), ("less", 1), ("none", 0)],
)
def test_what_fails_can_be_chosen(written: Any, flag: str, code: int) -> None:
    baseline, candidate = written("a", all_cells()), written("b", all_cells(scaled(0.9)))

    assert Done(baseline, candidate, "--fail-on", flag).code == code


def test_the_margin_is_the_users(written: Any) -> None:
    baseline, candidate = written("a", all_cells()), written("b", all_cells(scaled(1.05)))

    done = Done(baseline, candidate, "--margin", "10%", "--format", "json")

    assert verdicts_of(done) == {"same": 3}


def test_a_small_table_rests_on_each_cell_and_a_large_one_on_all(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path / name, 60, seed, run=name)
        write(tmp_path / f"{name}-small", 9, seed, run=name)

    large = Done(tmp_path / "a", tmp_path / "b", "--format", "json").json
    small = Done(tmp_path / "a-small", tmp_path / "b-small", "--format", "json").json

    assert {cell["variance"] for cell in large["candidates"][0]["cells"]} == {"shared"}
    assert {cell["variance"] for cell in small["candidates"][0]["cells"]} == {"own"}


# -- what is matched, and what is left over ---------------------------------------------------------------


def test_the_terminal_shows_every_part(written: Any) -> None:
    # logs 0.001 apart: t(0.975, 4) x 0.001 x sqrt(2 / 3) = 0.00227 around log 1.1
    other = make_cell(7)
    invalid = make_record(
        CELLS[1], 1, status=Status.INVALID, problems=[Finding("token_count", "15 of 16")]
    )
    baseline = written("a", [*sessions(CELLS[0]), *sessions(CELLS[1]), *sessions(CELLS[2])])
    candidate = written("b", [*sessions(CELLS[0], scaled(1.1)), invalid, *sessions(other)])

    done = Done(baseline, candidate)

    assert done.code == 1
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert lines[0] == f"E2E: {candidate} against {baseline}"
    assert lines[1] == "In ms, lower is better; margin 2 %."
    assert " 1,000.0      1,100  1.100  1.098–1.102  slower" in lines  # noqa: RUF001
    assert "4 cells: 1 slower, 3 missing." in lines
    groups = [line.split()[:6] for line in lines if line.startswith("    1  in the")]
    assert groups == [
        ["1", "in", "the", "candidate", "invalid:", "token_count"],
        ["1", "in", "the", "candidate", "not", "planned"],
        ["1", "in", "the", "baseline", "not", "planned"],
    ]
    assert "made at different times" in " ".join(lines)


def test_cells_that_only_their_weights_set_apart_say_so(written: Any) -> None:
    real = make_cell(1, load_format="safetensors")
    baseline = written("a", [*sessions(CELLS[0]), *sessions(CELLS[1])])
    candidate = written("b", [*sessions(CELLS[0]), *sessions(real)])

    done = Done(baseline, candidate)

    assert done.code == 3
    assert "the other side uses other weights" in done.out


def test_a_model_that_has_changed_under_its_name_is_said(written: Any) -> None:
    changed = like_the_first(7, model_digest="9876543210")

    done = Done(written("a", all_cells()), written("b", sessions(changed)))

    assert done.code == 3
    assert (
        "the other side has a model of this name with another configuration or other weights"
        in done.out
    )


def test_a_gate_with_missing_cells_is_undecided_unless_the_user_allows_them(written: Any) -> None:
    baseline, candidate = written("a", all_cells()), written("b", sessions(CELLS[0]))

    for runs in ((baseline, candidate), (candidate, baseline)):
        done = Done(*runs)
        assert done.code == 3
        assert done.err == (
            f"Undecided (exit code 3): 2 cells have no comparison with {runs[1]}; --allow-missing judges the others.\n"
        )
        assert Done(*runs, "--allow-missing").code == 0
        assert Done(*runs, "--fail-on", "none").code == 0
    assert Done(baseline, candidate, "--fail-on", "slower,missing").code == 1


def test_a_gate_in_which_every_cell_is_unclear_is_undecided(written: Any) -> None:
    baseline, candidate = written("a", all_cells()), written("b", all_cells(scaled(1.0195)))
    clear = written("c", [*all_cells(scaled(1.0195))[:6], *sessions(CELLS[2])])

    done = Done(baseline, candidate)

    assert (done.code, "every cell of" in done.err) == (3, True)
    assert Done(baseline, candidate, "--fail-on", "none").code == 0
    assert Done(baseline, clear, candidate).code == 3
    assert Done(baseline, clear).code == 0


def test_unequal_numbers_of_sessions_are_compared(written: Any) -> None:
    baseline = written("a", sessions(CELLS[0]))
    candidate = written("b", sessions(CELLS[0], (1.1, 1.101, 1.099, 1.1, 1.1)))

    done = Done(baseline, candidate, "--format", "json")

    (cell,) = done.json["candidates"][0]["cells"]
    assert (cell["sessions_baseline"], cell["sessions_candidate"]) == (3, 5)
    assert cell["verdict"] == "slower"


def test_one_session_is_unclear_however_far_it_is(written: Any) -> None:
    baseline, candidate = (
        written("a", sessions(CELLS[0], [1.0])),
        written("b", sessions(CELLS[0], [9.0])),
    )

    done = Done(baseline, candidate)

    assert done.code == 3
    assert "unclear (1 session)" in done.out
    assert "does not show how much sessions vary" in done.out


def test_the_same_run_twice_has_ratios_of_exactly_one(written: Any) -> None:
    run = written("a", all_cells((1.0, 1.3, 0.7)))

    done = Done(run, run, "--format", "json")

    of = done.json["candidates"][0]
    assert {(cell["ratio"], cell["low"], cell["high"]) for cell in of["cells"]} == {(1.0, 1.0, 1.0)}
    assert of["overall"] == {"ratio": 1.0, "low": 1.0, "high": 1.0, "cells": 3}
    assert verdicts_of(done) == {"same": 3}
    assert any("same run" in notice for notice in done.json["notices"])
    assert done.code == 0


@pytest.mark.parametrize(
    "case", ["disjoint", "invalid", "failed", "empty", "no records", "no metric"]
)
def test_nothing_comparable_has_an_exit_code_of_its_own(written: Any, case: str) -> None:
    one = make_cell(0, output_len=1)
    records = {
        "disjoint": sessions(make_cell(9)),
        "invalid": all_cells(status=Status.INVALID, problems=[Finding("clock", "stands")]),
        "failed": all_cells(status=Status.OOM, phase="load", reason="too much"),
        "empty": [],
        "no records": [],
        "no metric": sessions(one),
    }[case]
    baseline = written("a", sessions(one) if case == "no metric" else all_cells())
    candidate = written(
        "b", records, cells=[] if case == "no records" else [r.cell for r in records] or CELLS
    )

    done = Done(baseline, candidate, "--metric", "tpot_s")

    assert done.code == 3
    assert "No cell has a number on both sides." in done.out
    reason = {
        "disjoint": "not planned on this side", "invalid": "invalid: clock", "failed": "oom in load: too much",
        "empty": "not measured yet", "no records": "not planned on this side",
        "no metric": "has no value of this metric",
    }[case]  # fmt: skip
    assert reason in done.out


def test_runs_without_a_common_cell_are_told_what_keeps_them_apart(written: Any) -> None:
    baseline = written("a", sessions(make_cell(0)), cells=[make_cell(0)])
    other = make_cell(0, options={"threads": 4})
    candidate = written("b", sessions(other), cells=[other])

    done = Done(baseline, candidate)

    assert "have no value in common of: threads not set -> 4." in " ".join(done.out.split())
    assert "have no value in common" not in Done(baseline, baseline).out


def test_lengths_that_keep_runs_apart_are_named_as_they_were_asked_for(written: Any) -> None:
    baseline = written("a", sessions(make_cell(0)), cells=[make_cell(0)])
    other = make_cell(0, spread="16-64@uniform", input_lens=(20, 30, 32, 16), input_len=32)
    candidate = written("b", sessions(other), cells=[other])

    assert "input_len 32 -> 16-64@uniform" in " ".join(Done(baseline, candidate).out.split())


# -- what is refused -----------------------------------------------------------------------------------


def refused(*arguments: object, code: int = 5) -> str:
    done = Done(*arguments)
    assert done.code == code
    assert done.out == ""
    assert done.err.count("\n") == 1
    return done.err


def test_two_protocols_are_refused(written: Any) -> None:
    baseline, candidate = written("a", all_cells()), written("b", all_cells(protocol=2))

    assert "protocols 1 and 2" in refused(baseline, candidate, "--cross-machine")


def test_what_another_tool_measured_is_said_to_be_so(written: Any) -> None:
    definition = "latency of a batch, perf_counter"
    given = {"e2e_s": {"value": 1.1, "definition": definition, "clock": "there"}}
    baseline = written("a", all_cells())
    candidate = written("b", all_cells(protocol=0, outcome={"given": given}))

    done = Done(baseline, candidate)

    assert "Some numbers come from another tool" in done.out
    assert definition in done.out
    assert done.code == 1


def test_another_machine_is_refused_unless_allowed(written: Any) -> None:
    baseline = written("a", all_cells(), machine={"name": "h200", "cpu_count": 16})
    candidate = written("b", all_cells(scaled(2.0)), machine={"name": "l4", "cpu_count": 16})

    assert "l4 against h200" in (err := refused(baseline, candidate))
    assert "--cross-machine" in err
    assert Done(baseline, candidate, "--cross-machine").code == 1


GPU: dict[str, Any] = {
    "name": "NVIDIA H200",
    "memory_bytes": 150_754_820_096,
    "driver": "570.1",
    "uuid_hash": "a",
}


def on_gpus(*gpus: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """Return a plan's machine with these GPUs, and its environment."""
    machine = {"name": "h200", "cpu": "Xeon", "cpu_count": 16, "gpus": list(gpus), **facts}
    return {"machine": machine, "environment": {"machine": machine}}


def test_alike_gpu_runners_are_compared_and_told_apart_in_a_note(written: Any) -> None:
    baseline = written("a", all_cells(), **on_gpus(GPU))
    other = {**GPU, "memory_bytes": 150_754_820_000, "driver": "575.2", "uuid_hash": "b"}
    candidate = written("b", all_cells(), **on_gpus(other))

    done = Done(baseline, candidate)

    assert done.code == 0
    said = " ".join(done.out.split())
    assert "on GPUs of the same model, but not on the same cards" in said
    assert "gpus.driver 570.1 -> 575.2, gpus.uuid_hash a -> b." in said
    assert "same cards" not in Done(baseline, written("c", all_cells(), **on_gpus(GPU))).out


@pytest.mark.parametrize(
    "machine",
    [
        on_gpus(GPU, GPU),
        on_gpus({**GPU, "name": "NVIDIA H200 NVL"}),
        on_gpus({**GPU, "memory_bytes": GPU["memory_bytes"] // 7}),
        on_gpus(GPU, cpu="EPYC"),
    ],
)
def test_runners_of_another_kind_are_refused(written: Any, machine: dict[str, Any]) -> None:
    baseline, candidate = (
        written("a", all_cells(), **on_gpus(GPU)),
        written("b", all_cells(), **machine),
    )

    assert "two machines of the kind h200" in refused(baseline, candidate)


def test_a_machine_that_only_its_load_sets_apart_is_the_same(written: Any) -> None:
    baseline = written("a", all_cells(), machine={"name": "x", "load_1m": 0.1})
    candidate = written("b", all_cells(), machine={"name": "x", "load_1m": 0.9})

    assert Done(baseline, candidate).code == 0


def test_two_processors_of_one_name_are_told_apart_by_what_they_can(written: Any) -> None:
    with_amx = {"name": "x", "cpu_flags": ["amx_bf16", "avx512f"]}
    baseline = written("a", all_cells(), machine=with_amx)
    candidate = written("b", all_cells(), machine={**with_amx, "cpu_flags": ["avx512f"]})

    assert "two machines of the kind x" in refused(baseline, candidate)


def test_a_factor_may_be_called_by_the_head_of_its_column(written: Any) -> None:
    cells = [make_cell(0, batch_size=size) for size in (1, 4)]
    run = written("a", [record for cell in cells for record in sessions(cell)])

    assert Done(run, "--by", "batch").out == Done(run, "--by", "batch_size").out


def test_random_and_real_weights_are_refused(written: Any) -> None:
    real = [make_cell(number, load_format="safetensors") for number in range(3)]
    baseline = written("a", all_cells())
    candidate = written("b", [record for cell in real for record in sessions(cell)])

    assert "random with real weights" in refused(baseline, candidate)
    assert "random with real weights" in refused(baseline, "--by", "load_format")


def test_memory_taken_in_advance_is_refused_beside_needed_memory(written: Any) -> None:
    advance = {"engine": {"preallocates": True}}
    baseline = written("a", all_cells())
    candidate = written("b", all_cells(outcome=advance))

    assert "pre-allocates memory" in refused(baseline, candidate, "--metric", "host_peak_rss_bytes")
    assert Done(baseline, candidate, "--metric", "weights_bytes").code == 0
    assert Done(baseline, candidate, "--metric", "e2e_s").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--metric", "tpot_ms"), "Did you mean 'tpot_s'?"),
        (("--margin", "two"), "'two' is not a share"),
        (("--margin", "0"), "not a share between 0 and 1"),
        (("--margin", "nan"), "not a share"),
        (("--fail-on", "slow"), "Did you mean 'slower'?"),
        (("--by", "model"), "inside one run"),
    ],
)
def test_a_mistake_gets_one_line(written: Any, arguments: tuple[str, ...], words: str) -> None:
    run = written("a", all_cells())

    assert words in refused(run, run, *arguments, code=2)


def test_one_run_alone_is_asked_what_with(written: Any) -> None:
    run = written("a", all_cells())

    assert "--by FACTOR" in refused(run, code=2)
    assert "no factor 'modle'. Did you mean 'model'?" in refused(run, "--by", "modle", code=2)
    assert "in the whole run" in refused(run, "--by", "dtype", code=2)


# -- inside one run -------------------------------------------------------------------------------------


def test_rounds_are_paired_so_that_their_drift_cancels(written: Any) -> None:
    fast, slow = CELLS[0], like_the_first(1, dtype="bfloat16")
    drift = np.array([1.0, 1.4, 0.8])
    run = written("a", [*sessions(fast, drift * QUIET), *sessions(slow, 1.05 * drift)])

    done = Done(run, "--by", "dtype", "--format", "json")

    (cell,) = done.json["candidates"][0]["cells"]
    assert cell["verdict"] == "slower"
    assert cell["high"] - cell["low"] < 0.01
    assert done.json["paired"] is True


def test_a_session_without_its_counterpart_is_left_out(written: Any) -> None:
    other = like_the_first(1, dtype="bfloat16")
    run = written("a", [*sessions(CELLS[0], (1.0, 1.0, 1.0, 50.0)), *sessions(other)])

    done = Done(run, "--by", "dtype", "--format", "json")

    (cell,) = done.json["candidates"][0]["cells"]
    assert cell["baseline"] == pytest.approx(1.0)
    assert any("1 session has no counterpart" in notice for notice in done.json["notices"])


def test_cells_never_in_one_round_are_listed(written: Any) -> None:
    other = like_the_first(1, dtype="bfloat16")
    run = written("a", [sessions(CELLS[0])[0], sessions(other)[1]])

    done = Done(run, "--by", "dtype")

    assert done.code == 3
    assert "never in the same round" in done.out


def test_engines_are_compared_whatever_their_options_are_called(written: Any) -> None:
    vllm = like_the_first(1, backend="vllm", options={"block_size": 16})
    plain = make_cell(0, options={"attn_implementation": "sdpa"})
    run = written("a", [*sessions(plain), *sessions(vllm, scaled(0.5))])

    done = Done(run, "--by", "backend", "--format", "json")

    assert verdicts_of(done) == {"faster": 1}
    assert done.json["candidates"][0]["name"] == "backend vllm"


def test_candidates_are_named_by_their_whole_value(written: Any) -> None:
    loads = [like_the_first(n, options={"load": load}) for n, load in enumerate(("1", "4", "2/s"))]
    run = written("a", [record for cell in loads for record in sessions(cell)])

    done = Done(run, "--by", "load", "--format", "markdown")

    assert "load 2/s ratio" in done.out


def test_a_goodput_of_0_has_no_ratio_and_says_so(written: Any) -> None:
    def served(goodputs: Sequence[float]) -> list[Record]:
        given = [{"goodput_rps": Given(value=one, definition="d", clock="c")} for one in goodputs]
        return [
            make_record(CELLS[0], n, make_samples([1.0] * 3, 0.2, 16), outcome={"given": one})
            for n, one in enumerate(given, 1)
        ]

    good, broken = written("a", served([3.0, 3.1, 3.2])), written("b", served([3.0, 0.0, 0.0]))

    done = Done(good, broken, "--metric", "goodput_rps")

    assert done.code == 3
    assert "is 0 in a session, of which there is no ratio" in done.out


def test_of_several_schemes_of_an_engine_the_one_that_the_other_has_is_compared(
    written: Any,
) -> None:
    schemes: list[dict[str, str]] = [{}, {"quantization": "q8_0"}]
    ours = [like_the_first(n, backend="llamacpp", options=s) for n, s in enumerate(schemes, 1)]
    plain = make_cell(0)
    halves = [record for cell in ours for record in sessions(cell, scaled(0.5))]
    run = written("a", [*sessions(plain), *halves])

    done = Done(run, "--by", "backend", "--format", "json", "--allow-missing")

    assert verdicts_of(done) == {"faster": 1, "missing": 1}


def test_a_cell_that_the_factor_does_not_tell_apart_is_listed(written: Any) -> None:
    plain = [make_cell(0, options={"attn_implementation": a}) for a in ("sdpa", "eager")]
    plain[1] = make_cell(
        1, model=CELLS[0].model, input_len=32, options={"attn_implementation": "eager"}
    )
    vllm = make_cell(2, model=CELLS[0].model, input_len=32, backend="vllm")
    run = written("a", [record for cell in (*plain, vllm) for record in sessions(cell)])

    by_backend, by_option = (
        Done(run, "--by", "backend"),
        Done(run, "--by", "attn_implementation", "--format", "json"),
    )

    assert by_backend.code == 3
    assert "ambiguous: 2 cells on one side" in by_backend.out
    assert [of["name"] for of in by_option.json["candidates"]] == [
        "attn_implementation eager",
        "attn_implementation default",
    ]


def test_several_candidates_are_a_table_of_ratios_to_the_first(written: Any) -> None:
    runs = [written(name, all_cells(scaled(f))) for name, f in (("a", 1.0), ("b", 1.1), ("c", 0.9))]

    done = Done(*runs, "--format", "markdown")

    assert done.code == 1
    header = next(line for line in done.out.splitlines() if line.startswith("| model"))
    assert [word.strip() for word in header.strip("|").split("|")] == [
        "model", "baseline (ms)", "b ratio", "verdict", "c ratio", "verdict",
    ]  # fmt: skip
    assert "3 slower" in done.out
    assert "3 faster" in done.out


# -- what is said against a comparison ---------------------------------------------------------------------


def test_clocks_that_differ_are_said(written: Any) -> None:
    baseline = written("a", all_cells(telemetry={"sm_mhz_mean": 1980.0}))
    candidate = written("b", all_cells(telemetry={"sm_mhz_mean": 1900.0}))
    near = written("c", all_cells(telemetry={"sm_mhz_mean": 1970.0}))

    assert "was 1,900 MHz, the baseline's 1,980: -4.0%" in Done(baseline, candidate).out
    assert "MHz" not in Done(baseline, near).out


@pytest.mark.parametrize(("busy", "verdict"), [(1, "faster"), (2, "unclear")])
def test_a_difference_that_a_busy_machine_may_have_made_is_unclear(
    written: Any, busy: int, verdict: str
) -> None:
    warned = [Finding("busy_machine", "other processes used 40 % of the CPUs")]
    slow = [
        msgspec.structs.replace(record, warnings=warned if record.session <= busy else [])
        for record in all_cells(scaled(10.0))
    ]
    baseline, candidate = written("a", slow), written("b", all_cells())

    done = Done(baseline, candidate, "--format", "json")

    assert verdicts_of(done) == {verdict: 3}
    assert ("unclear (busy machine)" in Done(baseline, candidate).out) == (verdict == "unclear")


def test_what_changed_between_the_runs_is_said(written: Any) -> None:
    baseline = written(
        "a", all_cells(), environment={"packages": {"torch": "2.9.0"}, "python": "3.11"}
    )
    candidate = written(
        "b", all_cells(), environment={"packages": {"torch": "2.13.0"}, "python": "3.11"},
        settings=Protocol(sessions=3, iterations=9),
    )  # fmt: skip

    done = Done(baseline, candidate)

    assert "Changed between the runs: torch 2.9.0 -> 2.13.0." in done.out
    assert "Measured with other settings: iterations 5 -> 9." in done.out


@pytest.mark.parametrize(
    ("flags", "change"),
    [(["avx", "fma"], "-amx +fma"), (["amx", "avx"], "in another order")],
)
def test_of_a_list_only_what_changed_is_said(flags: list[str], change: str, written: Any) -> None:
    baseline = written("a", all_cells(), environment={"cpu_flags": ["avx", "amx"]})
    candidate = written("b", all_cells(), environment={"cpu_flags": flags})

    done = Done(baseline, candidate)

    assert f"Changed between the runs: cpu_flags {change}." in done.out


def test_a_hostile_name_does_nothing(written: Any) -> None:
    names = ("org/x[/bold]|\x1b[31m", "org/y\n| a | b |")
    cells = [make_cell(number, model=name) for number, name in enumerate(names)]
    records = [record for cell in cells for record in sessions(cell)]
    run, other = written("a", records), written("b", records)

    for form in ("terminal", "markdown"):
        done = Done(run, other, "--format", form)
        assert done.code == 0
        assert "\x1b" not in done.out
        assert "| a | b |\n" not in done.out


def test_a_comparison_loads_no_engine_and_not_scipy_stats(written: Any) -> None:
    run = written("a", all_cells())
    code = (
        "import sys\nfrom llmbench.cli import run\n"
        f"run(['compare', {str(run)!r}, {str(run)!r}])\n"
        "bad = {'torch', 'transformers', 'vllm', 'accelerate', 'scipy.stats'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )

    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def speculating(*settings: dict[str, Any]) -> list[Record]:
    each = [make_cell(number, options=options) for number, options in enumerate(settings)]
    each = [msgspec.structs.replace(cell, model="m", input_len=8) for cell in each]
    return [record for cell in each for record in sessions(cell)]


DRAFTS: dict[str, Any] = {"speculative": "draft", "draft_model": "d"}


def test_drafts_of_any_settings_are_compared_with_none(written: Any) -> None:
    run = written("run", speculating({}, DRAFTS, {"speculative": "ngram", "ngram_max": 4}))

    found = Done(run, "--by", "speculative", "--format", "json").json

    assert [(one["name"], len(one["cells"])) for one in found["candidates"]] == [
        ("speculative draft", 1), ("speculative ngram", 1),
    ]  # fmt: skip


def test_of_several_settings_the_default_is_compared_with_none(written: Any) -> None:
    run = written("run", speculating({}, *({**DRAFTS, **more} for more in ({}, {"ngram_max": 4}))))
    several: list[dict[str, Any]] = [
        {},
        {"speculative": "ngram"},
        {"speculative": "ngram", "speculative_tokens": 3},
    ]
    same = written("same", speculating(*several))

    assert Done(run, "--by", "speculative").code == 3  # neither of two settings stands for drafts
    found = Done(same, "--by", "speculative", "--format", "json", "--allow-missing").json
    (one,) = found["candidates"]
    assert (one["name"], len(one["cells"])) == ("speculative ngram", 1)


def test_runs_with_other_adapters_of_one_name_are_not_compared(written: Any) -> None:
    cells = [
        make_cell(number, options={"lora": "a"}, attached_digest=str(number)) for number in (0, 4)
    ]
    one, other = (
        written(name, sessions(msgspec.structs.replace(cell, input_len=8)))
        for name, cell in zip(("one", "other"), cells, strict=True)
    )

    done = Done(one, other)

    assert done.code == 3
    assert "drafts or adapters of this name with other weights" in done.out
