"""The layers of the source: imports point down only; the two halves meet only below both.

Adding a module means adding its name to a row. A folder is one name: its modules know each other.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "llmbench"

LAYERS = (
    ("ways in", ("__main__",)),
    ("ways in", ("cli",)),
    ("ways in", ("commands",)),
    ("ways in", ("audit", "invoke", "parity_report")),
    ("ways in", ("adhoc", "changed", "dryrun")),
    ("measuring", ("parity_check", "runner")),
    ("measuring", ("supervisor",)),
    ("measuring", ("foregone",)),
    ("measuring", ("ending", "plan", "progress", "standing", "watch")),
    ("measuring", ("launch", "parity_child")),
    ("measuring", ("nursery",)),
    ("measuring", ("worker",)),
    ("measuring", ("measure",)),
    ("measuring", ("workload", "predict", "probe")),
    ("measuring", ("limits",)),
    ("measuring", ("learned",)),
    ("measuring", ("roofline",)),
    ("measuring", ("footprint",)),
    ("measuring", ("backends",)),
    ("measuring", ("clock", "interrupt", "judge", "messages", "parity", "reap", "telemetry")),
    ("measuring", ("leavings",)),
    ("reading", ("accuracy",)),
    ("reading", ("verdicts",)),
    ("reading", ("published",)),
    ("reading", ("claims",)),
    ("reading", ("cost",)),
    ("reading", ("prices",)),
    ("reading", ("evidence",)),
    ("reading", ("listing",)),
    ("reading", ("reports",)),
    ("reading", ("compare", "exports")),
    ("reading", ("conditions",)),
    ("reading", ("fit", "matching", "overall", "table")),
    ("reading", ("importers",)),
    ("reading", ("calibrate",)),
    ("reading", ("iterations",)),
    ("reading", ("sides",)),
    ("reading", ("shares",)),
    ("reading", ("metrics", "tally")),
    ("reading", ("effects", "intervals", "sessions")),
    ("reading", ("moderation",)),
    ("shared", ("calibration", "ceilings")),
    ("shared", ("anonymously",)),
    ("shared", ("stats", "store")),
    ("shared", ("refuted",)),
    ("shared", ("frontier", "journal", "kept", "lock")),
    ("shared", ("anonymous",)),
    ("shared", ("record",)),
    ("shared", ("engine",)),
    ("shared", ("machine", "prediction")),
    ("shared", ("grid",)),
    ("shared", ("spec",)),
    ("shared", ("catalogue", "chips")),
    ("shared", ("model",)),
    ("shared", ("formulas", "tiny")),
    ("shared", ("shape", "yamlfile")),
    ("shared", ("configs", "digest", "files", "gpus", "guard", "interpreter", "reasons")),
    ("shared", ("redact",)),
    ("shared", ("secret_values",)),
    ("shared", ("secret_shapes",)),
    ("shared", ("secret_names",)),
    ("shared", ("errors",)),
    ("shared", ("__init__",)),
)
"""A row may import from the rows under it; measuring and reading know nothing of each other.

They meet in a file: so the store that writes and reads it is shared, and the interval that tells a sweep
when it has measured enough is the one that a table prints."""

DEPTH = {name: depth for depth, (_, names) in enumerate(LAYERS) for name in names}
HALF = {name: half for half, names in LAYERS for name in names}

APART = {("measuring", "reading"), ("reading", "measuring")}

ENGINES = {"accelerate", "torch", "transformers", "vllm"}
"""Loaded by a worker only, so imported in backends/ only."""

MEANINGLESS = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"}


def violations(source: Path) -> list[str]:
    """Return one sentence for each rule that a source tree breaks."""
    return [
        sentence
        for path in sorted(source.rglob("*.py"))
        for sentence in (*badly_named(source, path), *badly_imported(source, path))
    ]


def badly_named(source: Path, path: Path) -> Iterator[str]:
    parts = path.relative_to(source).with_suffix("").parts
    if MEANINGLESS & set(parts):
        yield f"{'.'.join(parts)}: the name says nothing"
    if parts[0] not in DEPTH:
        yield f"{'.'.join(parts)}: has no row in LAYERS"


def badly_imported(source: Path, path: Path) -> Iterator[str]:
    parts = path.relative_to(source).with_suffix("").parts
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package in ENGINES and parts[0] != "backends":
            yield f"{'.'.join(parts)}: imports {package} outside backends"
        if package == "":
            yield f"{'.'.join(parts)}: imports relatively"
        if package == "llmbench":
            yield from badly_layered(parts, target(source, rest))


def badly_layered(parts: tuple[str, ...], other: str) -> Iterator[str]:
    own = parts[0]
    if own == other or own not in DEPTH:
        return
    if (HALF[own], HALF.get(other)) in APART:
        yield f"{'.'.join(parts)}: the {HALF[own]} half imports {other} of the {HALF[other]} half"
    elif DEPTH.get(other, len(LAYERS)) <= DEPTH[own]:
        yield f"{'.'.join(parts)}: imports {other}, which is not below it"


def target(source: Path, rest: str) -> str:
    """Return the row name of `llmbench.<rest>`; what is no module belongs to the package itself."""
    first = rest.partition(".")[0]
    known = (source / first).is_dir() or (source / f"{first}.py").is_file()
    return first if first and known else "__init__"


def imports(path: Path) -> Iterator[str]:
    """Return every module that a file names in an import, in a function or for typing too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and called(node) in DYNAMIC:
            yield leading_text(node.args[0])


