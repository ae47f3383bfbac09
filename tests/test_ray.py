"""Sweeps on the nodes of a Ray cluster, made of several nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from boxes import write
from llmbench.results.record import Status
from sweeps import Bench, assert_complete

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

BRIEF = {"sessions": 2, "max_sessions": 2, "warmup_budget_s": 0.1}
SLOW = {"clock": "real", "ttft_ms": 20.0, "tpot_ms": 5.0}
NODES = 4
SMALL = 80 * 2**20
"""Bytes of a node's object store, which nothing is put into."""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a cluster of a head without resources and four nodes with two GPUs each."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - takes seconds

    made = Cluster()
    made.add_node(num_cpus=0, num_gpus=0, object_store_memory=SMALL)
    made.boxes = [
        made.add_node(num_cpus=2, num_gpus=2, object_store_memory=SMALL) for _ in range(NODES)
    ]
    yield made
    with contextlib.suppress(Exception):
        made.shutdown()


def arguments(bench: Bench, cluster: Any) -> tuple[list[str], dict[str, str]]:
    """Return the arguments of a sweep on a cluster, and the environment of its driver and its agents."""
    script = write(bench.folder, gpus=2)
    command = f"bash -c 'exec {script} $LLMBENCH_HOST {sys.executable} -m llmbench agent'"
    where = ["--gpus", "all", "--places", f"ray:{cluster.address}"]
    return where, {"LLMBENCH_AGENT": command}


def test_a_node_that_dies_costs_what_was_measured_on_it_and_no_session_runs_twice(
    bench: Bench, cluster: Any
) -> None:
    models = [f"{name}@tiny" for name in ("llama-7b", "gpt2", "qwen3-8b", "phi-4")]
    bench.write(axes={"model": models, "device": "auto"}, protocol=BRIEF, **SLOW)
    where, environment = arguments(bench, cluster)

    sweep = bench.start(*where, environment=environment)
    bench.wait_for('"session":2', sweep, 120)
    cluster.remove_node(cluster.boxes[1], allow_graceful=False)
    done = bench.ended(sweep, 120)

    assert done.code in {0, 1, 3}
    assert "is gone: its command ended" in done.out
    final = [(record.id, record.session) for record in done.records if record.final]
    assert len(final) == len(set(final))
    assert {record.status for record in done.records} <= {Status.OK, Status.INTERRUPTED}
    waiting = "which is not here" in done.out

    again = bench.sweep(
        *where, *(["--move"] if waiting else []), environment=environment, patience_s=120
    )

    assert_complete(again)


def test_the_driver_may_be_killed_and_the_next_one_goes_on(bench: Bench, cluster: Any) -> None:
    bench.write(axes={"device": "auto"}, protocol=BRIEF, **SLOW)
    where, environment = arguments(bench, cluster)

    sweep = bench.start(*where, environment=environment)
    bench.wait_for('"kind":"end"', sweep, 120)
    sweep.kill()
    sweep.wait()

    assert bench.gone(15)
    assert_complete(bench.sweep(*where, environment=environment, patience_s=120))


def test_no_cluster_is_one_line(bench: Bench) -> None:
    bench.write()

    done = bench.sweep("--places", "ray:127.0.0.1:1", environment=dict(os.environ), patience_s=120)

    assert done.code == 2
    assert "--places: ray: no " in done.err
    assert done.err.count("\n") == 1
