"""Cells over several boxes, cells that spread over boxes, and what a sweep does when a slot hangs or dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from boxes import agent, boxes, one_of, slower, write
from llmbench.machine import processes
from llmbench.measure.telemetry import CpuWindow
from llmbench.places import command
from llmbench.results import store
from llmbench.results.record import Begin, Status
from llmbench.run import channel, pins
from llmbench.run.sweep import Where
from llmbench.spec.sweep import Sweep
from sweeps import MARK, SINGLE, asked, assert_complete

if TYPE_CHECKING:
    from sweeps import Bench

OVER_TWO: dict[str, Any] = {"nnodes": 2, "tensor_parallel_size": 2}
"""An engine with a GPU on each of two boxes."""
MODELS = ["llama-7b@tiny", "gpt2@tiny"]
BRIEF = {"sessions": 2, "max_sessions": 2, "warmup_budget_s": 0.1}
SLOW = {"clock": "real", "ttft_ms": 20.0, "tpot_ms": 5.0}


def test_a_cell_over_two_boxes_has_a_gpu_on_each_and_both_boxes_to_itself(bench: Bench) -> None:
    bench.write(
        axes={"device": "auto", "batch_size": 1},
        protocol=SINGLE,
        tensor_parallel_size=[2, 4],
        nnodes=[1, 2],
    )

    done = bench.sweep("--gpus", "all", *boxes(bench, "b1", "b2"))

    where = {
        (record.cell.options.get("nnodes", 1), record.cell.options["tensor_parallel_size"]): record
        for record in done.records
    }
    assert [len(where[key].worker["unit"].split("+")) for key in ((1, 2), (2, 2), (2, 4))] == [
        2,
        2,
        4,
    ]
    assert where[2, 2].worker["box"] == "b1+b2"
    assert where[2, 2].telemetry.get("neighbours") is None
    assert not [key for key in where[2, 2].telemetry if key.startswith("power_w")]
    assert where[1, 4].status is Status.UNSUPPORTED
    assert str(where[1, 4].reason).endswith("takes 4 GPUs, and no box has more than 2.")
    assert "wait for" not in done.out
    assert {record.status for key, record in where.items() if key != (1, 4)} == {Status.OK}
    assert bench.gone()


def test_a_cell_that_takes_more_boxes_than_there_are_is_refused_in_one_line(bench: Bench) -> None:
    bench.write(protocol=SINGLE, **OVER_TWO)

    without = asked("sweep", bench.file, "-o", bench.run)
    odd = bench.write(protocol=SINGLE, nnodes=2, tensor_parallel_size=3)
    uneven = asked("sweep", odd, "-o", bench.run)

    assert (without.code, without.err.count("\n")) == (2, 1)
    assert "takes 2 boxes, and this sweep has 1; name more with --places." in without.err
    assert (
        "2 boxes cannot share its GPUs equally; give tensor_parallel_size=2 or another multiple."
        in uneven.err
    )


@pytest.mark.slow
def test_a_rank_that_dies_fails_its_session_with_the_reason(bench: Bench) -> None:
    bench.write(protocol=BRIEF, **{**SLOW, **OVER_TWO, "ttft_ms": 300.0})
    where = boxes(bench, "b1", "b2", gpus=0)
    sweep = bench.start(*where)
    bench.wait_for('"kind":"begin"', sweep)
    time.sleep(1.0)
    one_of(bench, "llmbench.run.forkserver", "b2").kill()

    done = bench.ended(sweep)

    (failed,) = [record for record in done.records if record.status is not Status.OK]
    assert failed.status is Status.CRASH
    assert "rank 1 on box b2 ended" in str(failed.reason) or "another box has ended" in str(
        failed.reason
    )
    assert_complete(done)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["b1", "b2"])
def test_a_cell_over_two_boxes_waits_for_the_one_that_died_and_goes_on(
    bench: Bench, victim: str
) -> None:
    bench.write(protocol=BRIEF, **{**SLOW, **OVER_TWO})
    sweep = bench.start(*boxes(bench, "b1", "b2", gpus=0))
    bench.wait_for('"kind":"end"', sweep)
    agent(bench, victim).kill()
    done = bench.ended(sweep)

    assert done.code == 3
    assert f"Box {victim} is gone" in done.out
    assert "of box b1 and box b2, which is not here" in done.out
    assert bench.gone(10)
    again = bench.sweep(*boxes(bench, "b2", "b1", gpus=0))
    assert_complete(again)
    assert len({record.worker["unit"] for record in again.records if record.final}) == 1


@pytest.mark.slow
def test_a_slot_that_dies_is_started_anew_in_the_same_sweep(bench: Bench) -> None:
    bench.write(axes={"model": MODELS, "device": "auto"}, protocol=BRIEF, **SLOW)
    sweep = bench.start("--gpus", "all", *boxes(bench, "b1", "b2"))
    bench.wait_for('"kind":"begin"', sweep)
    one_of(bench, "llmbench.run.slot").kill()

    done = bench.ended(sweep)

    assert "ended with code -9; it is started anew" in done.out
    assert_complete(done)
    assert [record.status for record in done.records].count(Status.INTERRUPTED) <= 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_slot_that_hangs_is_killed_after_its_workers_deadline(bench: Bench) -> None:
    short = {"iteration_s": 1, "warmup_s": 1, "memory_s": 1, "load_s": 1, "start_s": 1}
    bench.write(
        axes={"model": MODELS}, protocol={**BRIEF, "deadlines": short}, **{**SLOW, "ttft_ms": 300.0}
    )
    sweep = bench.start(*boxes(bench, "b1", "b2", gpus=0))
    bench.wait_for('"kind":"begin"', sweep)
    time.sleep(1.0)
    one_of(bench, "llmbench.run.slot", "b2").suspend()

    done = bench.ended(sweep, 150)

    assert "it has said nothing for 61 s (" in done.out
    assert "and was killed; it is started anew" in done.out
    assert_complete(done)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["in", "out"])
def test_a_channel_that_is_broken_in_one_direction_is_noticed_within_seconds(
    bench: Bench, end: str
) -> None:
    bench.write(axes={"model": MODELS}, protocol=BRIEF, **{**SLOW, "ttft_ms": 300.0})
    sweep = bench.start(*boxes(bench, "b1", "b2", gpus=0, run='cat | "$@" | cat'))
    bench.wait_for('"kind":"end"', sweep)
    own = {each.readlink() for each in Path(f"/proc/{agent(bench, 'b2').pid}/fd").iterdir()}
    link = 1 if end == "in" else 0
    cats = [each for each in bench.alive() if each.name() == "cat"]
    (cat,) = [each for each in cats if Path(f"/proc/{each.pid}/fd/{link}").readlink() in own]
    cat.kill()
    began = time.monotonic()

    while "Box b2 is gone" not in bench.out.read_text():
        assert time.monotonic() - began < 6
        time.sleep(0.05)

    sweep.send_signal(signal.SIGINT)
    bench.ended(sweep)
    assert bench.gone(10)


def test_an_agent_ends_when_a_sweep_that_has_pinged_it_is_silent() -> None:
    orders = b"".join(
        channel.line("-", each) for each in (channel.Join(gpus=None, device="cpu"), channel.Ping())
    )
    silent = "from llmbench.run import agent; agent.SWEEP_SILENT_S = 0.5; agent.BEAT_S = 0.2; agent.main()"
    with subprocess.Popen(
        [sys.executable, "-c", silent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(orders)
        process.stdin.flush()

        assert process.wait(20) == 0


def test_sessions_spread_over_boxes_of_a_kind_are_the_same_number_on_each(bench: Bench) -> None:
    bench.write(
        axes={"model": MODELS, "batch_size": [1, 2]},
        protocol={**BRIEF, "across": "kind"},
        session_spread=0.01,
    )
    where = boxes(bench, "b1", "b2", gpus=0)

    first = bench.sweep("--rounds", "1", *where)
    done = bench.sweep(*where)

    assert first.code in {0, 1}
    assert_complete(done)
    on: defaultdict[str, Counter[str]] = defaultdict(Counter)
    of: defaultdict[tuple[str, int, int], set[str]] = defaultdict(set)
    for record in done.records:
        on[record.id][record.worker["box"]] += 1
        of[record.cell.model, record.cell.batch_size, record.session].add(record.worker["box"])
    assert {tuple(sorted(counts.items())) for counts in on.values()} == {(("b1", 1), ("b2", 1))}
    assert {len(names) for names in of.values()} == {1}
    assert {record.worker["box"] for record in first.records if record.session == 1} == {"b1", "b2"}
    told = asked("table", bench.run).out
    assert "Sessions of a cell are spread over boxes" in told
    assert "Boxes differ no more than chance allows (F = " in told
    rows = asked("table", bench.run, "--per-session", "--format", "csv").out.splitlines()
    assert "place" in rows[0].split(",")


@pytest.mark.slow
def test_boxes_that_differ_are_said_to_and_by_how_much(bench: Bench) -> None:
    bench.write(
        axes={"model": MODELS, "batch_size": [1, 2, 3, 4]},
        protocol={"sessions": 4, "max_sessions": 4, "across": "kind"},
        session_spread=0.002,
    )
    done = bench.sweep(*boxes(bench, "b1", "b2", gpus=0, more=slower(bench, "b2", 1.08)))

    assert_complete(done)
    told = asked("table", bench.run).out
    assert "Boxes differ more than chance allows (F = " in told
    assert "box b1 was 7." in told or "box b2 was 8" in told
    assert "Rounds differ" not in told


def test_a_box_measures_the_session_that_it_had_begun_else_the_one_with_the_fewest() -> None:
    living = {"a0": "a", "a1": "a", "b0": "b"}

    assert pins.next_unit(living, {}, 1, {}) == "a0"
    assert pins.next_unit(living, {}, 1, {"a0": 2.0}) == "b0"
    assert pins.next_unit(living, {"a0": {1}}, 2, {}) == "b0"
    assert pins.next_unit(living, {"a1": {1, 2}, "b0": {3}}, 2, {}) == "a1"
    assert pins.next_unit({}, {}, 1, {}) == ""


def test_boxes_that_were_together_stay_together() -> None:
    units = {name: [f"{name}0", f"{name}1"] for name in "abcd"}

    assert pins.sets(units, 2, []) == [("a", "b"), ("c", "d")]
    assert pins.sets(units, 2, ["c1+a1", "c0+a0"]) == [("c", "a"), ("b", "d")]
    assert pins.sets(units, 2, ["c0+gone"]) == [("a", "b"), ("c", "d")]
    assert pins.sets({"a": ["a0"]}, 2, []) == []


def test_a_sweep_file_names_places_as_the_command_line_does_which_replaces_them(
    bench: Bench,
) -> None:
    bench.write(axes={"model": MODELS}, protocol=SINGLE)
    _, way, _, names = boxes(bench, "b1", "b2", gpus=0)
    sweep = json.loads(bench.file.read_text())
    bench.file.write_text(json.dumps({**sweep, "places": way, "hosts": names.split(",")}))

    done = bench.sweep()

    assert_complete(done)
    assert {record.worker["box"] for record in done.records} == {"b1", "b2"}
    wanted = Sweep(name="s", axes=None, places="ssh:a", hosts=["x", "y"], gpus=[0, 1])  # type: ignore[arg-type]
    assert Where().over(wanted) == Where(places="ssh:a", hosts="x,y", gpus="0,1")
    assert Where(places="slurm", gpus="all").over(wanted) == Where(places="slurm", gpus="all")


@pytest.mark.slow
def test_served_cells_are_measured_on_the_gpus_of_this_machine_one_at_a_time(bench: Bench) -> None:
    served = {"fake_server": {"window_s": 0.5, "ttft_ms": 20.0, "itl_ms": 5.0}}
    bench.write(
        axes={
            "backend": served,
            "model": MODELS,
            "batch_size": 1,
            "device": "cuda",
            "input_len": 40,
            "load": 2,
        },
        protocol=SINGLE,
    )
    write(bench.folder, gpus=2)
    own = {
        "PYTHONPATH": str(bench.folder / "box"),
        "STANDIN_GPUS": "2",
        "STANDIN_STATE": str(bench.folder / "g"),
    }
    bench.beginning = bench.folder / "box" / "sitecustomize.py"

    done = bench.sweep("--gpus", "all", environment=own)

    assert len(done.records) == 2, done.err
    assert len({record.worker["unit"] for record in done.records}) == 2
    first, second = sorted(line.at for line in store.read(bench.run) if isinstance(line, Begin))
    assert second >= min(record.ended for record in done.records) > first
    assert all(
        (bench.run / record.outcome.served.requests["file"]).exists()
        for record in done.records
        if record.outcome.served
    )


def test_served_cells_on_other_machines_are_refused_in_one_line(bench: Bench) -> None:
    bench.write(axes={"backend": "fake_server", "batch_size": 1}, protocol=SINGLE)

    done = asked("sweep", bench.file, "-o", bench.run, "--places", "ssh:a,b")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "leave --places out, or put them into a sweep of their own. --gpus works." in done.err


def test_cpu_time_of_other_processes_of_the_sweep_is_not_that_of_others() -> None:
    busy = "import time\nwhile time.process_time() < 0.6: pass\ntime.sleep(60)"
    os.environ[processes.RUN_VARIABLE] = "run/folder/namespace/1.2"
    try:
        window = CpuWindow(sweep=True)
        with subprocess.Popen([sys.executable, "-c", busy]) as neighbour:
            while sum(psutil.Process(neighbour.pid).cpu_times()[:2]) < 0.5:
                time.sleep(0.02)
            seen = window.read()
            neighbour.kill()
    finally:
        del os.environ[processes.RUN_VARIABLE]

    assert seen["cpu_sweep_s"] == pytest.approx(0.6, abs=0.2)
    assert "cpu_sweep_s" not in CpuWindow().read()


def test_the_words_of_an_agent_stay_words_in_a_command() -> None:
    (host,) = command.hosts("env LLMBENCH_HOST={host} {agent}", ("a",))
    (text,) = command.hosts("bash -c 'exec {agent}'", ("a",))

    assert host.command[:2] == ("env", "LLMBENCH_HOST=a")
    assert host.command[-1] == "agent"
    assert text.command[:2] == ("bash", "-c")
    assert text.command[2].endswith("-m llmbench agent")


def test_daemons_of_a_cluster_engine_are_recorded(bench: Bench) -> None:
    bench.write(protocol=SINGLE)
    fake = bench.folder / "raylet"
    fake.symlink_to("/bin/sleep")
    with subprocess.Popen([fake, "60"], env={**os.environ, MARK: bench.mark}) as daemon:
        bench.sweep(*boxes(bench, "b1", gpus=0))
        daemon.kill()

    (place,) = store.read(bench.run).places
    assert "raylet" in place.daemons
