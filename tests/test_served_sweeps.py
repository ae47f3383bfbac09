"""Served cells through the real command: numbers that agree with the script, and a code for each fault."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from llmbench.results import requests_file
from llmbench.results.record import Record, Status
from llmbench.spec.sweep import NOT_SAID
from sweeps import SINGLE, Done, asked
from test_serve_stream import serving

if TYPE_CHECKING:
    from pathlib import Path

    from sweeps import Bench

ONE: dict[str, Any] = {"batch_size": 1, "input_len": 40, "output_len": 12, "load": 4}
LOADS: dict[str, Any] = {**ONE, "load": [1, 4]}


def served(
    bench: Bench,
    axes: dict[str, Any] | None = None,
    *flags: str,
    protocol: dict[str, Any] | None = None,
    **script: Any,
) -> Done:
    """Sweep the fake server, with windows of a second unless the script says otherwise."""
    options = {"window_s": 1.0, "ttft_ms": 20.0, "itl_ms": 5.0, **script}
    bench.write(
        axes={**ONE, "backend": {"fake_server": options}, **(axes or {})},
        protocol=protocol or SINGLE,
    )
    return bench.sweep(*flags)


OF_A_BUSY_MACHINE = {"late_sends", "coalesced", "client_saturated", "implausible"}
"""Why a sound session may be invalid where other tests run beside it."""


def codes(record: Record) -> set[str]:
    return {finding.code for finding in record.problems}


def test_a_served_cell_has_the_numbers_of_its_script(bench: Bench) -> None:
    done = served(bench, LOADS)

    assert {record.cell.batch_size for record in done.records} == {1, 4}
    for record in done.records:
        given = {key: each.value for key, each in record.outcome.given.items()}
        assert record.outcome.served is not None
        assert codes(record) <= OF_A_BUSY_MACHINE
        if record.status is Status.OK:
            assert given["served_ttft_s"] == pytest.approx(0.020, rel=0.25)
            assert given["served_tpot_s"] == pytest.approx(0.005, rel=0.25)
            rate = 12 * record.cell.batch_size / (0.020 + 11 * 0.005)
            assert given["steady_output_tok_s"] == pytest.approx(rate, rel=0.3)
        assert record.outcome.served.tokens == "ids, then usage"
        told = record.outcome.served.requests
        read = requests_file.load(bench.run / told["file"])
        assert len(read.number) == told["requests"] >= record.outcome.served.due
        assert {len(times) for times in read.token_s} == {12}
        assert (read.prompt_tokens == 40).all()
        assert record.outcome.served.server["fresh"] is True


@pytest.mark.slow
def test_an_open_loop_offers_its_rate(bench: Bench) -> None:
    done = served(bench, {**ONE, "load": "constant 30/s"}, window_s=2.0)

    (record,) = done.records
    assert record.outcome.served is not None
    assert record.outcome.served.figures["offered_rps"] == pytest.approx(30, rel=0.05)
    assert record.cell.batch_size == 1024


def test_a_server_that_refuses_everything_is_left_alone(bench: Bench) -> None:
    done = served(bench, prompt_as="text", fault="500", window_s=30.0)

    (record,) = done.records
    assert record.status is Status.LOAD_FAILED
    assert "HTTP 500" in (record.reason or "")


FAULTS = {
    "html": "failed_requests",
    "500": "failed_requests",
    "refuse": "failed_requests",
    "error_event": "failed_requests",
    "empty": "failed_requests",
    "cut": "failed_requests",
    "short": "token_count",
    "prompt_short": "prompt_tokens",
    "cached": "prefix_hits",
    "prefix_hits": "prefix_hits",
}


FEW = ("html", "short")


@pytest.mark.parametrize(
    "fault",
    [fault if fault in FEW else pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS],
)
def test_every_fault_of_a_server_makes_its_record_invalid(bench: Bench, fault: str) -> None:
    done = served(bench, window_s=0.5, fault=fault, every=4)

    (record,) = done.records
    assert (done.code, record.status) == (3, Status.INVALID)
    assert FAULTS[fault] in codes(record)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("die", "did not carry the load"),
        pytest.param("no_usage", "does not count its tokens", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_cannot_be_measured_fails_with_a_reason(
    bench: Bench, fault: str, words: str
) -> None:
    done = served(bench, fault=fault, every=30)

    (record,) = done.records
    assert record.status is Status.LOAD_FAILED
    assert words in (record.reason or "")


@pytest.mark.parametrize("load", [4, pytest.param("constant 20/s", marks=pytest.mark.slow)])
def test_a_server_that_closes_after_each_answer_gets_a_connection_a_request(
    bench: Bench, load: int | str
) -> None:
    axes, protocol = {**ONE, "load": load}, {**SINGLE, "warmup_budget_s": 1.0}
    (record,) = served(bench, axes, protocol=protocol, fault="closes", window_s=0.5).records

    assert codes(record) <= OF_A_BUSY_MACHINE
    assert "reconnects" in {finding.code for finding in record.warnings}


@pytest.mark.slow
def test_a_server_that_refuses_what_it_does_not_know_is_asked_without(bench: Bench) -> None:
    (record,) = served(bench, fault="strict", window_s=0.5).records

    assert codes(record) <= OF_A_BUSY_MACHINE
    assert record.outcome.served is not None
    assert record.outcome.served.tokens == "usage"


@pytest.mark.slow
def test_comments_and_several_tokens_an_event_are_counted_right(bench: Bench) -> None:
    done = served(bench, fault="comments", tokens_per_event=3, ids=False)

    (record,) = done.records
    assert not codes(record) & {"token_count", "failed_requests"}
    assert "served_gap_s" not in record.outcome.given
    assert "tokens_by_usage" in {finding.code for finding in record.warnings}


@pytest.mark.slow
def test_a_limit_that_is_met_by_none_gives_no_goodput(bench: Bench) -> None:
    done = served(bench, ttft_slo_ms=1.0)

    (record,) = done.records
    assert record.outcome.given["slo_share"].value == record.outcome.given["goodput_rps"].value == 0


@pytest.mark.slow
def test_loads_are_compared_and_shown(bench: Bench) -> None:
    done = served(bench, LOADS, protocol={"sessions": 2, "max_sessions": 2})

    compared = json.loads(
        asked("compare", bench.run, "--by", "load", "--metric", "steady_output_tok_s", "--fail-on", "none",
              "--format", "json").out
    )  # fmt: skip
    assert set().union(*map(codes, done.records)) <= OF_A_BUSY_MACHINE
    if all(record.status is Status.OK for record in done.records):
        (candidate,) = compared["candidates"]
        assert candidate["cells"][0]["ratio"] == pytest.approx(4, rel=0.2)
        assert "served TTFT" in asked("table", bench.run).out
    assert json.loads(asked("fit", bench.run, "--format", "json").out) == []


def test_a_server_that_is_there_is_measured_by_its_address(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMBENCH_API_KEY", "kept-secret-123")
    folder = tmp_path / "there"
    folder.mkdir()
    with serving(folder, ttft_ms=20.0, itl_ms=5.0) as address:
        url = f"http://127.0.0.1:{address.port}/v1"
        bench.write(protocol=SINGLE)
        run = tmp_path / "run"
        done = asked(
            "sweep", "--server", url, "--model", "llama-7b@tiny", "--device", "cpu", "--load", "1,4", "-o", run,
            "--input-len", "40", "--output-len", "12", "--sessions", "1", "--option", "window_s=1",
        )  # fmt: skip

    assert done.code in (0, 3)
    records = Done(done.code, done.out, done.err, _at(bench, run)).records
    assert {record.cell.options["load"] for record in records} == {"1", "4"}
    said = {(cell.device, cell.dtype, cell.load_format) for cell in (one.cell for one in records)}
    assert said == {("cpu", NOT_SAID, NOT_SAID)}
    assert "float16" not in done.out + done.err
    for record in records:
        assert "one_server" in {finding.code for finding in record.warnings}
    texts = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    assert not any(b"kept-secret-123" in text for text in texts)


def test_a_server_that_was_there_is_not_compared_with_fresh_ones(
    bench: Bench, tmp_path: Path
) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    with serving(folder, ttft_ms=20.0, itl_ms=5.0) as address:
        there = {"url": f"http://127.0.0.1:{address.port}", "window_s": 0.5}
        said = {"device": "cpu", "dtype": "bfloat16", "load_format": "dummy"}
        both = {"fake_server": {"window_s": 0.5}, "server": there}
        done = served(bench, {"backend": both, **said})

    assert len(done.records) == 2
    by = ("compare", bench.run, "--by", "backend", "--metric", "served_ttft_s")
    if all(record.status is Status.OK for record in done.records):
        refused, told = asked(*by), asked(*by, "--cross-server")
        assert (refused.code, refused.err.count("\n")) == (5, 1)
        assert "--cross-server compares them anyway" in refused.err
        assert told.code != 5


def _at(bench: Bench, run: Path) -> Bench:
    bench.run, bench.rows = run, run / "records.jsonl"
    return bench


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--model", "llama-7b@tiny", "--server", "localhost:9"],
            "--server: 'localhost:9' is not a URL",
        ),
        (
            ["--model", "llama-7b@tiny", "--load", "8"],
            "transformers serves no requests; the backends that do are",
        ),
        (
            ["--model", "llama-7b@tiny", "--backend", "fake_server", "--load", "x"],
            "load: 'x' is not a load",
        ),
        (
            [
                "--model",
                "llama-7b@tiny",
                "--server",
                "http://127.0.0.1:9",
                "--option",
                "url=http://x",
            ],
            "--option url: --server http://127.0.0.1:9 says it already; leave one of them out.",
        ),
        (
            ["--model", "llama-7b@tiny", "--server", "http://127.0.0.1:9", "--backend", "fake"],
            "--backend fake: --server measures whatever listens there",
        ),
        (
            ["--model", "llama-7b@tiny", "--backend", "fake_server", "--batch-size", "4"],
            "batch_size: fake_server serves requests; say with load how many",
        ),
        (
            ["--model", "llama-7b@tiny", "--backend", "fake_server", "--option", "shards=3"],
            "shards: 3 client processes for 1 in flight; give 1 to 1",
        ),
    ],
)
def test_a_mistake_gets_one_line(flags: list[str], words: str) -> None:
    done = asked("sweep", *flags, "--dry-run")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x", "https://localhost:1", "http://localhost:1", "http://[", "localhost:8000"],
)
def test_an_address_without_a_server_fails_with_a_reason(bench: Bench, url: str) -> None:
    bench.write(axes={**ONE, "backend": {"server": {"url": url}}}, protocol=SINGLE)

    (record,) = bench.sweep().records

    assert record.status is Status.LOAD_FAILED
    assert record.reason
    assert "Traceback" not in record.reason


def test_nothing_of_a_killed_sweep_stays_and_it_goes_on(bench: Bench) -> None:
    options = {"window_s": 3.0, "ttft_ms": 20.0, "itl_ms": 5.0}
    bench.write(axes={**ONE, "backend": {"fake_server": options}}, protocol=SINGLE)
    process = bench.start()
    server = None
    while server is None:
        assert process.poll() is None
        time.sleep(0.02)
        everyone = psutil.Process(process.pid).children(recursive=True)
        server = next(
            (each for each in everyone if any("fake_server" in word for word in _words(each))), None
        )
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    bench.ended(process)

    deadline = time.monotonic() + 10
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = bench.sweep()
    assert len([record for record in done.records if record.final]) == 1


def _words(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words


@pytest.mark.slow
def test_the_highest_rate_within_a_limit_is_found(bench: Bench) -> None:
    """The first token comes later with each request in flight: above 10 of them, at over twice 20 ms."""
    done = served(
        bench, {**ONE, "load": "most"}, window_s=3.0, itl_ms=1.0, capacity=10, ttft_slo_ms=44.0, slo_share=0.9,
        protocol={**SINGLE, "warmup_budget_s": 1.0},
    )  # fmt: skip

    (record,) = done.records
    assert record.outcome.served is not None
    rates = [rate for rate, *_ in record.outcome.served.tried]
    assert codes(record) <= OF_A_BUSY_MACHINE
    if record.status is Status.OK:
        assert record.outcome.given["capacity_rps"].value == rates[-1]
        assert max(rates) > rates[-1]
    assert len(rates) > 5


def test_the_highest_rate_needs_a_limit() -> None:
    done = asked(
        "sweep",
        "--model",
        "llama-7b@tiny",
        "--backend",
        "fake_server",
        "--load",
        "most",
        "--dry-run",
    )

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "most is the highest rate within limits" in done.err


@pytest.mark.slow
def test_the_client_is_audited_against_what_the_server_sent() -> None:
    done = asked("audit", "--client", "--format", "json")

    rows = json.loads(done.out)
    assert len(rows) == 4
    assert all("read together" in row["figures"] for row in rows)
