"""Sweeps on several GPUs and boxes: who measures what, and what is left when one of them dies."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import psutil
import pytest

from boxes import agent, boxes, one_of, write
from llmbench.results import store
from llmbench.results.record import Move, Status
from llmbench.run import channel, pins
from sweeps import SINGLE, Bench, asked, assert_complete

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmbench.results.record import Record

MODELS = ["llama-7b@tiny", "gpt2@tiny"]
ON_GPUS = {"model": MODELS, "device": "auto"}
BRIEF = {"sessions": 2, "max_sessions": 2, "warmup_budget_s": 0.1}
SLOW = {"clock": "real", "ttft_ms": 20.0, "tpot_ms": 5.0}
"""An engine whose sessions take half a second, in which something can happen."""


def units(records: Iterable[Record]) -> dict[str, set[str]]:
    """Return the units that each cell was measured on, by its id."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.final:
            found[record.id].add(record.worker["unit"])
    return found


def test_every_gpu_of_every_box_measures_and_a_cell_stays_on_its_own(bench: Bench) -> None:
    bench.write(axes=ON_GPUS)

    an_hour_ahead = '[ "$LLMBENCH_HOST" = b2 ] && export BOX_AHEAD_S=3600'

    done = bench.sweep("--gpus", "all", *boxes(bench, "b1", "b2", more=an_hour_ahead))

    assert_complete(done)
    ends = [record.ended for record in done.records]
    assert ends == sorted(ends)
    assert all(record.problems == [] for record in done.records)
    assert {len(each) for each in units(done.records).values()} == {1}
    assert len({record.worker["unit"] for record in done.records}) == 4
    (first, second) = store.read(bench.run).places
    assert {first.name, second.name} == {"b1", "b2"}
    assert {*first.units, *second.units} == {record.worker["unit"] for record in done.records}
    assert {record.telemetry.get("neighbours", 0) for record in done.records} <= {0, 1}


def test_a_box_that_dies_costs_its_session_and_a_resume_measures_what_waits(bench: Bench) -> None:
    bench.write(axes={"model": MODELS}, protocol=BRIEF | {"max_sessions": 4}, **SLOW)
    where = boxes(bench, "b1", "b2", gpus=0)
    sweep = bench.start(*where)
    bench.wait_for('"session":2', sweep)
    agent(bench, "b2").kill()
    done = bench.ended(sweep)

    assert done.code == 3
    assert "Box b2 is gone: its command ended with code -9" in done.out
    assert "wait for unit" in done.out
    assert "of box b2, which is not here" in done.out
    assert (
        max(record.session for record in done.records) == 2
    )  # no further ones before all are there
    assert bench.gone()

    before = bench.raw()
    again = bench.sweep(*boxes(bench, "b2", "b1", gpus=0), "--rounds", "2")

    assert bench.raw().startswith(before)
    assert_complete(again)
    assert {len(each) for each in units(again.records).values()} == {1}


def test_boxes_of_two_kinds_do_not_share_a_run(bench: Bench) -> None:
    bench.write(axes={"device": "cuda"}, protocol=SINGLE)
    slower = '[ "$LLMBENCH_HOST" = b2 ] && export STANDIN_MEMORY_BYTES=1000000000'

    done = bench.sweep("--gpus", "all", *boxes(bench, "b1", "b2", more=slower))

    assert (
        "Box b2: is of another kind than the run (gpu.memory_bytes 151397597184 -> 1000000000)."
        in done.out
    )
    assert {record.worker["box"] for record in done.records} == {"b1"}
    assert_complete(done)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--places", "shh:a"], "--places: 'shh' is no way to a machine."),
        (["--places", "ssh:"], "--places: 'ssh:' names no host."),
        (["--places", "ssh:a,a"], "--places: host 'a' is given twice; a box has one agent."),
        (["--places", "ssh:-oProxyCommand=x"], "'-oProxyCommand=x' is not the name of a host"),
        (["--places", "command:run {host}"], "--places: command: needs --hosts"),
        (["--places", "command:run", "--hosts", "a,b"], "the template has no {host}"),
        (["--places", "command:'run", "--hosts", "a"], "cannot be split into words"),
        (["--places", "command:/no/such", "--hosts", "a"], "/no/such: cannot be run"),
        (["--places", "command:false", "--hosts", "a"], "Box a: its command ended with code 1."),
        (["--hosts", "a"], "--hosts: names hosts for --places, which is not given."),
        (["--gpus", "x"], "--gpus: 'x' is neither all nor a list of numbers, such as 0,1."),
        (["--gpus", "0,0"], "--gpus: '0,0' names a GPU twice."),
        (["--gpus", "0", "--anonymous"], "--anonymous: does not go together with --places"),
        (["--move"], "--move: only works together with --places or --gpus."),
    ],
)
def test_a_mistake_is_one_line(bench: Bench, arguments: list[str], line: str) -> None:
    bench.write()

    answer = asked("sweep", bench.file, "-o", bench.run, *arguments)

    assert answer.code == 2
    assert line in answer.err
    assert answer.err.count("\n") == 1
    assert not bench.run.exists()


