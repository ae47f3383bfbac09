"""The pages that users read: what they show is what the program prints, and what they name exists and runs."""

from __future__ import annotations

import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from ruamel.yaml import YAML

from llmbench import cli
from llmbench.results import requests_file
from llmbench.results.record import FORMAT, Line, Move, Place, Served, Status, Stop
from llmbench.spec.sweep import PROTOCOL

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "llmbench"
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "docs.py"))
rebuilt, MARKED = SCRIPT["rebuilt"], SCRIPT["MARKED"]

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in SCRIPT["pages"]()
}
COMMANDS = [
    (page, command)
    for page, text in PAGES.items()
    for block in re.findall(
        r"^```console\n(.*?)^```$", MARKED.sub("", text), re.DOTALL | re.MULTILINE
    )
    for command in re.findall(r"^\$ (.+)$", block, re.MULTILINE)
]

NOT_RUN = {
    "scripts/llmbench audit": "24 seconds; test_audit.py runs it",
    "llmbench builds quickstart .venv-old .venv-new": "needs two environments; test_builds.py makes them",
    "llmbench audit --client": "ten seconds; test_served_sweeps.py runs it",
    **{
        f"llmbench export results/2026-11-30-xeon-2cpu-quickstart --to {tracker} -o tracked": "needs its "
        "package; test_trackers.py runs it"
        for tracker in ("mlflow", "wandb")
    },
    **dict.fromkeys(
        (
            "llmbench sweep model.Q4_K_M.gguf --backend llamacpp --prompts LICENSE",
            "LLMBENCH_VENV=llamacpp scripts/llmbench sweep configs/sweeps/llamacpp.yaml",
            "LLMBENCH_VENV=llamacpp scripts/llmbench audit --parity configs/sweeps/llamacpp.yaml",
            "scripts/llmbench sweep configs/sweeps/speculative.yaml",
            "scripts/llmbench sweep configs/sweeps/lora.yaml",
            "scripts/llmbench sweep configs/sweeps/lora.yaml -o lora",
            "LLMBENCH_VENV=vllm scripts/llmbench sweep configs/sweeps/lora-vllm.yaml",
            *(
                "LD_LIBRARY_PATH=.venv-vllm/lib LD_PRELOAD=libiomp5.so LLMBENCH_VENV=vllm scripts/llmbench sweep "
                f"configs/sweeps/{name}-vllm.yaml"
                for name in ("speculative", "lengths")
            ),
            "scripts/llmbench compare lora --by lora --metric tpot_s",
            "llmbench sweep drafts.yaml -o drafts",
            "llmbench compare drafts --by speculative --metric tpot_s",
            "llmbench table drafts --metric tpot_s,tokens_per_step,accepted_share",
        ),
        "needs the model of scripts/get-model; test_backend_llamacpp.py, test_speculation.py and test_lora.py "
        "make their own",
    ),
    "scripts/llmbench machine --probe": "a minute; test_probe.py runs it",
    "scripts/llmbench sweep bigram.yaml -o bigram-run": "needs its backend; test_backend_page.py runs it",
}
"""Commands that are shown and not run here, with the reason."""
PROGRAMS = ("pip", "jq", "python", "python3", "git", "less", "tail", "mlflow", "wandb")
"""Programs that are not ours: what is shown of them is not run."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with the repository's data and the sweeps that the pages show."""
    for name in ("configs", "results", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    for text in PAGES.values():
        for sweep, name in re.findall(
            r"^```yaml\n(name: ([\w-]+)\n.*?)^```$", text, re.DOTALL | re.MULTILINE
        ):
            (tmp_path / f"{name}.yaml").write_text(sweep, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_generated_part_is_what_its_words_make(page: str) -> None:
    assert rebuilt(PAGES[page]) == PAGES[page], "run scripts/fix"


def test_a_part_that_was_edited_is_seen() -> None:
    text = PAGES["README.md"]
    first = MARKED.search(text)
    assert first is not None
    edited = text.replace(first[2], first[2] + "| 1 |\n", 1)

    assert rebuilt(edited) != edited


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}: {c}" for p, c in COMMANDS])
def test_a_command_that_is_shown_runs(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in shlex.split(command) if word != "LLMBENCH_VENV=vllm"]
    if command in NOT_RUN or words[0] in PROGRAMS:
        return
    if words[0] not in ("scripts/llmbench", "llmbench"):
        assert (ROOT / words[0]).exists(), page
        return
    arguments = list(itertools.takewhile(lambda word: word not in (">", "|"), words[1:]))
    if arguments[0] == "sweep" and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    monkeypatch.setattr(sys, "argv", ["llmbench", *arguments])

    code = cli.run(arguments)

    assert code == 0 or (arguments[0] == "compare" and code in (1, 3)), capsys.readouterr().err


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "@tiny" in text])
def test_a_scaled_down_copy_is_explained_where_it_first_stands(page: str) -> None:
    text = " ".join(PAGES[page].split())
    first = text.index("@tiny")

    assert "scaled-down copy" in text[max(0, first - 100) : first + 100]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "command",
    [
        "table results/2026-11-30-xeon-2cpu-quickstart",
        "fit results/2026-11-30-xeon-2cpu-quickstart",
        "table results/2026-11-30-xeon-2cpu-quickstart --predicted",
        "report results/2026-11-30-xeon-2cpu-quickstart --format markdown",
        "compare results/2026-11-30-xeon-2cpu-quickstart --by model",
        "sweep configs/sweeps/quickstart.yaml --dry-run",
    ],
)
def test_a_scaled_down_copy_is_said_to_be_another_model(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(command.split()) in (0, 1, 3)

    assert "a scaled-down copy with two layers, not the model" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.usefixtures("folder")
def test_the_lines_for_pandas_run(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    export = next(command for _, command in COMMANDS if "sessions.parquet" in command)
    (lines,) = re.findall(
        r"^```python\n(.*?)^```$", PAGES["docs/importing.md"], re.DOTALL | re.MULTILINE
    )

    assert cli.run(shlex.split(export)[1:]) == 0
    exec(lines, {})  # noqa: S102 - the page's own lines

    assert "llama-7b@tiny" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_a_path_that_is_named_exists(page: str) -> None:
    named = re.findall(r"`((?:configs|docs|results|scripts|src|tests)/[\w./@-]+)`", PAGES[page])

    assert [
        path
        for path in named
        if "NAME" not in path and not any((place / path).exists() for place in (ROOT, SOURCE))
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_link_leads_to_a_page_and_a_heading(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", PAGES[page]):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


def anchors(text: str) -> set[str]:
    """Return the names by which the headings of a page can be linked."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LONGEST_README = 12_000
"""Bytes: a screen and a page. What does not fit belongs into docs/."""
UNPLAIN = re.compile(r"\b(?:beside|nought|whoever)\b", re.IGNORECASE)
"""Words that read as a riddle; generated parts have their words elsewhere."""


def test_the_readme_is_short_and_links_every_page() -> None:
    text = PAGES["README.md"]

    assert len(text.encode()) <= LONGEST_README
    assert [page for page in PAGES if page.startswith("docs/") and f"({page})" not in text] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/architecture.md"])
def test_a_page_is_in_plain_words_and_names_no_module(page: str) -> None:
    text = re.sub(
        r"^```python\n.*?^```$", "", MARKED.sub("", PAGES[page]), flags=re.DOTALL | re.MULTILINE
    )

    assert UNPLAIN.findall(text) == []
    assert re.findall(r"src/llmbench/\w+\.py|`\w+\.py`", text.replace("`__init__.py`", "")) == []


# -- pages that list everything --------------------------------------------------------------------


def test_the_page_on_the_format_has_every_kind_of_line_and_every_status() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGES["docs/file-format.md"], re.MULTILINE))

    assert {str(status) for status in Status} <= named
    assert {kind.__struct_config__.tag for kind in get_args(Line)} <= named


def test_the_page_on_the_format_has_the_versions_and_every_reason_to_stop() -> None:
    page = PAGES["docs/file-format.md"]
    reasons = get_args(get_type_hints(Stop)["reason"])

    assert f"a `format`, now {FORMAT}, and each record a `protocol`, now {PROTOCOL}." in page
    assert [reason for reason in reasons if f"`{reason}`" not in page] == []


def described(heading: str) -> set[str]:
    """Return the keys that the tables under a heading of the page on the format describe."""
    _, _, rest = PAGES["docs/file-format.md"].partition(f"\n{heading}\n")
    depth = heading.partition(" ")[0]
    text = re.split(rf"^#{{1,{len(depth)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`.+?`) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize(
    ("heading", "wanted"),
    [
        ("## A served session", set(Served.__struct_fields__)),
        ("### The raw requests of a served session", set(requests_file.COLUMNS)),
        ("## A place and a move", {*Place.__struct_fields__, *Move.__struct_fields__} - {"format"}),
    ],
)
def test_the_page_on_the_format_describes_every_field(heading: str, wanted: set[str]) -> None:
    assert wanted - described(heading) == set()


def test_the_page_on_the_format_describes_what_a_served_record_has() -> None:
    lines = (ROOT / "results").glob("*-served/records.jsonl")
    served = [
        line["outcome"]["served"]
        for path in lines
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())
        if line["kind"] == "end"
    ]
    written = {
        key for one in served for part in ("figures", "client", "server") for key in one[part]
    }

    assert len(written) > 20
    assert written - described("## A served session") == set()


def test_the_pages_count_models_and_published_figures_rightly() -> None:
    models = list((ROOT / "configs" / "models").glob("*.yaml"))
    files = (ROOT / "configs" / "baselines").glob("*.csv")
    figures = sum(len(path.read_text(encoding="utf-8").splitlines()) - 1 for path in files)

    assert f"lists the {len(models)} models" in PAGES["docs/quickstart.md"]
    assert f"compares with {figures} dated figures" in PAGES["docs/claims.md"]


# -- the workflow of docs/comparing.md -------------------------------------------------------------

PYTHON = f"""#!/usr/bin/env bash
mkdir -p "$4/bin"
printf '#!/bin/sh\n' >"$4/bin/pip"
printf '#!/bin/sh\nexec {sys.executable} -m llmbench "$@"\n' >"$4/bin/llmbench"
printf '#!/bin/sh\nexec {sys.executable} "$@"\n' >"$4/bin/python"
chmod +x "$4"/bin/*
"""
"""A `python -m venv --clear FOLDER` whose pip installs nothing and whose llmbench is the one under test."""

BENCH = """
name: bench
why: Show that the workflow works.
axes:
  model: llama-7b@tiny
  backend: {fake: {clock: virtual FAULT}}
  device: cpu
  batch_size: [1, 2]
  input_len: 8
  output_len: 4
protocol: {sessions: 2, max_sessions: 2, min_time_s: 0}
"""


def steps() -> list[str]:
    """Return the shell commands of the workflow, a text each step."""
    [text] = re.findall(
        r"^```yaml\n(on: .*?)^```$", PAGES["docs/comparing.md"], re.DOTALL | re.MULTILINE
    )
    workflow = YAML(typ="safe", pure=True).load(text)
    return [step["run"] for step in workflow["jobs"]["speed"]["steps"] if "run" in step]


def run_step(folder: Path, step: str) -> int:
    """Run one step as GitHub does and return its exit code."""
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
    }
    done = subprocess.run(
        ("bash", "-e", "-c", step), cwd=folder, env=environment, check=False, capture_output=True
    )
    return done.returncode


@pytest.mark.parametrize(
    ("fault", "code"),
    [pytest.param("", 0, marks=pytest.mark.slow), (", fault: oom, when: batch_size=2", 3)],
)
def test_the_workflow_compares_and_fails_if_a_cell_is_missing(
    tmp_path: Path, fault: str, code: int
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    bench = tmp_path / "candidate" / "bench.yaml"
    bench.parent.mkdir()
    bench.write_text(BENCH.replace(" FAULT", fault))
    stale = tmp_path / "runs" / "baseline" / "stale"
    stale.mkdir(parents=True)

    codes = [run_step(tmp_path, step) for step in steps()]

    assert codes == [0, 0, code]
    assert "verdict" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert (tmp_path / "compare.html").exists()
    assert not stale.exists()


def test_no_common_job_takes_more_words_than_elsewhere() -> None:
    table = PAGES["docs/quickstart.md"].partition("| job | with llmbench |")[2]
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| `([^`]+)` \|$", table, re.MULTILINE)

    assert len(rows) == 5
    assert [row for row in rows if len(row[0].split()) > len(row[1].split())] == []