DYNAMIC = {"import_module", "__import__"}


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def leading_text(node: ast.expr) -> str:
    """Return the constant that a string or an f-string begins with."""
    first = node.values[0] if isinstance(node, ast.JoinedStr) else node
    return str(first.value) if isinstance(first, ast.Constant) else "unknown"


def test_the_source_keeps_its_layers() -> None:
    assert violations(SOURCE) == []


def test_every_name_has_one_row() -> None:
    assert sum(len(names) for _, names in LAYERS) == len(DEPTH)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"spec.py": "import llmbench.record", "record.py": ""}, "spec: imports record"),
        ({"spec.py": "from llmbench import cli", "cli.py": ""}, "spec: imports cli"),
        ({"spec.py": "def f():\n from llmbench.cli import main", "cli.py": ""}, "spec: imports"),
        ({"stats.py": "from llmbench.store import x", "store.py": ""}, "stats: imports store"),
        ({"reports/csv.py": "from llmbench.runner import x", "runner.py": ""}, "reading half"),
        ({"runner.py": "from llmbench.table import x", "table.py": ""}, "measuring half"),
        ({"worker.py": "import torch"}, "worker: imports torch outside backends"),
        ({"worker.py": "from transformers.cache import x"}, "worker: imports transformers"),
        ({"worker.py": "import_module('vllm')"}, "worker: imports vllm"),
        ({"measure.py": "import_module(f'llmbench.cli.{x}')", "cli.py": ""}, "measure: imports"),
        ({"store.py": "from . import record"}, "store: imports relatively"),
        ({"reports/utils.py": ""}, "reports.utils: the name says nothing"),
        ({"novelty.py": ""}, "novelty: has no row"),
    ],
)
def test_a_violation_is_seen(files: dict[str, str], sentence: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    found = violations(tmp_path)

    assert len(found) == 1
    assert sentence in found[0]


def test_what_is_allowed_is_not_seen(tmp_path: Path) -> None:
    files = {
        "backends/fake.py": "import torch\nfrom llmbench.record import Sample\nimport numpy",
        "backends/other.py": "from llmbench.backends.fake import x\nfrom llmbench import __version__",
        "commands/sweep.py": "from llmbench import runner, store",
        "runner.py": "import_module(name)",
        "store.py": "from llmbench.record import Record",
        "record.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert violations(tmp_path) == []


PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
TABLE = re.compile(r"^\| (\w[\w ]+) \| \|\n\| :-- \| :-- \|\n((?:\|.*\n)+)", re.MULTILINE)


def told(text: str) -> dict[str, list[str]]:
    """Return the modules that the tables of a page name, by the half that a table is of."""
    return {
        half.removeprefix("the ").removesuffix(" half").removesuffix(" by both"): [
            name.rstrip("/")
            for row in rows.splitlines()
            for name in re.findall(r"`([\w/]+)`", row.split("|")[1])
        ]
        for half, rows in TABLE.findall(text)
    }


def test_the_page_tells_every_module_once_and_in_its_half() -> None:
    halves = told(PAGE.read_text(encoding="utf-8"))

    assert {half: sorted(names) for half, names in halves.items()} == {
        half: sorted(name for name in HALF if HALF[name] == half and not name.startswith("__"))
        for half in dict.fromkeys(HALF.values())
    }


def test_the_page_names_folders_as_folders() -> None:
    names = re.findall(
        r"`([\w]+/?)`",
        "".join(rows for _, rows in TABLE.findall(PAGE.read_text(encoding="utf-8"))),
    )

    assert [name for name in names if name in DEPTH and (SOURCE / name).is_dir()] == []
