"""The harness held against its own promises, each as a ratio of two figures from this very run.

A ratio at or under its limit keeps the promise. Machines differ by a factor of three, so nothing is held against
seconds: each figure stands over another one of the same machine and the same minute. Run it on a quiet machine:

    scripts/bench-self [overhead start-up table import first-worker memory wall fork truth]
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from llmbench.backends import fake, load
from llmbench.errors import MEASURED
from llmbench.measure import prompts as measure_prompts
from llmbench.measure import telemetry
from llmbench.measure.loop import Loop, Measurement
from llmbench.models.resolve import Model
from llmbench.results.record import Job
from llmbench.run import messages
from llmbench.spec import grid
from llmbench.spec import sweep as spec_sweep
from llmbench.stats import interval as intervals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parents[1]
INPUT_LEN, OUTPUT_LEN, VOCABULARY = 64, 24, 32_000


class Line(NamedTuple):
    """One promise: the ratio measured, the most it may be, and the figures behind it."""

    promise: str
    ratio: float
    limit: float
    figures: str

    @property
    def kept(self) -> bool:
        """Return whether the promise is kept."""
        return self.ratio <= self.limit


class NoFigure(Exception):  # noqa: N818 - it is no error of the program's
    """A promise that this run cannot be held against, with the reason."""


PAIRS = 6
"""Pairs of model copies for each shape: the replicates, because two copies of one model differ by where they lie."""
WARM_UP_TURNS, FEWEST_TURNS, MOST_TURNS = 2, 4, 15
PAIR_S = 3.0
"""The seconds after which a pair takes no further turn, so that all shapes are done in a few minutes."""
WITHIN = 1.02


class Times(NamedTuple):
    """Seconds of one call: to the first token, and for each further one."""

    ttft: float
    tpot: float


def truth() -> Iterator[Line]:
    """Compare ttft and tpot with a hand-written loop, over several pairs of copies made in either order.

    No shape's interval may lie wholly beyond the limit, and the interval over all shapes must lie within it. Beside
    each stands by hand against by hand, which is the noise.
    """
    ours: dict[str, list[float]] = {name: [] for name in Times._fields}
    by_hand: dict[str, list[float]] = {name: [] for name in Times._fields}
    for dtype, hidden, batch_size in itertools.product(
        ("float32", "bfloat16"), (256, 512, 1024), (1, 8)
    ):
        template = _by_users(hidden, dtype)  # to copy it is faster than to draw its weights again
        pairs = [_pair(template, dtype, batch_size, ours_first=not n % 2) for n in range(PAIRS)]
        for name in Times._fields:
            ratios, noise = ([getattr(each[side], name) for each in pairs] for side in (0, 1))
            ours[name] += ratios
            by_hand[name] += noise
            promise = f"{name}, {dtype}, hidden {hidden}, batch {batch_size}"
            inside = intervals.around(ratios)
            nearest = max(1.0, inside.low, 1 / inside.high)
            yield Line(promise, nearest, WITHIN, _beside(ratios, noise))
    for name in Times._fields:
        over_all = intervals.around(ours[name])
        farthest = max(over_all.high, 1 / over_all.low)
        yield Line(f"{name}, all shapes", farthest, WITHIN, _beside(ours[name], by_hand[name]))


def _beside(ratios: list[float], noise: list[float]) -> str:
    """Return a ratio with its interval, and that of by hand against by hand."""
    texts = [
        f"{each.value:.4f} ({each.low:.4f} to {each.high:.4f})"
        for each in (intervals.around(ratios), intervals.around(noise))
    ]
    return f"{texts[0]}, by hand against by hand {texts[1]}"


def _pair(template: Any, dtype: str, batch_size: int, *, ours_first: bool) -> tuple[Times, Times]:
    """Make new copies, in this order, and let them take turns; return ours over by hand, and by hand over by hand."""
    early = [] if ours_first else [copy.deepcopy(template) for _ in range(2)]
    cell, loop = _transformers_loop(dtype, template.config.hidden_size, batch_size)
    copies = early or [copy.deepcopy(template) for _ in range(2)]
    for model in copies:
        model.load_state_dict(loop.engine._model.state_dict())  # type: ignore[attr-defined]  # noqa: SLF001
    times: list[list[Times]] = [[], [], []]
    start = time.perf_counter()
    for turn in range(WARM_UP_TURNS + MOST_TURNS):
        prompts = loop.workload("iteration", turn)
        for number in (turn % 3, (turn + 1) % 3, (turn + 2) % 3):
            took = (
                _ours(loop, prompts)
                if number == 2
                else _by_hand(copies[number], prompts, cell.output_len)
            )
            if turn >= WARM_UP_TURNS:
                times[number].append(took)
        if len(times[2]) >= FEWEST_TURNS and time.perf_counter() - start > PAIR_S:
            break
    one, other, mine = (
        [statistics.median(column) for column in zip(*each, strict=True)] for each in times
    )
    ratio = Times(*(a / b for a, b in zip(mine, one, strict=True)))
    return ratio, Times(*(a / b for a, b in zip(other, one, strict=True)))


def _by_users(hidden: int, dtype: str) -> Any:
    """Return a model of our own making: what the engine did to its own stays there."""
    config = AutoConfig.for_model("llama", **_config(hidden))
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


def _ours(loop: Loop, prompts: list[list[int]]) -> Times:
    sample, _ = loop._once(prompts)  # noqa: SLF001 - the loop is what is being tested
    assert sample.e2e_ns
    first = sample.token_ns[0][0]
    return Times(first / 1e9, (sample.e2e_ns - first) / (OUTPUT_LEN - 1) / 1e9)


@torch.inference_mode()
def _by_hand(model: Any, prompts: list[list[int]], output_len: int) -> Times:
    """Generate as a person would write it down: one forward for the prompt, one for each further token."""
    start = time.perf_counter()
    tokens = torch.tensor(prompts)
    cache = DynamicCache(config=model.config)
    logits = model(tokens, cache=cache, use_cache=True, logits_to_keep=1).logits
    token = logits[:, -1].argmax(-1, keepdim=True)
    first = time.perf_counter() - start
    out = [token]
    for _ in range(output_len - 1):
        logits = model(token, cache=cache, use_cache=True, logits_to_keep=1).logits
        token = logits[:, -1].argmax(-1, keepdim=True)
        out.append(token)
    torch.cat(out, 1).tolist()
    return Times(first, (time.perf_counter() - start - first) / (output_len - 1))


def _transformers_loop(dtype: str, hidden: int, batch_size: int) -> tuple[spec_sweep.Cell, Loop]:
    model = Model(
        name="llama", source="catalogue", location=None, model_type="llama", config=_config(hidden),
        vocab_size=VOCABULARY, max_positions=2048, digest="",
    )  # fmt: skip
    return _loop("transformers", model, batch_size, dtype)


def _config(hidden: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": 4,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
        "vocab_size": VOCABULARY,
    }


def _loop(backend: str, model: Model, batch: int, dtype: str) -> tuple[spec_sweep.Cell, Loop]:
    point = {
        "model": model.name, "device": "cpu", "dtype": dtype, "load_format": "dummy", "prompts": "synthetic",
        "batch_size": batch, "input_len": INPUT_LEN, "output_len": OUTPUT_LEN,
    }  # fmt: skip
    known = {"transformers": {}, "fake": fake.OPTIONS}
    choices = grid.Choices({model.name: model.digest}, known, "cpu", {})
    protocol = spec_sweep.Protocol()
    cell = grid.make_cell(protocol, choices, backend=backend, options={}, **point)
    engine = load(Job(cells=[cell], model=model, protocol=protocol, session=1))
    engine.prepare(cell)
    prompts = measure_prompts.synthetic(cell, engine, 0, 1)
    loop = Loop(
        engine, protocol, prompts, Measurement(cell), telemetry.NoCounters(), lambda *_: None
    )
    return cell, loop


def overhead() -> Iterator[Line]:
    """Time an engine that returns at once, against the shortest thing that is ever measured: a step of a tiny model."""
    step_us = _shortest_step_us()
    model = Model(
        name="none", source="catalogue", location=None, model_type=None, config={},
        vocab_size=None, max_positions=None, digest="",
    )  # fmt: skip
    cell, loop = _loop("fake", model, 1, "float32")
    loop.engine = Instant()  # type: ignore[assignment]
    loop.protocol = spec_sweep.Protocol(iterations=5000, max_iterations=5000, min_time_s=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    loop.say = lambda phase, iteration: messages.send(
        nowhere, messages.Progress(phase=phase, cell=cell.id, iteration=iteration)
    )
    start = time.perf_counter()
    loop._measure()  # noqa: SLF001 - the loop is what is being tested
    in_all = (time.perf_counter() - start) / 5000 * 1e6
    measured = statistics.median(sample.e2e_ns or 0 for sample in loop.taken.samples) / 1e3
    for what, took, limit in (
        ("added to a measured time", measured, 0.002), ("added to an iteration in all", in_all, 0.1),
    ):  # fmt: skip
        figures = f"{took:.2f} us over a step of {step_us:.0f} us"
        yield Line(f"{what}, over a step", took / step_us, limit, figures)


def _shortest_step_us() -> float:
    """Return the microseconds of a decode step of the smallest model here, whose arithmetic takes none of them."""
    _, loop = _transformers_loop("float32", 64, 1)
    prompts = loop.workload("iteration", 0)
    return min(_ours(loop, prompts)[1] for _ in range(20)) * 1e6


class Instant:
    """An engine that returns at once."""

    def generate(self, _prompts: Any, output_len: int) -> list[list[int]]:
        """Return the same list every time."""
        return _TOKENS if output_len == OUTPUT_LEN else []

    def token_ns(self) -> list[list[int]]:
        """Return the same times every time."""
        return _TOKENS

    def counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def synchronize(self) -> None:
        """Wait for nothing."""


_TOKENS = [[1] * OUTPUT_LEN]


def wall() -> Iterator[Line]:
    """Compare the wall time of a sweep with what its workers spent loading, warming up and measuring."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            "configs/sweeps/quickstart.yaml", "--num-iters-warmup", "2", "--batch-size", "1,2,4,8", "-o", str(run)
        ]  # fmt: skip
        start = time.perf_counter()
        _llmbench("sweep", *command)
        took = time.perf_counter() - start
        ends = _ends(run)
        inside = sum(record["outcome"]["cell_s"] for record in ends)
        # load_s is the worker's: counted once for each of them.
        inside += sum(
            {record["worker"]["pid"]: record["outcome"]["load_s"] for record in ends}.values()
        )
        yield Line(
            "wall time of a sweep",
            took / inside,
            1.15,
            f"{took:.1f} s for {inside:.1f} s in workers",
        )


