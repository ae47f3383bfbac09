"""Comparison of the vLLM backend with a hand-written loop, as ratios of figures from the same run.

    scripts/bench-vllm [PAIRS [BATCHxINPUT ...]]

`truth` times `LLM.generate` on an engine configured by hand, and our backend, alternating in fresh processes.
`stepping` compares the cost of recording a step with the time of a measured step.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import msgspec
from vllm import LLM, SamplingParams

from llmbench.backends import load, options
from llmbench.backends.vllm.steps import Steps
from llmbench.measure import prompts as measure_prompts
from llmbench.measure import telemetry
from llmbench.measure.loop import Loop, Measurement
from llmbench.models.resolve import resolve
from llmbench.results.record import Job
from llmbench.spec import grid, sweep
from llmbench.stats import intervals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OUTPUT_LEN = 16
DTYPE = "float32"
"""float32, because a CPU without AMX takes twice as long in bfloat16."""
SHAPES = ((1, 128), (4, 128), (16, 128), (1, 512), (4, 512))
"""Batch and prompt tokens."""
ROOM = 2**30
WARM, CALLS = 2, 5
"""The numbers of warm-up and of timed calls in a process."""
ALONE, SIDES = "alone", ("hand", "ours")
TRUTH, STEPPING = 1.03, 0.01
"""The allowed difference of tokens per second, and the share of a step that recording may take."""

VOCABULARY = 50304
PYTHIA = {
    "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048, "rotary_pct": 0.25, "rotary_emb_base": 10000, "hidden_act": "gelu",
    "layer_norm_eps": 1e-5, "use_parallel_residual": True, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
"""Pythia-160m, written out here to share no configuration with the code under test."""


class Line(NamedTuple):
    """The result of one check: the figure, its upper limit, and details."""

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


def planned() -> tuple[sweep.Cell, Job]:
    """Return the cell of the catalogue's Pythia-160m, and its job."""
    model = resolve("pythia-160m")
    choices = grid.Choices({model.name: model.digest}, {"vllm": options("vllm")}, "cpu", {})
    protocol = sweep.Protocol()
    point = {
        "model": model.name, "device": "cpu", "dtype": DTYPE, "load_format": "dummy",
        "prompts": "synthetic", "batch_size": 1, "input_len": 128, "output_len": OUTPUT_LEN,
    }  # fmt: skip
    chosen: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": ROOM}
    cell = grid.make_cell(protocol, choices, backend="vllm", options=chosen, **point)
    return cell, Job(cells=[cell], model=model, protocol=protocol, session=1)


def truth(sessions: int, shapes: Sequence[tuple[int, int]]) -> Iterator[Line]:
    """Compare output tokens per second, alternating the sides in fresh processes.

    Two engines in one process cannot be compared: the one created first was 5 to 20 % slower here.
    """
    rates: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for session in range(sessions):
        for side in SIDES if session % 2 else reversed(SIDES):
            rates[side].append(_alone(side, session, shapes))
    for number, (batch_size, input_len) in enumerate(shapes):
        own, hand = (
            [math.log(session[number]) for session in rates[side]] for side in ("ours", "hand")
        )
        apart = [one - other for one, other in zip(own, hand, strict=True)]
        ratio = math.exp(statistics.fmean(apart))
        reach = intervals.half_width([math.exp(difference) for difference in apart])
        mean_own, mean_hand = (math.exp(statistics.fmean(side)) for side in (own, hand))
        behind = f"{mean_own:.2f} against {mean_hand:.2f}, {sessions} pairs"
        behind += f", 95 % interval ±{reach:.1%}" if reach is not None else ""
        promise = f"output tok/s, batch {batch_size}, in {input_len}"
        yield Line(promise, max(ratio, 1 / ratio), TRUTH, behind)


def _alone(side: str, session: int, shapes: Sequence[tuple[int, int]]) -> list[float]:
    """Return tokens per second for each shape, measured in a separate process."""
    words = [f"{batch_size}x{input_len}" for batch_size, input_len in shapes]
    command = [sys.executable, __file__, ALONE, side, str(session), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    rates: list[float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def by_ours(session: int, shapes: Sequence[tuple[int, int]]) -> Iterator[list[float]]:
    """Yield the seconds of our backend's calls for each shape, all with one engine."""
    cell, job = planned()
    engine = load(job)
    for batch_size, input_len in shapes:
        shaped = msgspec.structs.replace(cell, batch_size=batch_size, input_len=input_len)
        drawn = measure_prompts.synthetic(shaped, engine, 0, session)
        kept = Measurement(shaped)
        loop = Loop(engine, job.protocol, drawn, kept, telemetry.NoCounters(), lambda *_: None)
        engine.prepare(shaped)
        yield [_ours(loop, drawn("iteration", call)) for call in range(WARM + CALLS)]


def by_theirs(session: int, shapes: Sequence[tuple[int, int]]) -> Iterator[list[float]]:
    """Yield the seconds of calls of `LLM.generate`, with prompts drawn here."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = by_hand(Path(folder))
    wanted = SamplingParams(temperature=0, ignore_eos=True, max_tokens=OUTPUT_LEN, detokenize=False)
    drawn = random.Random(session)  # noqa: S311 - prompts, not secrets
    for batch_size, input_len in shapes:
        calls = []
        for _ in range(WARM + CALLS):
            prompts = [drawn.choices(range(1, VOCABULARY), k=input_len) for _ in range(batch_size)]
            calls.append(_by_hand(theirs, prompts, wanted))
        yield calls


def alone(side: str, session: int, shapes: Sequence[tuple[int, int]]) -> list[float]:
    """Return one side's tokens per second for each shape, from the median of its calls."""
    timed = {"ours": by_ours, "hand": by_theirs}[side](session, shapes)
    return [
        batch_size * OUTPUT_LEN / statistics.median(calls[WARM:])
        for (batch_size, _), calls in zip(shapes, timed, strict=True)
    ]


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
    """Compare the cost of recording a step with the time between two tokens at batch 1."""
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
    """A core that returns no output, immediately."""

    def get_output(self) -> None:
        """Return nothing."""


def main() -> int:
    """Print a line for each check; exit 1 if one fails."""
    if sys.argv[1:2] == [ALONE]:
        _, _, side, session, *words = sys.argv
        print(json.dumps(alone(side, int(session), _shapes(words))), flush=True)
        os._exit(0)  # skips the teardown of an engine
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    shapes = _shapes(sys.argv[2:]) or SHAPES
    print(f"{'promise':36} {'figure':>8} {'limit':>6}  behind it", flush=True)
    broken = sum(map(_print_line, truth(pairs, shapes)))
    cell, job = planned()
    engine = load(job)
    engine.prepare(cell)
    engine.generate(measure_prompts.synthetic(cell, engine, 0, 1)("memory", 0), OUTPUT_LEN)
    broken += sum(map(_print_line, stepping(engine)))
    facts = engine.facts
    print(f"\nvLLM {facts['vllm']}, torch {facts['torch']}, {facts['threads']} threads", flush=True)
    os._exit(1 if broken else 0)  # skips the teardown of an engine


def _shapes(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return batch and prompt tokens of words such as 4x128."""
    return [(int(batch), int(tokens)) for batch, _, tokens in (w.partition("x") for w in words)]


def _print_line(line: Line) -> bool:
    verdict = "BROKEN" if line.figure > line.limit else ""
    text = f"{line.promise:36} {line.figure:8.4f} {line.limit:6.2f}  {line.behind}  {verdict}"
    print(text.rstrip(), flush=True)
    return bool(verdict)


if __name__ == "__main__":
    sys.exit(main())
