"""Checks of `compare` and of intervals, each as a figure with its lower or upper limit.

`simulation` draws tables with a known truth; `coverage` sweeps a fake engine whose sessions spread around a true value,
and counts the intervals that contain it; `scale` times two runs of 10,000 cells; `same` measures the quickstart's tiny
models repeatedly and compares the runs; `sleep` adds 5 % to a real sleep. The last two need a quiet machine:

    scripts/bench-compare [simulation coverage scale same sleep] [--runs 21] [--backend fake] [--sweeps 10]
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parents[1]
sys.path.insert(0, str(HERE / "tests"))

from make_records import write  # noqa: E402 - after the path that has it
from simulated import Setting, simulate  # noqa: E402

LLMBENCH = (sys.executable, "-m", "llmbench")
TABLES = 2000
SHORT = "{sessions: 5, max_sessions: 5, min_time_s: 0.1, warmup_budget_s: 1.0}"
SAME = (
    "name: same\nwhy: To compare identical runs.\naxes: {{model: [llama-7b@tiny, mpt-7b@tiny], device: cpu,\n"
    "  batch_size: [1, 4], input_len: [32, 128], output_len: 16, backend: {backend}}}\nprotocol: {protocol}\n"
)
BACKENDS = {"transformers": "transformers", "fake": "{fake: {ttft_ms: 5.0, jitter: 0.02}}"}
"""With the first, importing torch for every round takes most of the time; the second really sleeps and imports
nothing."""
SLEEP = (
    "name: sleep\nwhy: To find a sleep that is 5 % longer.\n"
    "axes: {{model: llama-7b@tiny, device: cpu, input_len: 8, output_len: 16, batch_size: [1, 2, 3, 4, 5],\n"
    "  backend: {{fake: {{ttft_ms: 5.0, tpot_ms: [4.0, 4.2], call: [5, 6]}}}}}}\nprotocol: {protocol}\n"
)
"""`call` says when a fault happens; without a fault, its two values run the same code."""


SERVED = (
    "name: served\nwhy: To compare servers.\naxes: {{model: llama-7b@tiny, device: cpu, input_len: 40,\n"
    "  output_len: 12, load: {loads}, backend: {{fake_server: {{window_s: 0.7, jitter: 0.05, itl_ms: 5.0,\n"
    "  {script}}}}}}}\n"
    "protocol: {{sessions: 3, max_sessions: 3, warmup_budget_s: 0.3}}\n"
)
"""Each request takes 75 or 85 ms. `besides` counts tokens of text, of which these prompts have none: its two values
are the same server."""
SERVED_METRICS = ("served_ttft_s", "served_tpot_s", "served_e2e_s", "steady_output_tok_s")

SPREADS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05)
"""True standard deviations of a session's logarithm."""
TRUE_S = 0.008
"""5 ms to the first token and 3 of 1 ms."""
COVERAGE = (
    "name: coverage\nwhy: To count the intervals that contain the true value.\n"
    "axes: {{model: llama-7b@tiny, device: cpu, batch_size: 1-10+1, input_len: 1-10+1, output_len: 4,\n"
    "  backend: {{fake: {{clock: virtual, jitter: 0.005, session_spread: {spread}}}}}}}\n"
    "protocol: {{min_time_s: 0, warmup_budget_s: 0, seed: {seed}}}\n"
)
FEWEST_EARLY = 200
"""Cells that ended early, below which their coverage is not judged: its standard error is then over 1.5 %."""


class Line(NamedTuple):
    """The result of one check, with its figures."""

    promise: str
    kept: bool
    figures: str