def test_the_nodes_of_an_allocation_measure(bench: Bench) -> None:
    bench.write(axes={"model": MODELS}, protocol=SINGLE)
    script, tools = write(bench.folder, 0), bench.folder / "tools"
    tools.mkdir()
    for name, text in {
        "scontrol": "echo n1; echo n2",
        "srun": f'for word; do shift; case "$word" in --nodelist=*) exec {script} "${{word#*=}}" "$@";; esac; done',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"

    outside = bench.sweep("--places", "slurm", environment={"PATH": path})
    done = bench.sweep(
        "--places", "slurm", environment={"PATH": path, "SLURM_JOB_NODELIST": "n[1-2]"}
    )

    assert "slurm: this is no allocation of SLURM; run it as 'salloc -N2" in outside.err
    assert_complete(done)
    assert {record.worker["box"] for record in done.records} == {"n1", "n2"}


def test_a_run_on_one_gpu_and_a_run_on_several_are_not_mixed(bench: Bench, measured: Bench) -> None:
    bench.write()
    bench.copy(measured)  # type: ignore[arg-type]

    answer = asked("sweep", bench.file, "-o", bench.run, "--gpus", "all")

    assert answer.code == 2
    assert "was measured without --places and --gpus, so nothing says on which GPU" in answer.err


def test_work_is_dealt_out_evenly_and_in_neighbouring_pieces() -> None:
    size = pins.Size(1, 1)
    blocks = [pins.Block("m", "cuda", "synthetic", size, (1, number, 1)) for number in range(6)]
    work = dict.fromkeys(blocks, 1.0)

    dealt = pins.deal(work, ["a", "b", "c", "d"], {})
    more = pins.deal(work, ["a", "b"], dict(zip(blocks, ("a", "a", "gone"), strict=False)))

    assert "".join(dealt[block] for block in sorted(work)) == "aabccd"
    assert list(more.values()) == ["a", "b", "b"]


def test_a_cell_of_two_gpus_takes_neighbours_and_a_box_with_one_gpu_has_no_place_for_it() -> None:
    assert [list(share) for share in pins.shares(range(5), 2, alone=False)] == [[0, 1], [2, 3]]
    assert [list(share) for share in pins.shares(range(5), 2, alone=True)] == [[0, 1]]
    assert pins.shares(range(1), 2, alone=False) == []
    assert [list(share) for share in pins.shares(range(1), 0, alone=False)] == [[0]]


def test_a_go_that_came_before_it_is_waited_for_is_not_lost() -> None:
    read, write = os.pipe()
    orders = channel.Orders(read)
    orders.begin("t")
    os.write(write, channel.line("", channel.Go(token="t"))[1:])  # noqa: S106 - not a secret

    assert orders.signal is None  # which reads the GO
    assert orders.go()

    os.write(write, channel.line("", channel.Go(token="old"))[1:])  # noqa: S106 - not a secret
    os.close(write)
    assert not orders.go()  # of another attempt, and then the end
    os.close(read)


def test_an_agent_that_is_started_by_hand_says_what_it_is() -> None:
    join = channel.line("-", channel.Join(gpus=None, device="cpu"))

    done = subprocess.run(
        [sys.executable, "-m", "llmbench", "agent"], input=join, capture_output=True, check=True
    )

    here = channel.answer(channel.split(done.stdout.splitlines()[0])[1])
    assert isinstance(here, channel.Here)
    assert here.gpus == []
    assert len(here.units) == 1


def test_a_dry_run_says_what_each_box_would_do(bench: Bench) -> None:
    bench.write(axes={**ON_GPUS, "backend": "transformers"})

    done = bench.sweep("--dry-run", "--gpus", "all", *boxes(bench, "b1", "b2"))

    assert done.code == 0, done.err
    assert "Box b1: 2 GPUs, 3 cells, about" in done.out
    assert "Box b2: 2 GPUs, 3 cells, about" in done.out
    assert "All boxes together: about" in done.out
    assert not bench.run.exists()


@pytest.mark.slow
def test_cells_whose_box_does_not_come_back_are_moved_when_asked(bench: Bench) -> None:
    bench.write(axes={"model": MODELS}, protocol=BRIEF, **SLOW)
    first = bench.sweep("--rounds", "1", *boxes(bench, "b1", "b2", gpus=0))
    of_b2 = {record.id for record in first.records if record.worker["box"] == "b2"}
    before = bench.raw()

    waits = bench.sweep(*boxes(bench, "b1", gpus=0))
    moved = bench.sweep("--move", *boxes(bench, "b1", gpus=0))

    assert f"{len(of_b2)} cells wait for unit" in waits.out
    assert waits.code == 3
    assert bench.raw().startswith(before)
    assert_complete(moved)
    assert {record.worker["box"] for record in moved.records} == {"b1"}
    assert max(record.attempt for record in moved.records) == 2
    (move,) = (line for line in store.read(bench.run) if isinstance(line, Move))
    assert set(move.cells) == of_b2
    assert "Measured on b1 (6 cells)" in asked("table", bench.run).out


@pytest.mark.slow
def test_a_box_that_hangs_is_given_up_and_what_it_says_later_is_not_heard(bench: Bench) -> None:
    bench.write(axes={"model": MODELS}, protocol=BRIEF, **SLOW)
    where = boxes(bench, "b1", "b2", gpus=0)
    sweep = bench.start(*where)
    bench.wait_for('"session":2', sweep)
    agent(bench, "b2").suspend()

    done = bench.ended(sweep, 90)

    assert "Box b2 is gone: it has said nothing for 30 s" in done.out
    assert done.code == 3
    assert bench.gone(20)
    assert_complete(bench.sweep(*where))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sweep", "slot"])
def test_who_dies_leaves_no_process_and_no_session_twice(bench: Bench, what: str) -> None:
    bench.write(axes=ON_GPUS, protocol=BRIEF, **SLOW)
    where = ("--gpus", "all", *boxes(bench, "b1", "b2"))
    sweep = bench.start(*where)
    bench.wait_for('"kind":"end"', sweep)
    if what == "sweep":
        sweep.kill()
        sweep.wait()
    else:
        one_of(bench, "llmbench.run.slot").kill()
        bench.ended(sweep)

    assert bench.gone(10)
    assert_complete(bench.sweep(*where))


@pytest.mark.slow
def test_a_stop_on_boxes_keeps_what_was_interrupted_and_leaves_nothing(bench: Bench) -> None:
    bench.write(axes=ON_GPUS, protocol=BRIEF, **SLOW)
    where = ("--gpus", "all", *boxes(bench, "b1", "b2"))
    sweep = bench.start(*where)
    bench.wait_for('"kind":"end"', sweep)
    sweep.send_signal(signal.SIGINT)

    done = bench.ended(sweep)

    assert done.code == 130
    assert Status.INTERRUPTED in {record.status for record in done.records}
    assert bench.gone(10)
    assert_complete(bench.sweep(*where))


@pytest.mark.slow
def test_a_lost_gpu_leaves_its_cells_and_the_others_go_on(bench: Bench) -> None:
    bench.write(axes=ON_GPUS, protocol=BRIEF, **SLOW)
    lost = bench.folder / "lost"
    only_b1 = f'[ "$LLMBENCH_HOST" = b1 ] && export BOX_LOST={lost}'
    where = ("--gpus", "all", *boxes(bench, "b1", "b2", more=only_b1))
    sweep = bench.start(*where)
    bench.wait_for('"kind":"end"', sweep)
    lost.touch()

    done = bench.ended(sweep)

    assert "Box b1, GPU 0: the GPU no longer responds to its driver" in done.out
    after = [r for r in done.records if r.worker["box"] == "b2" or r.worker["gpus"] == [1]]
    assert {record.status for record in after} == {Status.OK}
    lost.unlink()
    assert_complete(bench.sweep(*where))


KILLS = 50
VICTIMS = ("agent", "llmbench.run.slot", "llmbench.run.forkserver", "cat", "sweep")
"""A box's agent, a slot, a fork server or a worker, a link, and the sweep itself."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_lose_no_record_and_double_none(bench: Bench) -> None:
    rng = random.Random(19)  # noqa: S311 - a choice of victims
    shapes = {"batch_size": [1, 2, 4], "input_len": [8, 16, 32]}
    bench.write(
        axes={**ON_GPUS, **shapes}, protocol={**BRIEF, "sessions": 12, "max_sessions": 12}, **SLOW
    )
    linked = boxes(bench, "b1", "b2", "b3", run='cat | "$@" | cat')
    where = ("--gpus", "all", *linked)
    killed: Counter[str] = Counter()
    while sum(killed.values()) < KILLS:
        before = bench.raw()
        sweep = bench.start(*where)
        for _ in range(rng.randint(1, 4)):
            seen = bench.raw()
            with contextlib.suppress(AssertionError):  # the sweep has ended
                bench.wait_for_more(seen, sweep)
            time.sleep(rng.random() * 0.3)
            victim = rng.choice(VICTIMS)
            with contextlib.suppress(LookupError, psutil.Error):
                process = psutil.Process(sweep.pid) if victim == "sweep" else one_of(bench, victim)
                process.kill()
                killed[victim] += 1
            if victim == "sweep":
                break
        if victim != "sweep":
            sweep.send_signal(signal.SIGINT)
        sweep.wait(60)
        assert bench.gone(10), bench.alive()
        assert bench.raw().startswith(before)

    assert_complete(bench.sweep(*where, patience_s=600))
    assert set(killed) == set(VICTIMS)
