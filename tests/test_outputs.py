"""What every reading command prints, in every format, held to files under outputs/: a net under refactoring.

A changed file is either a mistake or a change that users see; `scripts/fix` writes the files anew, and the
commit's diff then shows what users see. Each file holds the command, its exit code, stdout and stderr.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import itertools
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from llmbench import cli, report
from llmbench.results import lines as results_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
OUTPUTS = Path(__file__).parent / "outputs"

REBUILDING = bool(os.environ.get("LLMBENCH_REBUILD"))
"""Whether to write the files instead of comparing with them, as `scripts/fix` does."""

LINES_SHOWN = 80
"""Of a difference; the rest can be seen with `scripts/fix` and `git diff`."""

RUNS = {
    "seven": "results/2026-11-30-xeon-2cpu-cpu-7b",
    "small": "results/2026-11-30-xeon-2cpu-cpu-small",
    "older": "tests/golden/protocol-1-november-23",
    "quick": "results/2026-11-30-xeon-2cpu-quickstart",
    "engines": "results/2026-11-30-xeon-2cpu-cpu-engines",
    "claims": "results/2026-11-30-xeon-2cpu-claims-cpu",
    "context": "results/2026-11-30-xeon-2cpu-claims-cpu-context",
    "edge": "results/2026-11-30-xeon-2cpu-claims-cpu-edge",
    "tiers": "results/2026-11-30-xeon-2cpu-claims-cpu-tiers",
    "failed": "tests/golden/format-1",
    "newer": "tests/golden/format-2",
}
"""Committed runs by the names that the commands below give them; the last two hold failures."""

PARTS = {"first": (1,), "others": (2, 3)}
"""Unfinished runs, made of these sessions of `quick`."""

SIX = "{small} {seven} {claims} {context} {edge} {tiers} --usd-per-hour 0.1"
"""What the README's table of claims is made from."""

FORMATS = {
    **{format: ["--format", format] for format in ("terminal", "markdown", "csv", "json", "junit")},
    "wide": ["--format", "terminal"],
    "html": ["--format", "html", "--output", "page.html"],
    "plain": [],
}
"""The arguments that each format adds. `wide` is a terminal of 200 columns, all others have 80."""

PEOPLE = "terminal wide markdown"
FOUR = f"{PEOPLE} csv json"
FIVE = f"{FOUR} html"
"""Every format of `llmbench.report`; each command has a row with all of them."""


class Row(NamedTuple):
    """A command, how its files begin, and the formats that it is written in."""

    name: str
    command: str
    formats: str


