"""What a dry run says: which cells fit, how long all of it takes, what it costs; and what a run keeps of that."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from llmbench import backends
from llmbench.report.views import dry_run
from llmbench.results import store
from llmbench.results.prediction import Prediction
from llmbench.results.record import Plan
from sweeps import Bench, Done, asked

H200 = ("--dry-run", "--machine", "h200")


def on_gpu(bench: Bench, **axes: Any) -> None:
    lengths = {"batch_size": [1, 64], "input_len": 4096, "output_len": 128}
    bench.write(
        axes={
            "model": "llama-7b",
            "backend": "transformers",
            "device": "auto",
            "dtype": "bfloat16",
            **lengths,
            **axes,
        }
    )


def told(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    facts: dict[str, Any] = json.loads(done.out)
    return facts


def test_a_named_chip_is_planned_for_without_one(bench: Bench) -> None:
    on_gpu(bench, input_len=1920)

    done = bench.sweep(*H200)

    assert done.code == 0, done.err
    _, same, _, head, _, one, many, *_ = done.out.splitlines()
    assert same == "backend transformers, device cuda, dtype bfloat16, weights dummy"
    assert head.split()[:7] == ["model", "batch", "in", "out", "memory", "need", "TTFT"]
    assert one.split()[:5] == ["llama-7b", "1", "1920", "128", "fits"]
    assert "Cost: about" in done.out
    assert "7.91 USD an hour (AWS" in done.out
    assert "2026-03" in done.out
    assert not bench.run.exists()
    assert many.split()[:5] == ["llama-7b", "64", "1920", "128", "fits"]


def test_the_sum_is_that_of_the_cells(bench: Bench) -> None:
    on_gpu(bench, input_len=[128, 1024])

    facts = told(bench.sweep(*H200, "--format", "json", "--usd-per-gpu-hour", "3.6"))

    sessions = [cell["prediction"]["session_s"] for cell in facts["cells"]]
    assert facts["sweep_s"] == pytest.approx(facts["sessions"] * sum(sessions))
    assert facts["price"]["usd_per_hour"] == 3.6
    assert facts["cells_without_time"] == 0


def test_the_most_sessions_are_told_beside_the_fewest(bench: Bench) -> None:
    on_gpu(bench, input_len=[128, 1024])
    asked = (*H200, "--usd-per-gpu-hour", "3.6")
    bench.file.write_text(bench.file.read_text().replace('"max_sessions": 2', '"max_sessions": 8'))

    facts = told(bench.sweep(*asked, "--format", "json"))
    text = bench.sweep(*asked).out

    least_s = facts["sweep_s"]
    assert (facts["sessions"], facts["max_sessions"]) == (2, 8)
    assert f"Time: about {dry_run.seconds(least_s)} to {dry_run.seconds(4 * least_s)}.\n" in text
    assert f"Cost: about {least_s / 1000:,.2f} to {least_s / 250:,.2f} USD" in text
    assert "2 to 8 sessions (as many as intervals of ±1.5% take) each." in text
    assert "2 sessions  cell" in text


def test_an_engine_that_is_not_installed_is_said_before_anything_runs(bench: Bench) -> None:
    if backends.missing("vllm") is None:
        pytest.skip("vLLM is installed here")
    bench.write(axes={"backend": "vllm", "batch_size": 1})

    line = "the vllm backend needs the package vllm: pip install 'llmbench[vllm]'."
    assert f"Not installed here: {line}" in bench.sweep("--dry-run").out
    refused = bench.sweep()
    assert (refused.code, refused.err) == (2, f"llmbench: {line}\n")
    assert not bench.run.exists()
    assert bench.sweep("--dry-run", "--machine", "h200").out.count("Not installed") == 0


def test_a_cell_that_does_not_fit_takes_no_time(bench: Bench) -> None:
    on_gpu(bench, model="bloom-176b", batch_size=1, input_len=128)

    done = bench.sweep(*H200)

    assert "does not fit" in done.out
    assert "Too large: 1 cell; the smallest needs 330 GiB (weights 328 GiB" in done.out
    assert "Time: unknown." in done.out


def test_a_chip_without_the_dtype_is_named_as_the_reason_for_no_times(bench: Bench) -> None:
    on_gpu(bench, input_len=128, batch_size=1)

    done = bench.sweep("--dry-run", "--machine", "t4", "--format", "markdown")

    assert "no times, because T4 has no bfloat16; give --dtype auto or float16." in done.out


def test_a_cell_that_no_engine_runs_keeps_its_reason(bench: Bench) -> None:
    on_gpu(bench, input_len=[128, 4096])

    done = bench.sweep(*H200)

    assert done.out.count("unsupported: ") == 1
    assert "4224 tokens exceed the model's 2048 positions. And 1 more cell like it." in done.out


def test_ten_thousand_cells_are_folded_within_seconds(bench: Bench) -> None:
    on_gpu(bench, model=["llama-7b", "mpt-7b"], batch_size="1-50", input_len="16-1600+16")
    began = time.process_time()  # other processes do not count

    done = asked("sweep", bench.file, *H200)

    assert done.code == 0, done.err
    assert time.process_time() - began < 10
    assert len(done.out.splitlines()) < 20
    assert "10,000 cells" in done.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--dry-run", "--machine", "h20"),
            "machine: 'h20' is not a known chip. Did you mean 'h200'?",
        ),
        (("--machine", "h200"), "--machine: only works together with --dry-run."),
        (("--usd-per-gpu-hour", "2"), "--usd-per-gpu-hour: only works together with --dry-run"),
        (("--format", "json"), "--format: only works together with --dry-run"),
        ((*H200, "--usd-per-gpu-hour", "-1"), "--usd-per-gpu-hour: -1.0 is negative."),
        ((*H200, "--probe"), "--probe: measures this machine, and --machine h200 is another."),
    ],
)
def test_mistakes_are_one_line(bench: Bench, flags: tuple[str, ...], message: str) -> None:
    on_gpu(bench, input_len=128)

    done = bench.sweep(*flags)

    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def predictions(run: Path) -> dict[str, Prediction]:
    plan = store.read(run).plan
    assert plan is not None
    return plan.predictions


def test_a_run_keeps_its_predictions_from_before_the_first_cell(bench: Bench) -> None:
    bench.write()

    bench.sweep()

    lines = [*store.read(bench.run)]
    assert isinstance(lines[0], Plan)
    assert set(lines[0].predictions) == {cell.id for cell in lines[0].cells}


def test_a_resumed_run_keeps_what_was_said_and_adds_what_is_new(bench: Bench) -> None:
    bench.write(axes={"batch_size": [1]})
    bench.sweep()
    before = predictions(bench.run)
    bench.write(axes={"batch_size": [1, 2]})

    bench.sweep("--add")

    after = predictions(bench.run)
    assert len(before) == 1
    assert len(after) == 2
    assert before.items() <= after.items()