def fork() -> Iterator[Line]:
    """Compare workers forked from a nursery with new interpreters, session by session in turn."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = 8
        runs = {nursery: Path(folder) / nursery for nursery in ("round", "session")}
        for session in range(1, sessions + 1):
            for nursery in runs if session % 2 else reversed(runs):
                _tiny_sweep(Path(folder), nursery, session)
        forked, fresh = (_medians(run) for run in runs.values())
        middle = [statistics.geometric_mean(times) for times in (forked, fresh)]
        spread = [statistics.stdev(times) / statistics.mean(times) for times in (forked, fresh)]
        figures = f"{middle[0]:.3f} ms against {middle[1]:.3f} ms, spreads {spread[0]:.1%} and {spread[1]:.1%}"
        off = max(middle[0] / middle[1], middle[1] / middle[0])
        yield Line(f"forked against new workers, {sessions} sessions", off, 1.02, figures)


def _tiny_sweep(folder: Path, nursery: str, sessions: int) -> None:
    sweep = folder / f"{nursery}.yaml"
    sweep.write_text(
        "name: fork\nwhy: To compare two ways of starting a worker.\n"
        "axes: {model: llama-7b@tiny, device: cpu, batch_size: 4, input_len: 128, output_len: 16}\n"
        f"protocol: {{nursery: {nursery}, max_sessions: 99}}\n"
    )
    _llmbench("sweep", str(sweep), "--sessions", str(sessions), "-o", str(folder / nursery))


def _medians(run: Path) -> list[float]:
    """Return each session's median end-to-end time in milliseconds."""
    ends = _ends(run)
    samples = [[sample["e2e_ns"] for sample in record["outcome"]["samples"]] for record in ends]
    return [statistics.median(times) / 1e6 for times in samples]