ROWS = (
    Row("table-quick", "table {quick}", FIVE),
    *(Row(f"table-{run}", f"table {{{run}}}", FOUR) for run in ("engines", "failed")),
    *(Row(f"table-{run}", f"table {{{run}}}", f"{PEOPLE} csv") for run in RUNS if run in "seven small older claims"),
    *(Row(f"table-{run}", f"table {{{run}}}", "wide csv") for run in ("context", "edge", "tiers")),
    Row("table-sessions", "table {quick} --per-session", "terminal wide markdown csv json"),
    Row("table-sessions-failed", "table {failed} --per-session", "terminal csv"),
    Row("table-newer", "table {newer}", f"{FIVE} junit"),
    Row("table-unfinished", "table first", FOUR),
    Row("table-all-metrics", "table {engines} --metric all", "wide markdown csv html"),
    Row("table-shares", "table {claims} --metric mfu_prefill,mbu_decode", PEOPLE),
    Row("table-predicted", "table {engines} --predicted", FIVE),
    Row("table-predicted-memory", "table {context} --predicted", FOUR),
    Row("table-predicted-by-none", "table {small} --predicted", "terminal html"),
    Row("compare-engines", "compare {engines} --by backend", FIVE),
    Row("compare-tpot", "compare {engines} --by backend --metric tpot_s --margin 10%", PEOPLE),
    Row("compare-memory", "compare {small} --by model --metric host_peak_rss_bytes", FIVE),
    Row("compare-two-runs", "compare {claims} {tiers}", FIVE),
    Row("compare-parts", "compare first others", f"{FIVE} junit"),
    Row("compare-cells-missing", "compare {older} {quick} --cross-machine", "terminal wide csv json html"),
    Row("compare-failed", "compare {failed} {newer}", "terminal csv json"),
    Row("compare-refused", "compare {older} {quick}", "terminal json html"),
    Row("calibrate-quick", "calibrate {quick}", FIVE),
    Row("calibrate-small", "calibrate {small} --within 0.05", "terminal"),
    Row("fit-small", "fit {small}", FIVE),
    *(Row(f"fit-{run}", f"fit {{{run}}}", FOUR) for run in ("engines", "failed")),
    Row("fit-tiers", "fit {tiers}", "terminal json"),
    Row("cost-output", "cost {small} --usd-per-hour 0.1 --tpot-under 20ms", FOUR),
    Row("cost-total", "cost {claims} --usd-per-hour 0.1 --charge total --utilisation 0.5", FOUR),
    Row("cost-split", "cost {engines} --usd-per-hour 2 --charge split", FOUR),
    Row("cost-api", "cost {seven} --usd-per-hour 0.1 --against gpt-4o-mini", FIVE),
    Row("cost-refused", "cost {small} --price aws", "terminal"),
    Row("claims-known", "claims", FIVE),
    Row("claims-six", f"claims {SIX}", FIVE),
    Row("claims-one", "claims {small} --claim edge-models --claim verify-budget", FIVE),
    Row("claims-published", "claims {small} {seven} --published", FIVE),
    Row("claims-plan", "claims --plan moe-cuts-cost -o plan.yaml", "plain"),
    Row("models-all", "models", FIVE),
    Row("sweeps-all", "sweeps", FIVE),
    Row("backends-vllm", "backends vllm", FIVE),
    Row("backends-unknown", "backends vlm", "terminal json"),
    Row("models-llama-7b", "models llama-7b", FIVE),
    Row("models-mixtral-8x7b-v0.1", "models mixtral-8x7b-v0.1", FOUR),
    Row("models-unknown", "models mpt-7b@small", "terminal json"),
    Row("machine-h200", "machine h200", FIVE),
    Row("machine-list", "machine --list", "terminal csv json"),
    Row("machine-several", "machine h100", "terminal"),
    Row("sweep-example", "sweep --example", "plain"),
    *(Row(f"machine-{name}", f"machine {name}", "terminal json") for name in ("a10g", "epyc-9654")),
    Row("dry-run-7b", "sweep configs/sweeps/gpu-7b.yaml --dry-run --machine h200", FIVE),
    Row("dry-run-large", "sweep configs/sweeps/gpu-large.yaml --dry-run --machine l4", FIVE),
    Row("dry-run-vllm", "sweep configs/sweeps/gpu-vllm.yaml --dry-run --machine l4*2", "terminal json"),
    Row("dry-run-flags", "sweep --model pythia-1b --batch-size 1,8 --device cuda --dry-run --machine t4", "terminal"),
    Row("export-quick", "export {quick} --format vllm-json", "plain"),
    Row("export-failed", "export {failed} --format vllm-json", "plain"),
    Row("report-two", "report {quick} {older}", "terminal csv html"),
    Row("report-engines", "report {engines}", FIVE),
    Row("report-six", "report {small} {seven} {claims} {context} {edge} {tiers}", "html"),
    Row("report-failed", "report {failed}", "terminal html"),
    Row("cell-small", "cell configs/sweeps/cpu-small.yaml f0344a06da", "plain"),
    Row("cell-unknown", "cell configs/sweeps/cpu-small.yaml 0f4c1518f5", "plain"),
    Row("audit-quick", "audit {quick}", "terminal json"),
    Row("audit-engines", "audit six", FIVE),
    *(
        Row(f"import-{path.stem}", f"import tests/importers/{path.name} -o imported", "plain")
        for path in sorted((ROOT / "tests" / "importers").glob("*.json*"))
    ),
    Row("import-formats", "import tests/importers/llama_bench.jsonl -o imported", "markdown csv"),
)  # fmt: skip

