"""Makes any number of records as a sweep would write them, for tests and to time the reading half.

`python tests/make_records.py FOLDER [COUNT]` writes a run.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llmbench.results import lines as results_lines
from llmbench.results import store
from llmbench.results.record import Begin, Line, Memory, Outcome, Plan, Record, Sample, Status
from llmbench.spec.sweep import Cell, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.random import Generator

MODELS = ("llama-7b@tiny", "mpt-7b@tiny", "pythia-70m", "opt-125m")
AT = "2025-06-01T12:00:00+00:00"
TOKEN_S = 0.002
STEP_SPREAD = 0.05
SESSION_SPREAD = 0.01


def make_cell(number: int = 0, **changes: Any) -> Cell:
    """Return the cell with this number on a grid of models and input lengths, or a variation of it."""
    facts: dict[str, Any] = {
        "model": MODELS[number % len(MODELS)],
        "model_digest": "0123456789",
        "backend": "transformers",
        "options": {},
        "device": "cpu",
        "dtype": "float32",
        "load_format": "dummy",
        "prompts": "synthetic",
        "batch_size": 4,
        "input_len": 32 + number // len(MODELS),
        "output_len": 16,
        **changes,
    }
    slug = f"{facts['model']}-b{facts['batch_size']}-i{facts['input_len']}-o{facts['output_len']}"
    return Cell(id=f"{slug}-{number:010x}", **facts)


def make_plan(cells: Sequence[Cell], **changes: Any) -> Plan:
    """Return a plan of these cells."""
    facts: dict[str, Any] = {
        "protocol": 1,
        "run": "0123456789abcdef",
        "name": "example",
        "why": "Show what a table looks like.",
        "command": "llmbench sweep configs/sweeps/example.yaml",
        "at": AT,
        "cells": list(cells),
        "models": [],
        "settings": Protocol(sessions=3),
        "machine": {"cpu": "a CPU", "cores": 2},
        "environment": {"python": "3.11.7", "torch": "2.9.0"},
        "environment_digest": "9876543210",
    }
    return Plan(**{**facts, **changes})


def make_begin(cell: Cell, session: int) -> Begin:
    """Return the line that says a session was about to begin."""
    return Begin(
        cell=cell.id,
        session=session,
        attempt=1,
        at=AT,
        token="t" * 16,
        pid=4242,
        pid_start_s=1.5,
        boot="b" * 36,
    )


def make_record(cell: Cell, session: int, samples: Sequence[Sample] = (), **changes: Any) -> Record:
    """Return a record of one session; `outcome` in the changes is a mapping of an Outcome's fields."""
    outcome: dict[str, Any] = {
        "cell": cell.id,
        "engine": {"attention": "sdpa", "parameters": 7_000_000, "param_dtypes": "float32"},
        "load_s": 0.8,
        "warmup_ns": [90_000_000, 41_000_000, 40_000_000],
        "warmup_converged": True,
        "samples": list(samples),
        "returned": {str(cell.output_len): cell.batch_size},
        "memory": Memory(weights_bytes=28_000_000, host_peak_rss_bytes=512 * 2**20),
        **changes.pop("outcome", {}),
    }
    facts: dict[str, Any] = {
        "protocol": 1,
        "id": cell.id,
        "session": session,
        "attempt": 1,
        "status": Status.OK,
        "cell": cell,
        "outcome": Outcome(**outcome),
        "telemetry": {"clock_mhz": None, "load": 0.4},
        "worker": {"pid": 4242, "start": "fork", "started": AT},
        "environment": "9876543210",
        "ended": AT,
    }
    return Record(**{**facts, **changes})


def make_samples(e2e_s: Sequence[float], ttft_s: float, tokens: int) -> list[Sample]:
    """Return one sample per given time, with evenly spaced tokens after the first."""
    return [
        Sample(
            e2e_ns=round(e2e * 1e9),
            wall_ns=round(e2e * 1e9),
            token_ns=[[round(t * 1e9) for t in np.linspace(ttft_s, e2e, tokens)]],
        )
        for e2e in e2e_s
    ]


def drawn_samples(rng: Generator, cell: Cell, count: int = 5) -> list[Sample]:
    """Return samples with the spread of a quiet machine: 1 % between sessions, 5 % between tokens."""
    pace = 1e9 * TOKEN_S * np.exp(rng.normal(0, SESSION_SPREAD))
    gaps = pace * np.exp(rng.normal(0, STEP_SPREAD, (count, cell.output_len)))
    gaps[:, 0] *= 4
    times = np.cumsum(gaps, axis=1).astype(np.int64)
    return [
        Sample(e2e_ns=row[-1] + 20_000, wall_ns=row[-1] + 21_000, token_ns=[row])
        for row in times.tolist()
    ]


def lines(
    count: int, sessions: int = 3, seed: int = 0, **plan: Any
) -> Iterator[Plan | Begin | Record]:
    """Yield a plan and then the begin and end of `count` sessions, round by round."""
    cells = [make_cell(number) for number in range(-(-count // sessions))]
    rng = np.random.default_rng(seed)
    yield make_plan(cells, settings=Protocol(sessions=sessions), **plan)
    rounds = itertools.product(range(sessions), cells)
    for session, cell in itertools.islice(rounds, count):
        yield make_begin(cell, session)
        yield make_record(cell, session, drawn_samples(rng, cell))


def write(folder: Path, count: int, seed: int = 0, **plan: Any) -> None:
    """Write a run of `count` records, without the fsync that makes each durable."""
    write_lines(folder, lines(count, seed=seed, **plan))


def write_lines(folder: Path, written: Iterable[Line]) -> None:
    """Write a run of these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    encode = msgspec.json.Encoder().encode
    with (folder / store.RECORDS).open("wb") as stream:
        stream.writelines(results_lines.seal(encode(line)) for line in written)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
