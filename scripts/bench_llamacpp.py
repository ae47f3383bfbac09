"""Comparison of the llama.cpp backend with llama-bench on the same files, alternating in fresh processes.

    scripts/bench-llamacpp [PAIRS [TYPE ...]]

Each pair is one process of either side; a figure is the geometric mean of their ratios. Reading is the time of a
prompt, writing that of a token after it, at batch 1.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbench.backends import load, options
from llmbench.backends.llamacpp import model_file
from llmbench.models.resolve import resolve
from llmbench.results.record import Job
from llmbench.spec import grid, sweep
from llmbench.stats import intervals

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "models/smollm2-135m-instruct"
DTYPE = "float16"
TYPES = ("none", "q8_0", "q4_k_m")
INPUT_LEN, OUTPUT_LEN = 128, 33
"""The steps after the first token are 32, as many as llama-bench is asked for at this depth."""
WARM, CALLS = 2, 7
ALONE = "alone"
LIMIT = 1.03
"""The largest allowed ratio of either side to the other."""


def planned(scheme: str) -> Job:
    """Return the job of one cell, with the threads that llama-bench gets too."""
    model = resolve(MODEL)
    choices = grid.Choices({model.name: model.digest}, {"llamacpp": options("llamacpp")}, "cpu", {})
    point: dict[str, Any] = {
        "model": model.name, "device": "cpu", "dtype": DTYPE, "load_format": "safetensors",
        "prompts": "synthetic", "batch_size": 1, "input_len": INPUT_LEN, "output_len": OUTPUT_LEN,
    }  # fmt: skip
    protocol = sweep.Protocol()
    cell = grid.make_cell(
        protocol, choices, backend="llamacpp", options={grid.QUANTIZATION: scheme}, **point
    )
    return Job(cells=[cell], model=model, protocol=protocol, session=1)


def ours(scheme: str) -> dict[str, float]:
    """Return seconds of a prompt and of a token, medians of this process."""
    job = planned(scheme)
    engine = load(job)
    engine.prepare(job.cells[0])
    rng = np.random.default_rng()
    rows = []
    for call in range(WARM + CALLS):
        engine.generate(rng.integers(0, engine.vocab_size, (1, INPUT_LEN)).tolist(), OUTPUT_LEN)
        if call >= WARM:
            rows += engine.token_ns()
    return {
        "reading": statistics.median(row[0] for row in rows) / 1e9,
        "writing": statistics.median((row[-1] - row[0]) / (OUTPUT_LEN - 1) for row in rows) / 1e9,
    }


def theirs(tool: str, path: Path, threads: int) -> dict[str, float]:
    """Return the same of llama-bench: a prompt alone, and tokens after a prompt of the same length."""
    common = [
        tool,
        "-m",
        str(path),
        "-t",
        str(threads),
        "-fa",
        "auto",
        "-ngl",
        "0",
        "-r",
        str(CALLS),
        "-o",
        "json",
    ]
    reading = _bench([*common, "-p", str(INPUT_LEN), "-n", "0"])
    writing = _bench([*common, "-p", "0", "-n", str(OUTPUT_LEN - 1), "-d", str(INPUT_LEN)])
    return {"reading": reading, "writing": writing / (OUTPUT_LEN - 1)}


def _bench(command: list[str]) -> float:
    done = subprocess.run(command, capture_output=True, check=True)
    (test,) = json.loads(done.stdout)
    return statistics.median(test["samples_ns"]) / 1e9


def compared(tool: str, scheme: str, pairs: int) -> bool:
    """Print the ratios of one type of weights; return whether both are within the limit."""
    job = planned(scheme)
    path = model_file.of(job, scheme).path
    threads = load(job).facts["threads"]
    apart: dict[str, list[float]] = {"reading": [], "writing": []}
    for number in range(pairs):
        sides = [lambda: _alone(scheme), lambda: theirs(tool, path, threads)]
        own, other = (sides[0](), sides[1]()) if number % 2 else reversed((sides[1](), sides[0]()))
        for what, logs in apart.items():
            logs.append(math.log(own[what] / other[what]))
    good = True
    for what, logs in apart.items():
        ratio = math.exp(statistics.fmean(logs))
        reach = intervals.half_width([math.exp(log) for log in logs])
        within = max(ratio, 1 / ratio) <= LIMIT
        good &= within
        print(
            f"{'ok  ' if within else 'MISS'} {what}, {path.name.split('-')[-2]}: {ratio:.3f} of llama-bench's time, "
            f"{pairs} pairs" + (f", 95 % interval ±{reach:.1%}" if reach is not None else ""),
            flush=True,
        )
    return good


def _alone(scheme: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, ALONE, scheme], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Compare, or with `alone` measure our side in this process; return 1 if a limit is missed."""
    if sys.argv[1] == ALONE:
        print(json.dumps(ours(sys.argv[2])))
        return 0
    tool, pairs, *types = sys.argv[1], int((sys.argv[2:] or ["8"])[0]), *sys.argv[3:]
    missed = [scheme for scheme in types or TYPES if not compared(tool, scheme, pairs)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
