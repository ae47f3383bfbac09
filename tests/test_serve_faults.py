"""What can go wrong around a served session, played for real: servers, neighbours, clocks, loads, kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from llmbench.results.record import Given, Outcome, Served, Status
from llmbench.serve import checks, stream, timeline, wire
from llmbench.serve.session import own_cores
from llmbench.serve.stream import Client
from sweeps import SINGLE
from test_serve_stream import TOKENS, asking, logged, looped, serving
from test_served_sweeps import LOADS, ONE, codes, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sweeps import Bench

KILLS = 12
RIGHT_NS = 200_000
"""How far a token's time may be off, at the 99th percentile, whatever the client's core is doing."""


def found(client: dict[str, Any] | None = None, **more: Any) -> set[str]:
    """Return the codes of a session that is sound but for some facts."""
    told = {
        "warmup_s": 1.0, "steady": True, "window_s": 10.0, "due": 1000, "done": 1000,
        "figures": {"little": 0.0, "edge": 0.01, "offered_rps": 100.0, "achieved_rps": 100.0},
        "server": {"fresh": True, "sent": 1000, "requests": 1000.0}, "client": client or {},
        **more,
    }  # fmt: skip
    ttft = Given(value=0.05, definition="", clock="")
    outcome = Outcome(cell="x", served=Served(**told), given={"served_ttft_s": ttft})
    return {finding.code for finding in checks.check(outcome)[1]}


@pytest.mark.parametrize(
    ("sound", "wrong", "code"),
    [
        ({"send_lag_p99_ns": 900_000}, {"send_lag_p99_ns": 1_100_000}, "late_sends"),
        ({"busy_share": 0.79}, {"busy_share": 0.81}, "client_saturated"),
        (
            {"merged_share": 0.02, "lag_p99_ns": 2_000_000, "gap_p50_ns": 5_000_000},
            {"merged_share": 0.02, "lag_p99_ns": 3_000_000, "gap_p50_ns": 5_000_000},
            "coalesced",
        ),
        ({"clock_moved_ns": 90_000}, {"clock_moved_ns": 110_000}, "clock_step"),
        ({"capped": 0}, {"capped": 1}, "capped"),
    ],
)
def test_what_the_client_did_wrong_has_its_code(
    sound: dict[str, Any], wrong: dict[str, Any], code: str
) -> None:
    assert found(sound) == set()
    assert found(wrong) == {code}


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"server": {"restarted": True}}, "server_restarted"),
        ({"server": {"sent": 10, "requests": 11.0}}, "foreign_load"),
        ({"server": {"prefix_cache_hits": 16.0}}, "prefix_hits"),
        ({"figures": {"little": 0.04, "edge": 0.01}}, "implausible"),
        ({"failed": {"cut": 11}}, "failed_requests"),
        ({"due": 0}, "no_requests"),
    ],
)
def test_what_the_server_did_wrong_has_its_code(more: dict[str, Any], code: str) -> None:
    assert found(**more) == {code}


def late_alone(client: Client, folder: Path) -> tuple[float, float]:
    """Return the 99th percentile of the lateness of answers whose tokens were all read alone, and the merged share."""
    requests = timeline.on_one_clock(client.answers, client.offsets)
    sent = logged(folder)
    late = [
        np.array(each.token_ns) - sent[each.number + 1]
        for each in requests
        if not each.merged and len(each.token_ns) == TOKENS == len(sent.get(each.number + 1, ()))
    ]
    merged = sum(each.merged for each in requests) / sum(len(each.token_ns) for each in requests)
    return float(np.percentile(np.concatenate(late), 99)) if late else 0.0, merged


def test_a_client_that_stalls_tells_when_tokens_arrived_or_that_it_read_them_together(
    tmp_path: Path,
) -> None:
    def steer(each: Client, at: int) -> int | None:
        time.sleep(0.05)  # in the loop, once a tick
        return at if at - each.began_ns > 1.5e9 else None

    with serving(tmp_path, ttft_ms=30.0, itl_ms=20.0) as address:
        client = Client(address[:2], 4, asking(address), wire.reply)
        client.closed_loop(50_000_000, steer)
        client.offsets.append((stream.now(), stream.offset()))
        client.parse_all()
        client.close()

    requests = timeline.on_one_clock(client.answers, client.offsets)
    lags = [lag for each in requests for lag in each.lag_ns]
    late_ns, merged = late_alone(client, tmp_path)
    assert (
        np.percentile(lags, 90) > 10_000_000
    )  # its own clock would have told tens of milliseconds
    assert merged > 0.01
    assert late_ns < 1_000_000


@pytest.fixture
def burner() -> Iterator[None]:
    """Burn the core that the client will keep to."""
    core = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        yield
        process.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("burner")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is the server's")
def test_a_neighbour_on_the_clients_core_makes_no_wrong_time(tmp_path: Path) -> None:
    others = ",".join(map(str, sorted(os.sched_getaffinity(0))[:-1]))
    with serving(tmp_path, ttft_ms=50.0, itl_ms=20.0) as address, own_cores(others):
        client = looped(address, 32, 3.0)

    late_ns, merged = late_alone(client, tmp_path)
    assert late_ns < RIGHT_NS or merged > checks.MERGED_SHARE


@pytest.mark.slow
@pytest.mark.usefixtures("burner")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is the server's")
def test_a_session_beside_a_neighbour_is_right_or_invalid(bench: Bench) -> None:
    (record,) = served(bench, {**ONE, "load": 32}, window_s=3.0, ttft_ms=50.0).records

    if record.status is Status.OK:
        given = {key: each.value for key, each in record.outcome.given.items()}
        assert given["served_ttft_s"] == pytest.approx(0.050, abs=0.0015)
        assert given["served_tpot_s"] == pytest.approx(0.005, abs=0.0005)


@pytest.mark.slow
def test_a_clock_that_is_stepped_in_the_window_makes_the_record_invalid(bench: Bench) -> None:
    bench.write(axes={**ONE, "backend": {"fake_server": {"window_s": 2.0}}}, protocol=SINGLE)
    stepped = (
        "import time\nreal, calls = time.time_ns, [0]\n"
        "def stepped():\n    calls[0] += 1\n    return real() + 1_000_000 * (calls[0] > 30)\n"
        "time.time_ns = stepped\n"
    )

    (record,) = bench.sweep(environment=bench.beginning_with(stepped)).records

    assert "clock_step" in codes(record)


@pytest.mark.slow
def test_more_load_than_the_server_carries_withholds_latencies(bench: Bench) -> None:
    """Each token costs a millisecond of one core: 12 a request are more than 100 a second can have."""
    done = served(
        bench, {**ONE, "load": "constant 60/s"}, window_s=4.0, ttft_ms=20.0, itl_ms=1.0, capacity=1,
        protocol={**SINGLE, "warmup_budget_s": 1.0},
    )  # fmt: skip

    (record,) = done.records
    assert record.outcome.served is not None
    assert record.outcome.served.overloaded
    assert "overloaded" in {finding.code for finding in record.warnings}
    assert "served_ttft_s" not in record.outcome.given
    assert "achieved_rps" in record.outcome.given


@pytest.mark.slow
def test_a_cap_that_binds_makes_the_record_invalid(bench: Bench) -> None:
    done = served(
        bench, {**ONE, "load": "constant 400/s", "output_len": 2}, window_s=2.0, ttft_ms=4000.0,
        protocol={**SINGLE, "warmup_budget_s": 2.0},
    )  # fmt: skip

    (record,) = done.records
    assert "capped" in codes(record)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["long", "repeat"])
def test_tokens_too_many_are_counted(bench: Bench, fault: str) -> None:
    (record,) = served(bench, window_s=0.5, fault=fault, every=4).records

    assert "token_count" in codes(record)


@pytest.mark.slow
def test_a_server_that_falls_silent_is_left_after_the_deadline(bench: Bench) -> None:
    (record,) = served(bench, window_s=0.5, fault="hang", every=4).records

    assert record.status is Status.TIMEOUT
    assert bench.gone()


@pytest.mark.slow
def test_the_cells_after_a_dead_server_get_a_fresh_one(bench: Bench) -> None:
    done = served(bench, {**LOADS, "load": [1, 2, 4]}, fault="die", every=6, window_s=0.5)

    assert [record.status for record in done.records] == [Status.LOAD_FAILED] * 3
    assert {record.session for record in done.records} == {1}


@pytest.mark.slow
def test_somebody_elses_requests_and_a_restart_are_seen(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    with serving(folder, ttft_ms=20.0, itl_ms=5.0, fault="restarted") as address:
        over = threading.Event()

        def others() -> None:
            client = Client(address[:2], 1, asking(address), wire.reply)
            client.closed_loop(0, lambda _, at: at if over.is_set() else None)
            client.close()

        thread = threading.Thread(target=others)
        thread.start()
        url = f"http://127.0.0.1:{address.port}"
        (record,) = served(bench, {"backend": {"server": {"url": url, "window_s": 1.0}}}).records
        over.set()
        thread.join()

    assert {"foreign_load", "server_restarted"} <= codes(record)


def victims(bench: Bench, runner: int) -> dict[str, list[psutil.Process]]:
    """Return the live processes of a sweep of the fake server, by what they are."""
    found: dict[str, list[psutil.Process]] = {"runner": [], "server": [], "client": []}
    for process in bench.alive():
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        kind = "runner" if process.pid == runner else "server" if "server.py" in words else "client"
        found[kind].append(process)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_random_moments_lose_no_record_and_leave_nothing(bench: Bench) -> None:
    """LLMBENCH_KILLS=50 kills so often."""
    rng = random.Random(7)  # noqa: S311 - moments, not secrets
    options = {"window_s": 1.0, "ttft_ms": 20.0, "itl_ms": 5.0}
    bench.write(
        axes={**ONE, "load": [1, 2, 3, 4], "backend": {"fake_server": options}},
        protocol={"sessions": 3, "max_sessions": 3, "deadlines": {"exit_s": 5}},
    )
    kept = 0
    for stroke in range(int(os.environ.get("LLMBENCH_KILLS", KILLS))):
        process = bench.start()
        time.sleep(rng.uniform(0.3, 6.0))
        chosen = victims(bench, process.pid)[("runner", "server", "client")[stroke % 3]]
        if chosen:
            rng.choice(chosen).send_signal(signal.SIGKILL)
        if stroke % 3:  # a sweep whose server or client dies goes on by itself
            time.sleep(rng.uniform(0.5, 2.0))
            process.send_signal(signal.SIGKILL)
        bench.ended(process)
        assert bench.gone(15.0)
        records = bench.records() if bench.rows.exists() else []
        assert len(records) >= kept
        kept = len(records)
    done = bench.sweep(patience_s=200.0)

    final = [(record.id, record.session) for record in done.records if record.final]
    assert len(final) == len(set(final)) == 12
    assert bench.gone()