def simulation(_: argparse.Namespace) -> Iterator[Line]:
    """Draw 2,000 tables of each kind."""
    for paired, sessions in itertools.product((False, True), (3, 5, 10)):
        how = f"{'paired' if paired else 'unpaired'}, {sessions} sessions"
        for alike in (None, 4):
            kind = "" if alike is None else ", unequal variances"
            nothing = simulate(
                Setting(changed=0, sessions=sessions, alike=alike, paired=paired), TABLES
            )
            yield Line(
                f"A/A, {how}{kind}",
                nothing.false <= 0.1,
                f"{nothing.false:.4f} of 120 cells called different",
            )
            yield Line(
                f"coverage, {how}{kind}",
                0.93 <= nothing.coverage <= 0.97,
                f"{nothing.coverage:.2%}",
            )
        few = simulate(Setting(8, 2, sessions, paired=paired), TABLES * 4)
        yield Line(f"coverage, {how}, 8 cells", 0.93 <= few.coverage <= 0.97, f"{few.coverage:.2%}")
        seen = simulate(Setting(sessions=sessions, paired=paired), TABLES)
        least = 6.0 if sessions == 3 else 9.5
        yield Line(
            f"-5 % found, {how}",
            seen.found >= least,
            f"{seen.found:.2f} of 10, {seen.false:.4f} falsely",
        )


def coverage(asked: argparse.Namespace) -> Iterator[Line]:
    """Sweep 100 cells several times at each true spread; count which intervals contain the true value."""
    for spread in SPREADS:
        contained: dict[bool, list[bool]] = {True: [], False: []}
        sessions = []
        for seed in range(asked.sweeps):
            for row in rows_of(COVERAGE.format(spread=spread, seed=seed)):
                value = row["values"]["e2e_s"]
                early = row["stopped"]["reason"] == "planned"
                contained[early].append(value["low"] <= TRUE_S <= value["high"])
                sessions.append(value["sessions"])
        both = contained[True] + contained[False]
        share, early_share = mean(both), mean(contained[True])
        judged = len(contained[True]) >= FEWEST_EARLY
        early = (
            f"{early_share:.1%} of {len(contained[True])} ended early" if judged else "few early"
        )
        yield Line(
            f"coverage at a true spread of {spread:.1%}",
            0.93 <= share <= 0.97 and (not judged or early_share >= 0.93),
            f"{share:.1%} of {len(both)} cells, {early}, {mean(sessions):.1f} sessions",
        )


def rows_of(sweep: str) -> list[dict[str, Any]]:
    """Measure a sweep and return the rows of its table."""
    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "sweep.yaml", Path(folder) / "run"
        file.write_text(sweep)
        swept(file, run)
        command = (*LLMBENCH, "table", run, "--metric", "e2e", "--format", "json")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows: list[dict[str, Any]] = json.loads(done.stdout)["cells"]
        return rows


def mean(values: list[Any]) -> float:
    """Return the mean; 0 without values."""
    return sum(values) / max(len(values), 1)


def scale(_: argparse.Namespace) -> Iterator[Line]:
    """Compare two runs of 10,000 cells with 3 sessions each."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / name for name in "ab"]
        for seed, run in enumerate(runs):
            write(run, 30_000, seed, run=run.name)
        took = []
        for _turn in range(3):
            start = time.perf_counter()
            subprocess.run((*LLMBENCH, "compare", *runs), stdout=subprocess.DEVNULL, check=False)
            took.append(time.perf_counter() - start)
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        yield Line("two runs of 10,000 cells", min(took) <= 3, f"{min(took):.2f} of 3 s")
        yield Line("memory for them", most <= 1, f"{most:.2f} of 1 GiB")


def same(asked: argparse.Namespace) -> Iterator[Line]:
    """Measure the same run repeatedly; compare consecutive runs, and all pairs."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "same.yaml"
        sweep.write_text(SAME.format(protocol=SHORT, backend=BACKENDS[asked.backend]))
        runs = [Path(folder) / f"{number:02}" for number in range(asked.runs)]
        for run in runs:
            swept(sweep, run)
        for name, pairs in (
            ("neighbours", list(itertools.pairwise(runs))),
            ("all pairs", list(itertools.combinations(runs, 2))),
        ):
            for metric in ("e2e_s", "ttft_s", "tpot_s"):
                made = [compared(a, b, "--metric", metric) for a, b in pairs]
                counts = added(made)
                false = counts["slower"] + counts["faster"]
                yield Line(
                    f"real A/A, {name}, {metric}",
                    false == 0 or name == "all pairs",
                    f"{false} of {sum(counts.values())} cells called different in {len(made)} comparisons: {counts}",
                )