def start_up() -> Iterator[Line]:
    """Compare `--help` with a bare interpreter that imports typer and rich.table, turn by turn."""
    ours, bare = [], []
    for _ in range(15):
        ours.append(_timed([sys.executable, "-m", "llmbench", "--help"]))
        bare.append(_timed([sys.executable, "-c", "import typer, rich.table"]))
    figures = f"{min(ours) * 1e3:.0f} ms against {min(bare) * 1e3:.0f} ms"
    yield Line("llmbench --help over its two libraries", min(ours) / min(bare), 1.0, figures)


def table() -> Iterator[Line]:
    """Compare a table of 100,000 records, from the command to its end, with decoding the same lines untyped."""
    sys.path.insert(0, str(HERE / "tests"))
    from make_records import write  # noqa: PLC0415 - only this check needs it

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write(run, 100_000)
        decoding = [sys.executable, "-c", DECODE, str(run / "records.jsonl")]
        for form in ("terminal", "markdown", "csv"):
            command = [sys.executable, "-m", "llmbench", "table", str(run), "--format", form]
            pairs = [(_timed(command), _timed(decoding)) for _ in range(3)]
            took, decoded = (min(times) for times in zip(*pairs, strict=True))
            figures = f"{took:.2f} s over {decoded:.2f} s"
            yield Line(f"table of 100,000 records, {form}", took / decoded, 2.0, figures)


