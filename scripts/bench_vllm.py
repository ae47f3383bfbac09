"""The vLLM backend held against what a person would write down, as ratios of figures from this very run.

    scripts/bench-vllm [TURNS [BATCHxINPUT ...]]

`truth` times `LLM.generate` over an engine of its own, configured by hand, in turn with ours. `stepping` sets what
our listening costs a step beside the shortest step that was measured.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import msgspec
from vllm import LLM, SamplingParams

from llmbench import grid, spec, telemetry, workload
from llmbench.backends import load, options
from llmbench.backends._vllm_steps import Steps
from llmbench.measure import Loop, Measurement
from llmbench.model import resolve
from llmbench.record import Job

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OUTPUT_LEN = 16
DTYPE = "float32"
"""A CPU without AMX takes twice as long in bfloat16."""
SHAPES = ((1, 128), (4, 128), (16, 128), (1, 512), (4, 512))
"""Batch and prompt tokens."""
ROOM = 2**30
MOST_TURNS = 4
"""So many times as many turns are tried as are wanted, where others keep taking the processors."""
ALONE = 0.05
TRUTH, STEPPING = 1.03, 0.01
"""How far our tokens a second may lie from theirs, and what share of a step listening may take."""

PYTHIA = {
    "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 50304,
    "max_position_embeddings": 2048, "rotary_pct": 0.25, "rotary_emb_base": 10000, "hidden_act": "gelu",
    "layer_norm_eps": 1e-5, "use_parallel_residual": True, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
"""Pythia-160m, written down here: what is checked shares no configuration with the check."""


class Line(NamedTuple):
    """One promise: the figure measured, the most it may be, and what lies behind it."""

    promise: str
    figure: float
    limit: float
    behind: str


def by_hand(folder: Path) -> LLM:
    """Start an engine as its users do."""
    (folder / "config.json").write_text(json.dumps(PYTHIA))
    return LLM(
        str(folder), dtype=DTYPE, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True,
        kv_cache_memory_bytes=ROOM, enable_prefix_caching=False,
    )  # fmt: skip


def ours() -> tuple[spec.Cell, Any, Job]:
    """Start the backend's engine on the catalogue's Pythia-160m."""
    model = resolve("pythia-160m")
    choices = grid.Choices({model.name: model.digest}, {"vllm": options("vllm")}, "cpu", {})
    protocol = spec.Protocol()
    point = {
        "model": model.name, "device": "cpu", "dtype": DTYPE, "load_format": "dummy",
        "prompts": "synthetic", "batch_size": 1, "input_len": 128, "output_len": OUTPUT_LEN,
    }  # fmt: skip
    chosen: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": ROOM}
    cell = grid.make_cell(protocol, choices, backend="vllm", options=chosen, **point)
    job = Job(cells=[cell], model=model, protocol=protocol, session=1)
    return cell, load(job), job


def truth(
    theirs: LLM, cell: spec.Cell, engine: Any, job: Job, turns: int, shapes: Sequence[Sequence[int]]
) -> Iterator[Line]:
    """Compare output tokens a second, turn by turn on the same prompts."""
    wanted = SamplingParams(temperature=0, ignore_eos=True, max_tokens=OUTPUT_LEN, detokenize=False)
    for batch_size, input_len in shapes:
        point = {"batch_size": batch_size, "input_len": input_len}
        shaped = msgspec.structs.replace(cell, **point)
        drawn = workload.synthetic(shaped, engine, 0, 1)
        loop = Loop(
            engine,
            job.protocol,
            drawn,
            Measurement(shaped),
            telemetry.NoCounters(),
            lambda *_: None,
        )
        engine.prepare(shaped)
        times: tuple[list[float], list[float]] = ([], [])
        disturbed = 0
        for turn in range(MOST_TURNS * turns):
            prompts = drawn("iteration", turn)
            window, pair = telemetry.CpuWindow(), [0.0, 0.0]
            for side in (0, 1) if turn % 2 else (1, 0):
                pair[side] = _ours(loop, prompts) if side else _by_hand(theirs, prompts, wanted)
            if turn < 2:
                continue  # the first turns warm up
            if _shared(window.read()):
                disturbed += 1
                continue
            times[0].append(pair[0])
            times[1].append(pair[1])
            if len(times[0]) == turns:
                break
        if len(times[0]) < 3:
            yield Line(f"batch {batch_size}, in {input_len}", math.inf, TRUTH, "never alone here")
            continue
        hand, own = (batch_size * OUTPUT_LEN / statistics.median(side) for side in times)
        promise = f"output tok/s, batch {batch_size}, in {input_len}"
        behind = f"{own:.2f} against {hand:.2f}, {len(times[0])} turns, {disturbed} disturbed"
        yield Line(promise, max(own / hand, hand / own), TRUTH, behind)


def _shared(seen: dict[str, Any]) -> bool:
    """Return whether others took a twentieth of the processors during a turn: both sides are then let go."""
    taken = seen["cpu_other_s"] + seen["cpu_steal_s"]
    return bool(taken > ALONE * seen["cpu_wall_s"] * seen["cpu_count"])


def _by_hand(theirs: LLM, prompts: list[list[int]], wanted: SamplingParams) -> float:
    start = time.perf_counter()
    done = theirs.generate([{"prompt_token_ids": ids} for ids in prompts], wanted, use_tqdm=False)
    took = time.perf_counter() - start
    assert all(len(output.outputs[0].token_ids) == OUTPUT_LEN for output in done)
    return took


def _ours(loop: Loop, prompts: list[list[int]]) -> float:
    sample, _ = loop._once(prompts)  # noqa: SLF001 - the loop is what is being tested
    assert sample.e2e_ns
    return sample.e2e_ns / 1e9


def stepping(engine: Any, loops: int = 200_000) -> Iterator[Line]:
    """Set what listening to a step costs beside the time between two tokens at batch 1."""
    gaps = [late - early for early, late in itertools.pairwise(engine.token_ns()[0])]
    step_ns = statistics.median(gaps)
    core = _Instant()
    bare = _each_ns(core.get_output, loops)
    steps = Steps(core)
    steps.begin()
    listening = _each_ns(core.get_output, loops)
    cost = max(listening - bare, 0.0)
    behind = f"{cost:.0f} ns of {step_ns / 1e6:.2f} ms"
    yield Line("listening to a step, batch 1", cost / step_ns, STEPPING, behind)


def _each_ns(call: Any, loops: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(loops):
        call()
    return (time.perf_counter_ns() - start) / loops


class _Instant:
    """A core that gives nothing out, at once."""

    def get_output(self) -> None:
        """Return nothing."""


def main() -> int:
    """Print a line for each promise; exit 1 if one is broken."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    shapes = [tuple(map(int, word.split("x"))) for word in sys.argv[2:]] or SHAPES
    with tempfile.TemporaryDirectory() as folder:
        theirs = by_hand(Path(folder))
    cell, engine, job = ours()
    facts = engine.facts
    print(
        f"vLLM {facts['vllm']}, torch {facts['torch']}, {facts['threads']} threads, {turns} turns\n"
    )
    print(f"{'promise':36} {'figure':>8} {'limit':>6}  behind it")
    broken = 0
    for line in truth(theirs, cell, engine, job, turns, shapes):
        broken += _said(line)
    engine.generate(workload.synthetic(cell, engine, 0, 1)("memory", 0), OUTPUT_LEN)
    for line in stepping(engine):
        broken += _said(line)
    sys.stdout.flush()
    os._exit(1 if broken else 0)  # without the teardown of two engines


def _said(line: Line) -> bool:
    verdict = "BROKEN" if line.figure > line.limit else ""
    text = f"{line.promise:36} {line.figure:8.4f} {line.limit:6.2f}  {line.behind}  {verdict}"
    print(text.rstrip(), flush=True)
    return bool(verdict)


if __name__ == "__main__":
    sys.exit(main())