def sleep(_: argparse.Namespace) -> Iterator[Line]:
    """Compare sleeps with sleeps that are 5 % longer, and with equal ones."""
    longer, equal = [], []
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sleep.yaml"
        sweep.write_text(SLEEP.format(protocol=SHORT))
        for turn in range(2):
            run = Path(folder) / str(turn)
            swept(sweep, run)
            longer.append(compared(run, "--by", "tpot_ms", "--metric", "tpot_s"))
            equal.append(compared(run, "--by", "call", "--metric", "tpot_s"))
    found, false = added(longer), added(equal)
    yield Line(
        "a sleep 5 % longer",
        found["slower"] >= 19,
        f"{found['slower']} of {sum(found.values())} slower",
    )
    wrong = false["slower"] + false["faster"]
    yield Line(
        "the same sleep", wrong == 0, f"{wrong} of {sum(false.values())} called different: {false}"
    )


def served(_: argparse.Namespace) -> Iterator[Line]:
    """Compare 60 cells of equal servers, and 20 with servers that are 5 % slower."""
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for name, loads, script in (
            ("equal", "1-30+1", "ttft_ms: [20.0, 30.0], besides: [3, 4]"),
            ("slower", "1-20+1", "ttft_ms: 20.0, slower: [1.0, 1.05]"),
        ):
            sweep = Path(folder) / f"{name}.yaml"
            sweep.write_text(SERVED.format(loads=loads, script=script))
            runs.append(Path(folder) / name)
            swept(sweep, runs[-1], codes=(0, 3))
        for metric in SERVED_METRICS:
            counts = added([compared(runs[0], "--by", "besides", "--metric", metric)])
            yield Line(
                f"served A/A, {metric}",
                counts["slower"] == 0,
                f"{counts['slower']} of {sum(counts.values())} cells called slower: {counts}",
            )
        found = added([compared(runs[1], "--by", "slower", "--metric", "served_e2e_s")])
        yield Line(
            "a server 5 % slower, at 3 sessions",
            found["slower"] >= 19,
            f"{found['slower']} of {sum(found.values())} slower: {found}",
        )


def swept(sweep: Path, run: Path, codes: tuple[int, ...] = (0,)) -> None:
    """Measure a sweep and require that it ends so: by default with every session valid."""
    command = (*LLMBENCH, "sweep", sweep, "-o", run)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in codes:
        done.check_returncode()


def compared(*arguments: str | Path) -> dict[str, Any]:
    """Return a comparison, as JSON."""
    command = (*LLMBENCH, "compare", *arguments, "--format", "json")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def added(made: list[dict[str, Any]]) -> dict[str, int]:
    """Return the number of cells per verdict over all comparisons."""
    verdicts = [one["candidates"][0]["verdicts"] for one in made]
    return {name: sum(counts[name] for counts in verdicts) for name in verdicts[0]}


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    "simulation": simulation, "coverage": coverage, "scale": scale, "same": same, "sleep": sleep,
    "served": served,
}  # fmt: skip


def main() -> int:
    """Print a line for each check; exit 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--runs", type=int, default=21, help="runs of `same`: one more than its neighbours"
    )
    parser.add_argument("--sweeps", type=int, default=10, help="of `coverage`, for each spread")
    parser.add_argument("--backend", choices=BACKENDS, default="transformers", help="of `same`")
    asked = parser.parse_args()
    broken = 0
    for name in asked.parts or PARTS:
        for line in PARTS[name](asked):
            broken += not line.kept
            print(
                f"{line.promise:52} {'kept' if line.kept else 'BROKEN':7} {line.figures}",
                flush=True,
            )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