DECODE = """
import sys, msgspec
for line in open(sys.argv[1], "rb"):
    msgspec.json.decode(line)
"""
"""What no reader of the records can do without."""


def importing() -> Iterator[Line]:
    """Compare the import of another tool's file of 100 MB, to its table, with decoding it by the standard library."""
    fixture = HERE / "tests" / "importers" / "vllm_serve_detailed.json"
    requests, tokens = 18_000, 256
    held = {
        key: value
        for key, value in json.loads(fixture.read_bytes()).items()
        if not key.endswith("_ms")
    }
    gaps = [0.01 + n % 997 * 1.2345678901234e-5 for n in range(tokens - 1)]
    held |= {
        "num_prompts": requests, "completed": requests, "duration": 100.0, "errors": [""] * requests,
        "input_lens": [128] * requests, "output_lens": [tokens] * requests, "itls": [gaps] * requests,
        "ttfts": [0.1234567890123 + n * 1e-6 for n in range(requests)], "start_times": [1.5] * requests,
        "generated_texts": ["word " * 40] * requests, "total_input_tokens": 128 * requests,
        "total_output_tokens": tokens * requests, "output_throughput": tokens * requests / 100,
        "total_token_throughput": (128 + tokens) * requests / 100,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(json.dumps(held))
        decoding = [
            sys.executable,
            "-c",
            "import json, sys; json.load(open(sys.argv[1]))",
            str(path),
        ]
        pairs = []
        for turn in range(3):
            into = str(Path(folder) / f"run{turn}")
            command = [sys.executable, "-m", "llmbench", "import", str(path), "-o", into]
            pairs.append((_timed(command), _timed(decoding)))
        took, decoded = (min(times) for times in zip(*pairs, strict=True))
        megabytes = path.stat().st_size / 1e6
        figures = f"{took:.2f} s over {decoded:.2f} s"
        yield Line(f"import of {megabytes:.0f} MB", took / decoded, 3.0, figures)


def first_worker() -> Iterator[Line]:
    """Compare the wait for the first worker of 10,000 cells with that of one cell, turn by turn."""
    pairs = [(_first_begin_s("1-100", "1-100"), _first_begin_s("1", "1")) for _ in range(3)]
    many, one = (min(times) for times in zip(*pairs, strict=True))
    yield Line(
        "first worker of 10,000 cells over one", many / one, 3.0, f"{many:.2f} s over {one:.2f} s"
    )


def _first_begin_s(batch_sizes: str, input_lens: str) -> float:
    """Return the seconds from the command to the line that says that a worker begins."""
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "run" / "records.jsonl"
        start = time.perf_counter()
        with _fake_sweep(Path(folder), batch_sizes, input_lens) as process:
            while not (records.exists() and b'{"kind":"begin"' in records.read_bytes()):
                if process.poll() is not None:
                    raise NoFigure(
                        f"the sweep ended with {process.returncode} before a worker began"
                    )
                time.sleep(0.01)
            took = time.perf_counter() - start
            process.kill()
        return took


def memory() -> Iterator[Line]:
    """Follow the parent's memory over 500 cells: at the end against after the first 50."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _fake_sweep(Path(folder), "1-25", "1-20") as process,
    ):
        parent = psutil.Process(process.pid)
        seen: dict[int, int] = {}
        while process.poll() is None and len(seen) < 500:
            done = sum(record["kind"] == "end" for record in _records(Path(folder) / "run"))
            with_memory = parent.memory_info().rss if psutil.pid_exists(process.pid) else 0
            seen[done] = with_memory or seen.get(done, 0)
            time.sleep(0.2)
        if not seen or max(seen) < 50:
            raise NoFigure(f"only {max(seen, default=0)} of 500 sessions ended")
        early = next(rss for done, rss in sorted(seen.items()) if done >= 50)
        late = [rss for done, rss in sorted(seen.items()) if 50 <= done <= 500 and rss][-2:][0]
        figures = f"{late / 2**20:.1f} MiB against {early / 2**20:.1f} MiB"
        yield Line("the parent's memory over 500 cells", late / early, 1.05, figures)


def _fake_sweep(folder: Path, batch_sizes: str, input_lens: str) -> subprocess.Popen[bytes]:
    sweep = folder / "sweep.yaml"
    sweep.write_text(
        "name: bench\nwhy: To hold the harness against its promises.\n"
        "axes: {model: llama-7b@tiny, device: cpu, output_len: 4,\n"
        "  backend: {fake: {ttft_ms: 1, tpot_ms: 0, clock: virtual}},\n"
        f"  batch_size: {batch_sizes}, input_len: {input_lens}}}\n"
        "protocol: {sessions: 1, max_sessions: 1, min_time_s: 0, iterations: 3}\n"
    )
    command = [sys.executable, "-m", "llmbench", "sweep", str(sweep), "-o", str(folder / "run")]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL)


def _records(run: Path) -> list[dict[str, Any]]:
    path = run / "records.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines if b'"kind":"sweep"' not in line[:20]]


def _ends(run: Path) -> list[dict[str, Any]]:
    """Return the sessions of a run; raise NoFigure, with each that has no number, if there are any."""
    ends = [record for record in _records(run) if record["kind"] == "end"]
    without = [
        f"session {record['session']} of {record['id']}: {record['status']}, {record.get('reason')}"
        for record in ends
        if record["status"] != "ok"
    ]
    if without or not ends:
        raise NoFigure("; ".join(("these sessions have no number", *without)))
    return ends


def _llmbench(*arguments: str) -> None:
    """Run llmbench. What is wrong with its numbers is for the reader of its records to say."""
    command = [sys.executable, "-m", "llmbench", *arguments]
    done = subprocess.run(
        command, check=False, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode not in MEASURED:
        raise NoFigure(
            f"llmbench {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}"
        )


def _timed(command: list[str]) -> float:
    """Return the seconds that a command takes; raise NoFigure, with what it said, if it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        command, check=False, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    took = time.perf_counter() - start
    if done.returncode:
        said = done.stderr.strip()[-300:]
        raise NoFigure(f"{' '.join(command[1:3])} ended with {done.returncode}: {said}")
    return took


CHECKS: dict[str, Callable[[], Iterator[Line]]] = {
    "overhead": overhead, "start-up": start_up, "table": table, "import": importing,
    "first-worker": first_worker, "memory": memory, "wall": wall, "fork": fork, "truth": truth,
}  # fmt: skip


def main() -> int:
    """Print a line for each promise; exit 1 if one is broken, or has no figure."""
    broken = 0
    if unknown := [name for name in sys.argv[1:] if name not in CHECKS]:
        print(f"bench-self: no check {unknown[0]!r}; there are {' '.join(CHECKS)}", file=sys.stderr)
        return 2
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}, torch {torch.__version__}\n")
    print(f"{'promise':44} {'ratio':>7} {'limit':>6}  figures")
    for name in sys.argv[1:] or CHECKS:
        try:
            for line in CHECKS[name]():
                broken += not line.kept
                verdict = "kept" if line.kept else "BROKEN"
                told = f"{line.promise:44} {line.ratio:7.3f} {line.limit:6.3g}  {line.figures}  {verdict}"
                print(told, flush=True)
        except NoFigure as why:
            broken += 1
            print(f"{name:44} no figure: {why}  BROKEN", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
