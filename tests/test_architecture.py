"""The layers of the source: imports point down only. A folder is a layer: its modules know each other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "llmbench"

LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("report",),
    ("parity",),
    ("run",),
    ("places",),
    ("backends",),
    ("serve",),
    ("claims", "measure", "selftest"),
    ("compare", "cost", "importers", "predict"),
    ("results",),
    ("machine", "models"),
    ("numbers", "spec"),
    ("errors", "files", "interpreter", "redact", "stats"),
    ("__init__",),
)
"""A row may import from the rows under it: a command from everything, the statistics from nothing."""

DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}

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
            yield from badly_entered(parts, rest)


def badly_layered(parts: tuple[str, ...], other: str) -> Iterator[str]:
    own = parts[0]
    if own == other or own not in DEPTH:
        return
    if DEPTH.get(other, len(LAYERS)) <= DEPTH[own]:
        yield f"{'.'.join(parts)}: imports {other}, which is not below it"


def badly_entered(parts: tuple[str, ...], rest: str) -> Iterator[str]:
    """Yield a sentence if a name with an underscore is taken out of another folder."""
    *folder, _ = parts
    private = next(
        (n for n, name in enumerate(rest.split(".")) if name[:1] == "_" != name[1:2]), None
    )
    if private is not None and rest.split(".")[:private] not in (folder, list(parts)):
        yield f"{'.'.join(parts)}: enters {rest}, which is private"


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
    assert sum(len(names) for names in LAYERS) == len(DEPTH)


def test_few_modules_stand_outside_a_folder() -> None:
    assert len([path for path in SOURCE.glob("*.py") if not path.stem.startswith("__")]) <= 8


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {"spec/grid.py": "import llmbench.results", "results/a.py": ""},
            "spec.grid: imports results",
        ),
        ({"files.py": "from llmbench import cli", "cli.py": ""}, "files: imports cli"),
        ({"files.py": "def f():\n from llmbench.cli import main", "cli.py": ""}, "files: imports"),
        (
            {"report/csv.py": "from llmbench.commands import x", "commands/a.py": ""},
            "report.csv: imports",
        ),
        ({"run/worker.py": "import torch"}, "run.worker: imports torch outside backends"),
        ({"run/worker.py": "from transformers.cache import x"}, "run.worker: imports transformers"),
        ({"run/worker.py": "import_module('vllm')"}, "run.worker: imports vllm"),
        ({"files.py": "import_module(f'llmbench.cli.{x}')", "cli.py": ""}, "files: imports"),
        ({"results/store.py": "from . import record"}, "results.store: imports relatively"),
        ({"report/utils.py": ""}, "report.utils: the name says nothing"),
        ({"novelty.py": ""}, "novelty: has no row"),
        ({"run/a.py": "from llmbench.results import _b", "results/_b.py": ""}, "enters results._b"),
        (
            {"run/a.py": "from llmbench.results.b import _c", "results/b.py": ""},
            "enters results.b._c",
        ),
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
        "backends/fake.py": "import torch\nfrom llmbench.results.record import Sample\nimport numpy",
        "backends/other.py": "from llmbench.backends._mine import x\nfrom llmbench import __version__",
        "commands/sweep.py": "from llmbench.run import runner\nfrom llmbench import files",
        "run/runner.py": "import_module(name)",
        "results/record.py": "",
        "files.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert violations(tmp_path) == []


PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


def test_the_page_names_every_room() -> None:
    rows = re.findall(r"^\| `(\w+)/?` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(rows) == sorted(name for name in DEPTH if not name.startswith("__"))


def test_the_page_names_only_what_is_there() -> None:
    named = re.findall(r"`(\w+/[\w/]+\.py)`", PAGE.read_text(encoding="utf-8"))

    assert named
    ours = [name for name in named if not name.startswith("tests/")]
    assert [name for name in ours if not (SOURCE / name).is_file()] == []


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))

    assert {name: files for name, files in places.items() if len(files) > 1} == {}