CASES = [(row, format) for row in ROWS for format in row.formats.split()]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that holds the committed runs only, with nothing of this user, machine or terminal."""
    for path in ("configs", "tests", *RUNS.values()):
        if not (tmp_path / path).exists():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).symlink_to(ROOT / path)
    for name, sessions in PARTS.items():
        part(ROOT / RUNS["quick"], tmp_path / name, sessions)
    twice(ROOT / RUNS["engines"], tmp_path / "six")
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("LLMBENCH_", "XDG_", "HF_", "FORCE_", "TTY_")):
            monkeypatch.delenv(name)
    pinned = {
        "LLMBENCH_STATE": "state", "HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "TZ": "UTC",
        "NO_COLOR": "1", "TERM": "xterm", "LC_ALL": "C.UTF-8", "LINES": "25", "COLUMNS": "80",
    }  # fmt: skip
    for name, value in pinned.items():
        monkeypatch.setenv(name, value)


def part(run: Path, folder: Path, sessions: tuple[int, ...]) -> None:
    """Write some of a run's sessions as a run of their own."""
    lines = (run / "records.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line).get("session", sessions[0]) in sessions]
    folder.mkdir()
    (folder / "records.jsonl").write_bytes(b"".join(kept))


def twice(run: Path, folder: Path) -> None:
    """Write a run of three sessions as one of six, the last three like the first."""
    lines = (run / "records.jsonl").read_bytes().splitlines(keepends=True)
    again = []
    for line in lines:
        record = json.loads(line)
        if "session" in record:
            record["session"] += 3
            record.pop("crc32", None)
            again.append(results_lines.seal(json.dumps(record, separators=(",", ":")).encode()))
    folder.mkdir()
    (folder / "records.jsonl").write_bytes(b"".join([*lines, *again]))


@pytest.mark.parametrize(
    ("row", "format"), CASES, ids=[f"{row.name}.{format}" for row, format in CASES]
)
def test_a_command_prints_what_it_printed(
    row: Row, format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*row.command.format(**RUNS).split(), *FORMATS[format]]
    monkeypatch.setattr(sys, "argv", ["llmbench", *arguments])
    if format == "wide":
        monkeypatch.setenv("COLUMNS", "200")

    code = cli.run(arguments)

    printed = capsys.readouterr()
    text = whole(arguments, code, printed.out, printed.err)
    hold(OUTPUTS / f"{row.name}.{format}.txt", text)


def test_every_kept_file_belongs_to_a_row() -> None:
    known = {f"{row.name}.{format}.txt" for row, format in CASES}
    others = [path for path in OUTPUTS.iterdir() if path.name not in known]
    if REBUILDING:
        for path in others:
            path.unlink()
        return

    assert others == []
    assert len(known) == len(CASES)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_that_answers_has_a_row_in_all_formats(command: str) -> None:
    formats = {
        form for row in ROWS if row.command.startswith(command) for form in row.formats.split()
    }

    assert formats >= set(report.FORMATS) or command in {
        "agent",
        "cell",
        "export",
        "import",
        "builds",
    }


def hold(path: Path, text: str) -> None:
    """Compare a text with the file that keeps it, or write the file where that is asked for."""
    if REBUILDING:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    if kept == text:
        return
    lines = difflib.unified_diff(
        kept.splitlines(), text.splitlines(), f"{path.name}, kept", "printed now", lineterm=""
    )
    shown = list(itertools.islice(lines, LINES_SHOWN + 1))
    cut = ["... and more"] if len(shown) > LINES_SHOWN else []
    advice = "If users are to see this, run `scripts/fix` and commit tests/outputs with the change."
    pytest.fail("\n".join([*shown[:LINES_SHOWN], *cut, "", advice]), pytrace=False)


def whole(arguments: list[str], code: int, out: str, err: str) -> str:
    """Return all that a command said, without what differs between machines, days and installed packages."""
    said = [f"$ llmbench {' '.join(arguments)}", f"exit {code}", "", out]
    if err:
        said += ["-- stderr", err]
    for name in ("page.html", "plan.yaml"):
        if Path(name).exists():
            text = Path(name).read_text(encoding="utf-8")
            said += [f"-- {name}", visible(text) if name.endswith("html") else text]
    text = "\n".join(said).replace(str(Path.cwd()), "FOLDER")
    text = re.sub(r'(?m)^(  "llmbench": "|llmbench )\d+\.\d+\.\w+', r"\1VERSION", text)
    if arguments[0] == "import":
        text = text.replace(dt.datetime.now(dt.UTC).date().isoformat(), "TODAY")
    text = re.sub(r"page.html: (\d\.\d MB|\d+ kB)", "page.html: N MB", text)
    return f"{rounded(text).rstrip()}\n"


def rounded(text: str) -> str:
    """Return the text with nine digits of each long number: the last ones differ between versions of numpy."""
    long = re.compile(r"(?<![\w.-])-?\d+\.\d{9,}(?:e[+-]?\d+)?(?![\w.])")
    return long.sub(lambda number: f"{float(number[0]):.9g}", text)


# -- pages -----------------------------------------------------------------------------------------


def visible(page: str) -> str:
    """Return what a reader sees of a page: its text, its tables by rows, and of each plot a line."""
    reader = Reader()
    reader.feed(page)
    lines = (re.sub(r"\s+", " ", line).strip(" |") for line in "".join(reader.parts).splitlines())
    return "\n".join(line for line in lines if line)


class Reader(HTMLParser):
    """Gathers the visible text of a page."""

    INLINE = frozenset(
        {"a", "abbr", "b", "code", "em", "i", "q", "small", "span", "strong", "sub", "sup"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.skipped = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("td", "th"):
            self.parts.append(" | ")
        elif tag in ("script", "style"):
            self.skipped = dict(attrs).get("type") or tag
        elif tag not in self.INLINE:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.skipped = ""
        elif tag not in self.INLINE | {"td", "th"}:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self.skipped == "application/json":
            self.parts.append(f"\n[plot: {plot(json.loads(data))}]\n")
        elif not self.skipped:
            self.parts.append(data.replace("\n", " "))


def plot(spec: dict[str, object]) -> str:
    """Return the titles of a plot, the number of its values, and a digest of all that it says."""
    values = spec.get("data", {})
    titles = ", ".join(dict.fromkeys(found("title", spec)))
    count = len(values["values"]) if isinstance(values, dict) and "values" in values else 0
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    return f"{titles}; {count} values; {digest[:12]}"


def found(key: str, value: object) -> Iterator[str]:
    """Yield every text under a key, however deep."""
    if isinstance(value, dict):
        if isinstance(value.get(key), str):
            yield value[key]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from found(key, item)
